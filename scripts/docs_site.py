"""What `make docs` adds to the folder docs/: MkDocs calls the functions below (`hooks` in mkdocs.yml).

- The README is the site's first page.
- Pages that the navigation forgets are put into it.
- Tables made from the code come into the pages of docs/reference: `scripts.reference`.
- Pages lead to files outside docs/ (studies, recipes, examples). Those files become part of the site, and the links in
  all pages, which are right in the repository, are turned to them. A link that leads nowhere fails the build.
"""

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from scripts.reference import MARK, reference_pages  # noqa: E402  (MkDocs runs this file by its path)

HOME = "README.md"
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^(```.*?^```)[ \t]*$", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not list at the end of its part "In depth", under their own titles."""
    assert config.nav is not None
    listed = set(_leaves(config.nav))
    [guide] = [part["Guide"] for part in config.nav if "Guide" in part]
    [depth] = [part["In depth"] for part in guide if isinstance(part, dict) and "In depth" in part]
    pages = (path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md"))
    depth.extend(sorted(set(pages) - listed))
    return config


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from _leaves(each)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the first page, and what pages link to; fill in what is made from the code."""
    files.append(File.generated(config, "index.md", content=(REPOSITORY / HOME).read_text("utf-8")))
    for path, text in reference_pages().items():
        page = files.get_file_from_path(path)
        if page is None or page.content_string.count(MARK) != 1:
            raise PluginError(f"docs/{path}: expected one line {MARK}")
        page.content_string = page.content_string.replace(MARK, text)
    waiting = {_in_repository(file.src_uri): file.content_string for file in files.documentation_pages()}
    seen = set(waiting)
    while waiting:
        source, text = waiting.popitem()
        for target in sorted(set(_targets(source, text)) - seen):
            seen.add(target)
            if files.get_file_from_path(_in_site(target)) or not (REPOSITORY / target).is_file():
                continue
            files.append(File.generated(config, _in_site(target), abs_src_path=str(REPOSITORY / target)))
            if target.endswith(".md"):
                waiting[target] = (REPOSITORY / target).read_text("utf-8")
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: Any) -> str:
    """Turn the links of a page, which are relative to its place in the repository, to places in the site."""
    source = _in_repository(page.file.src_uri)

    def turned(match: re.Match[str]) -> str:
        target, anchor = _resolve(source, match[2])
        if target is None or files.get_file_from_path(_in_site(target)) is None:
            return match[0]  # elsewhere, or nowhere: MkDocs says so
        start = posixpath.dirname(page.file.src_uri)
        return match[1] + posixpath.relpath(_in_site(target), start or ".") + anchor + match[3]

    pieces = _FENCE.split(markdown)
    return "".join(piece if piece.startswith("```") else _LINK.sub(turned, piece) for piece in pieces)


def _targets(source: str, text: str) -> Iterator[str]:
    """Yield the files of the repository that the page `source` leads to."""
    for match in _LINK.finditer(_FENCE.sub("", text)):
        target, _ = _resolve(source, match[2])
        if target is not None and not target.startswith(".."):
            yield target


def _resolve(source: str, link: str) -> tuple[str | None, str]:
    """Return the file of the repository that a link in the file `source` leads to, and its anchor."""
    path, mark, anchor = link.partition("#")
    if not path or ":" in path or path.startswith("/"):
        return None, ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), path)), mark + anchor


def _in_repository(path: str) -> str:
    """Return the place in the repository of a page of the site."""
    if path == "index.md":
        return HOME
    return f"docs/{path}" if (REPOSITORY / "docs" / path).exists() else path


def _in_site(path: str) -> str:
    """Return the place in the site of a file of the repository."""
    return "index.md" if path == HOME else path.removeprefix("docs/")
