"""The documents of a real stream, one at a time: a folder, a file or standard input, bad ones told and passed over.

Nothing is held but the document of the moment: a file, line or row that is too large is never read whole. What a
kind of file holds is read in `taskloom.online.stream_files`.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from taskloom.errors import DataError
from taskloom.online.stream_files import KINDS, Finding, UnusableFileError, read_lines
from taskloom.tasks.files import require_file

__all__ = ["MAX_CHARACTERS", "STDIN", "StreamItem", "digest", "read_stream"]

STDIN = "-"
MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class StreamItem:
    """A document of a stream, or what stands in the place of one.

    Attributes:
        name: where it was found, the same whenever the stream is read: the path within the folder (of a single file its
            name, of standard input ``-``), and behind a colon the line, if a file holds several documents.
        text: the document without the white space around it; None if it cannot be used.
        reason: why not: "empty", "too large (...)", "binary", "not UTF-8 (...)", "unknown kind .png", ...
        digest: of the text, for telling documents apart; "" without one.
    """

    name: str
    text: str | None
    reason: str | None = None
    digest: str = ""


def digest(text: str) -> str:
    """Return 32 hexadecimal digits (BLAKE2b, 128 bits) that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()


def read_stream(
    source: Path | str,
    *,
    strict: bool = False,
    max_characters: int = MAX_CHARACTERS,
    stdin: BinaryIO | None = None,
) -> Iterator[StreamItem]:
    """Yield the documents of a stream as they come.

    Args:
        source: a folder, one of its files, or ``"-"``, standard input. Files of a folder are read in the order of
            their paths: ``.txt`` and ``.md`` files hold one document, ``.jsonl`` files one a line (field ``text`` or
            ``document``), ``.csv`` files one a row (column ``text``, ``document`` or ``raw_text``). What is hidden is
            passed over, linked folders are not entered. Standard input holds a document a line, as it is or, if it
            begins with ``{``, as a JSON object.
        strict: stop at the first document or file that cannot be used, instead of yielding it with a reason.
        max_characters: a longer document is too large.
        stdin: what to read for ``"-"``; ``sys.stdin.buffer`` if not given.

    Raises:
        DataError: `source` does not exist, is of an unknown kind, without the needed column, or not to be opened; with
            `strict` also the first document that cannot be used. Raised when the documents are asked for.
        ValueError: `max_characters` is less than 1.
    """
    if max_characters < 1:
        raise ValueError(f"`max_characters` must be at least 1, found {max_characters}")
    for item in _items(source, max_characters, stdin):
        if strict and item.reason is not None:
            raise DataError(
                f"{_place(source, item)}: {item.reason}; mend or remove it, or read without strict to pass over it"
            )
        yield item


def _place(source: Path | str, item: StreamItem) -> str:
    path = Path(source).expanduser()
    return item.name if str(source) == STDIN else str((path if path.is_dir() else path.parent) / item.name)


def _items(source: Path | str, max_characters: int, stdin: BinaryIO | None) -> Iterator[StreamItem]:
    if str(source) == STDIN:
        for finding in read_lines(sys.stdin.buffer if stdin is None else stdin, max_characters):
            yield _item(STDIN, finding)
        return
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            yield from _folder(path, max_characters)
        else:
            require_file(path)
            yield from _file(path, path.name, max_characters)
    except PermissionError as failure:
        raise DataError(f"{path}: unreadable ({failure.strerror})") from None
    except UnusableFileError as failure:
        expected = f"a folder of {', '.join(KINDS)} files, one of them, or - for standard input"
        raise DataError(f"{path}: {failure}; expected {expected}") from None


def _folder(folder: Path, max_characters: int) -> Iterator[StreamItem]:
    for path in _walk(folder):
        # Names of files are bytes; those that are not UTF-8 shall not break a log or a progress file.
        name = path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode("utf-8")
        try:
            yield from _file(path, name, max_characters)
        except UnusableFileError as failure:
            yield StreamItem(name, None, str(failure))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield in order all that is not hidden and no folder, and folders that are links or cannot be listed."""
    waiting = [(folder, True)]
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
            continue
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
        except OSError:
            if path == folder:
                raise
            yield path
            continue
        visible = (entry for entry in entries if not entry.name.startswith("."))
        waiting.extend((path / entry.name, entry.is_dir(follow_symlinks=False)) for entry in visible)


def _file(path: Path, name: str, max_characters: int) -> Iterator[StreamItem]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnusableFileError("a link to a folder" if path.is_symlink() else "a folder that cannot be read")
        if path.suffix.lower() not in KINDS:
            raise UnusableFileError(f"unknown kind {path.suffix.lower() or '(no extension)'}")
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for a writer
            raise UnusableFileError("not a regular file")
        with path.open("rb") as file:
            for finding in KINDS[path.suffix.lower()](file, status.st_size, max_characters):
                yield _item(name, finding)
    except OSError as failure:
        raise UnusableFileError(f"unreadable ({failure.strerror})") from None


def _item(name: str, finding: Finding) -> StreamItem:
    place = name if finding.line is None else f"{name}:{finding.line}"
    if finding.text is None:
        return StreamItem(place, None, finding.reason)
    return StreamItem(place, finding.text, None, digest(finding.text))
