"""What the files of a stream hold, kind by kind: one document, one a line, one a row of a table.

Every reader works on bytes and holds one document at most: its limit is the number of bytes that a document of
`max_characters` may take as it is written there.
"""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from taskloom.errors import did_you_mean

__all__ = ["KINDS", "Finding", "UnusableFileError", "read_lines"]

#: Where the text of a JSON object or of a row stands.
FIELDS = ("text", "document")
COLUMNS = (*FIELDS, "raw_text")

UTF8_BYTES = 4
BOM = b"\xef\xbb\xbf"
#: A character outside of the basic plane may be written as two escapes of six bytes.
JSON_BYTES = 12
#: Room for what stands beside the text in a line or row.
OTHER_FIELDS = 1 << 20
CHUNK = 1 << 20

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # whole documents in one cell, which `_records` bounds


class UnusableFileError(Exception):
    """Nothing in the file can be used; the message is the reason."""


@dataclass(frozen=True)
class Finding:
    """The text of a document, or the reason why there is none; `line` is where it begins, None if it is the file."""

    line: int | None
    text: str | None
    reason: str | None = None


def _read_document(file: BinaryIO, size: int, max_characters: int) -> Iterator[Finding]:
    limit = UTF8_BYTES * max_characters + len(BOM)
    content = file.read(limit + 1) if size <= limit else b""
    if max(size, len(content)) > limit:
        yield Finding(None, None, _too_large(f"{max(size, len(content)):,} bytes", max_characters))
    else:
        yield _plain(content.removeprefix(BOM), None, max_characters)


def read_lines(file: BinaryIO, max_characters: int) -> Iterator[Finding]:
    """Yield a document for each line: the line itself or, if it begins with ``{``, what the JSON object holds."""
    for number, line, size in _bounded_lines(file, JSON_BYTES * max_characters + OTHER_FIELDS):
        if line is None:
            yield Finding(number, None, _too_large(f"{size:,} bytes", max_characters))
        elif line.lstrip().startswith(b"{"):
            yield _json(line, number, max_characters)
        else:
            yield _plain(line, number, max_characters)


def _read_json_lines(file: BinaryIO, _: int, max_characters: int) -> Iterator[Finding]:
    for number, line, size in _bounded_lines(file, JSON_BYTES * max_characters + OTHER_FIELDS):
        if line is None:
            yield Finding(number, None, _too_large(f"{size:,} bytes", max_characters))
        elif line.strip():  # blank lines are no documents
            yield _json(line, number, max_characters)


def _read_table(file: BinaryIO, _: int, max_characters: int) -> Iterator[Finding]:
    width = position = 0
    for first, record, size in _records(file, UTF8_BYTES * max_characters + OTHER_FIELDS):
        problem, rows = "", []
        if record is None:
            problem = _too_large(f"{size:,} bytes", max_characters)
        elif b"\0" in record:
            problem = "binary"
        else:
            try:
                rows = list(_numbered_rows(record.decode("utf-8"), first))
            except UnicodeDecodeError as failure:
                problem = _not_utf8(failure)
            except csv.Error as failure:
                # Where the next row begins is a guess from here on; a wrong one would make documents of fragments.
                yield Finding(first, None, f"malformed row ({failure}); what follows it is not read")
                return
        if width == 0 and rows:
            (_, header), *rows = rows
            width, position = len(header), _text_column(header)
        elif width == 0 and problem:
            raise UnusableFileError(f"header line: {problem}")
        if problem:
            yield Finding(first, None, problem)
        for number, fields in rows:
            if len(fields) == width:
                yield _checked(fields[position], number, max_characters)
            else:
                yield Finding(number, None, f"{len(fields)} fields, expected {width}")
    if width == 0:
        raise UnusableFileError("empty")


def _numbered_rows(text: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with the lines they begin on; `first` is that of `text`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begins = 0
    while (fields := next(reader, None)) is not None:
        if fields:
            yield first + begins, fields
        begins = reader.line_num


def _text_column(columns: list[str]) -> int:
    """Return the position of the column that holds the documents."""
    for name in COLUMNS:
        if name in columns:
            return columns.index(name)
    wanted = ", ".join(f"'{name}'" for name in COLUMNS)
    raise UnusableFileError(f"none of the columns {wanted}.{did_you_mean(COLUMNS[0], columns)}")


def _bounded_lines(file: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | None, int]]:
    """Yield (number, line without its end or None if it has more than `limit` bytes, bytes) of each line."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        size = len(line)
        if size <= limit or line.endswith(b"\n"):
            content = line.removeprefix(BOM) if number == 1 else line
            yield number, content.removesuffix(b"\n").removesuffix(b"\r"), size
            continue
        while more := file.readline(CHUNK):
            size += len(more)
            if more.endswith(b"\n"):
                break
        yield number, None, size


def _records(file: BinaryIO, limit: int) -> Iterator[tuple[int, bytes | None, int]]:
    """Yield (first line, record or None if it has more than `limit` bytes, bytes) of each record of a CSV file.

    A record ends where a line does outside of quotes, that is behind an even number of them.
    """
    number = first = 1
    held = bytearray()
    size = quotes = 0
    while piece := file.readline(CHUNK):
        if size == 0 and number == 1:
            piece = piece.removeprefix(BOM)
        size += len(piece)
        quotes += piece.count(b'"')
        if size <= limit:
            held += piece
        else:
            held.clear()
        if piece.endswith(b"\n"):
            number += 1
            if quotes % 2 == 0:
                yield first, bytes(held) if size <= limit else None, size
                held.clear()
                first, size, quotes = number, 0, 0
    if size:
        yield first, bytes(held) if size <= limit else None, size


def _plain(content: bytes, line: int | None, max_characters: int) -> Finding:
    if b"\0" in content:
        return Finding(line, None, "binary")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as failure:
        return Finding(line, None, _not_utf8(failure))
    return _checked(text, line, max_characters)


def _json(content: bytes, line: int, max_characters: int) -> Finding:
    try:
        record: Any = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as failure:
        return Finding(line, None, "binary" if b"\0" in content else _not_utf8(failure))
    except json.JSONDecodeError as failure:
        return Finding(line, None, f"malformed JSON at column {failure.colno} ({failure.msg})")
    except (RecursionError, ValueError):  # nested a thousand deep; a number of thousands of digits
        return Finding(line, None, "malformed JSON (nested too deeply, or a number too long)")
    if not isinstance(record, dict):
        return Finding(line, None, "not a JSON object")
    name = next((name for name in FIELDS if name in record), None)
    if name is None:
        return Finding(line, None, f"no field '{FIELDS[0]}' or '{FIELDS[1]}'")
    if not isinstance(record[name], str):
        return Finding(line, None, f"the field '{name}' is not text")
    return _checked(record[name], line, max_characters)


def _checked(text: str, line: int | None, max_characters: int) -> Finding:
    text = text.strip()
    if not text:
        return Finding(line, None, "empty")
    if len(text) > max_characters:
        return Finding(line, None, _too_large(f"{len(text):,} characters", max_characters))
    if "\0" in text:
        return Finding(line, None, "binary")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as failure:  # JSON can spell half of a surrogate pair
        return Finding(line, None, f"not UTF-8 (half of a surrogate pair at character {failure.start})")
    return Finding(line, text)


def _too_large(found: str, max_characters: int) -> str:
    return f"too large ({found}; at most {max_characters:,} characters)"


def _not_utf8(failure: UnicodeDecodeError) -> str:
    return f"not UTF-8 (byte 0x{failure.object[failure.start]:02x} at {failure.start:,})"


#: Extension to what reads such a file: (file, its bytes, most characters of a document) -> findings.
KINDS: dict[str, Callable[[BinaryIO, int, int], Iterator[Finding]]] = {
    ".txt": _read_document,
    ".md": _read_document,
    ".jsonl": _read_json_lines,
    ".csv": _read_table,
}
