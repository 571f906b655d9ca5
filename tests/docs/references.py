"""What the documents of the published code bases name: flags, configuration keys, commands, files.

The documents are not part of the repository; they lie in a folder `shared/references` beside it, where there is one.
"""

import json
import os
import re
from pathlib import Path

import pytest

from tests.docs.pages import HOUSE

__all__ = ["names_in", "reference", "settings_keys"]

FOLDER_VARIABLE = "TASKLOOM_REFERENCES"

_FLAG = re.compile(r"(?<![\w<{/-])--?[a-zA-Z][\w-]*")
_SETTING = re.compile(r"(?<![\w.])([a-z_]{2,})=")
_QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FILE = re.compile(r"(?<![\w/])([\w./<>{}-]*\w\.(?:py|sh|ipynb|json|jsonl|csv|txt|yml|zip|gz|pt))\b")
_WORD = re.compile(r"[\w{},./<>-]*\w[/}>]?")


def reference(name: str) -> str:
    """Return a reference document, or skip the test where there is none."""
    folder = Path(os.environ.get(FOLDER_VARIABLE) or HOUSE.parent / "shared" / "references")
    if not (folder / f"{name}.md").is_file():
        pytest.skip(f"no reference documents at {folder} (set {FOLDER_VARIABLE} to the folder that holds them)")
    return (folder / f"{name}.md").read_text("utf-8")


def names_in(text: str) -> set[str]:
    """Return every flag, ``key=``, quoted word and file name of a document."""
    text = re.sub(r"https?://\S+|@\w+\{.*?^\}", "", text, flags=re.MULTILINE | re.DOTALL)
    found = set(_FLAG.findall(text)) | set(_SETTING.findall(text)) | set(_FILE.findall(text))
    for quoted in _QUOTED.findall(text):
        quoted = quoted.strip()
        if _WORD.fullmatch(quoted):
            found.add(quoted)
    return {each for name in found for each in expand(name)}


def expand(name: str) -> list[str]:
    """Return what a name with braces stands for: ``{de,en}coder`` is decoder and encoder; a/b of flags is both."""
    match = re.search(r"\{([^{}]*,[^{}]*)\}", name)
    if match:
        parts = match[1].split(",")
        return [each for part in parts for each in expand(name[: match.start()] + part.strip() + name[match.end() :])]
    return [name]


def settings_keys(text: str) -> dict[str, set[str]]:
    """Return the configuration keys that the document of settings has for each code base, by its section's title."""
    keys: dict[str, set[str]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.split("\n", 1)[0].split(":")[0].strip()
        found = keys.setdefault(title, set())
        for grid in re.findall(r"\{\"[^}]*\}", section):
            found |= set(json.loads(grid))
        for common in re.findall(r"^Common: (?=\w+ )(.*)$", section, flags=re.MULTILINE):
            if "_" in common.split(",")[0] or "encoder" in common:
                found |= {part.split()[0] for part in common.split(", ") if "_" in part.split()[0] or " " in part}
        for header in re.findall(r"^\| configuration \|(.*)\|$", section, flags=re.MULTILINE):
            found |= {cell.strip() for cell in header.split("|") if cell.strip()}
    return keys
