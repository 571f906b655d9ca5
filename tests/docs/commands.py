"""What a shell block may say: every taskloom command is parsed by the real command line, and its fields are checked."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from taskloom.cli import main
from taskloom.cli.app import app
from taskloom.cli.arguments import overridden
from taskloom.recipe import load_recipe, recipe_fields
from taskloom.recipe.packaged import packaged_recipes
from tests.docs.pages import HOUSE

__all__ = ["INSTALLING", "check_line", "run", "split"]

#: Programs with nothing to check here; the tests run the first few, since pages make files by them.
MAKES_FILES = ("mkdir", "echo", "printf", "cp")
KNOWN = (*MAKES_FILES, "cat", "cd", "export", "kill", "ls", "open", "tail", "eval", "source")
#: What only a fresh machine can run, as CI's is before the tests.
INSTALLING = ("make", "pip")
#: What stands in for a recipe that the page does not hold.
OTHERS = {"online": "online/documents", "auxiliary": "auxiliary/citation-intent-minilm"}
LAUNCHERS = ("torchrun", "accelerate")


def split(line: str) -> list[list[str]]:
    """Return the commands of a line as words: those joined by &&, ; and |, without what redirects output."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    words, commands = list(lexer), [[]]
    for word in words:
        if set(word) <= set("&|;"):
            commands.append([])
        else:
            commands[-1].append(word)
    cleaned = []
    for command in commands:
        while command and re.fullmatch(r"\w+=\S*", command[0]) and not command[0].startswith("key="):
            command = command[1:]  # NAME=value in front of a command
        for place, word in enumerate(command):
            if set(word) <= set("<>"):
                command = command[:place]
                break
        if command:
            cleaned.append(command)
    return cleaned


def check_line(line: str, strict: bool) -> int:
    """Check one line of a shell block; return how many taskloom commands it has.

    Args:
        line: of the block.
        strict: whether programs that nobody here knows are an error.
    """
    found = 0
    for words in split(line):
        program = words[0]
        if program == "taskloom":
            check_taskloom(words[1:])
            found += 1
        elif program in LAUNCHERS or (program == "python" and words[1:3] == ["-m", "taskloom"]):
            assert "taskloom" in words, f"{line}: launches something else"
            check_taskloom(words[words.index("taskloom") + 1 :])
            found += 1
        elif program in ("python", "python3") and words[1:2] == ["-m"]:
            assert _module_exists(words[2]), f"{line}: no module {words[2]}"
        elif program == "make":
            targets = [word for word in words[1:] if "=" not in word]
            assert set(targets) <= set(re.findall(r"^(\w+):", (HOUSE / "Makefile").read_text("utf-8"), re.MULTILINE)), (
                line
            )
        elif program == "pip":
            _check_extras(line)
        else:
            assert program in KNOWN or not strict, f"{line}: mark the block `<!-- not run: reason -->`"
    return found


def check_taskloom(arguments: list[str]) -> None:
    """Parse the arguments of one taskloom command, and check the recipe fields that it sets."""
    words = [word for word in arguments if word != "--debug"]
    command: Any = typer.main.get_command(app)
    name = "taskloom"
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{name} has no verb {words[0]}"
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    if words in (["--help"], ["-h"], ["--version"]) or "--install-completion" in words:
        return
    given = command.make_context(name, list(words), resilient_parsing=False).params
    settings, recipe = given.get("settings") or [], given.get("recipe")
    known = {field.name for field in recipe_fields()}
    open_sections = ("adapter.", "data.limits.", "questions.")  # which take keys of a method, a split or a part
    for setting in settings:
        field = setting.partition("=")[0].lstrip("+")
        assert "=" in setting, f"{name}: '{setting}' sets no field"
        assert field in known or field.startswith(open_sections) or _is_section(field, known), (
            f"{name}: unknown field {field}"
        )
    if recipe is None or name == "taskloom recipes":
        return
    overrides = overridden(settings, given.get("output"), given.get("data_dir") or Path())
    if not Path(recipe).exists() and recipe not in packaged_recipes():
        assert recipe.startswith("runs/") or recipe.endswith(".yaml") or recipe == "RECIPE", f"{name}: no {recipe}"
        # The fields, at least, are checked.
        recipe = OTHERS.get(name.split()[1], "multi-task/glue-minilm")
    if name == "taskloom sweep":
        from taskloom.sweep.driver import divide

        overrides, _ = divide(recipe, overrides)
    load_recipe(recipe, overrides)


def run(line: str, settings: list[str]) -> None:
    """Run a line: taskloom commands in this process, with `settings` behind those that take any."""
    import subprocess

    for words in split(line):
        if words[0] in INSTALLING:
            continue
        if words[0] != "taskloom":
            assert words[0] in MAKES_FILES, f"{line}: cannot be run here"
            subprocess.run(["bash", "-c", line], check=True)
            return
        arguments = words[1:]
        if _takes_settings(arguments):
            arguments = [*arguments, *settings]
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code in (0, None), line


def _takes_settings(arguments: list[str]) -> bool:
    command: Any = typer.main.get_command(app)
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    return any(parameter.name == "settings" for parameter in command.params)


def _is_section(field: str, known: set[str]) -> bool:
    return any(name.startswith(f"{field}.") for name in known)


def _module_exists(name: str) -> bool:
    path = HOUSE / name.replace(".", "/")
    return (
        path.with_suffix(".py").is_file()
        or (path / "__main__.py").is_file()
        or importlib.util.find_spec(name) is not None
    )


def _check_extras(line: str) -> None:
    extras = re.findall(r"^([\w-]+) = \[", (HOUSE / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    for names in re.findall(r"taskloom\[([\w,-]+)\]|\.\[([\w,-]+)\]", line):
        assert set("".join(names).split(",")) <= set(extras), line
