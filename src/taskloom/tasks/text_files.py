"""The text of a file, plain or compressed: UTF-8, with or without a byte order mark, ``.gz`` unpacked on the way."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from taskloom.errors import DataError

__all__ = ["extension_of", "numbered_lines", "read_text", "stream_lines"]

GZIP = ".gz"
GZIP_MAGIC = b"\x1f\x8b"


def extension_of(path: Path) -> str:
    """Return the extension in small letters, that of the content if the file is compressed (``a.jsonl.gz``: .jsonl)."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix == GZIP else suffix


def read_text(path: Path) -> str:
    """Return the text of a file that exists.

    Raises:
        DataError: it is not UTF-8, or named .gz and not (or only in part) a gzip file.
    """
    with _opened(path) as file:
        content = file.read()
    return _decoded(content, path)


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines that are not blank. Only a line feed ends a line: texts may hold U+2028 or CR."""
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line.strip():
            yield number, line


def stream_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what `numbered_lines` yields for a file, one line in memory at a time.

    Raises:
        DataError: as `read_text`.
    """
    with _opened(path) as file:
        for number, content in enumerate(file, start=1):
            line = _decoded(content, path, number).removesuffix("\n").removesuffix("\r")
            if line.strip():
                yield number, line


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to read its unpacked bytes."""
    if path.suffix.lower() != GZIP:
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path) as file:
            yield cast("IO[bytes]", file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as failure:
        with path.open("rb") as file:
            is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        reason = (
            f"its gzip data is damaged ({failure}); fetch it again"
            if is_gzip
            else f"it is no gzip file; if it holds plain text, name it {path.with_suffix('').name}"
        )
        raise DataError(f"{path}: cannot unpack: {reason}") from None


def _decoded(content: bytes, path: Path, first_line: int = 1) -> str:
    try:
        return content.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as failure:
        line = first_line + content.count(b"\n", 0, failure.start)
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{content[failure.start]:02x}); convert the file, for example with "
            f"`iconv -f LATIN1 -t UTF-8`"
        ) from None
