"""Reading data files: CSV, TSV, JSONL (records or MRQA's), JSON (records or SQuAD's) and Parquet become a `Table`.

Every row keeps its line number, and a mistake in a file is one `DataError` that names file and line.
"""

import csv
import io
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from taskloom.errors import DataError, did_you_mean
from taskloom.tasks.mrqa import is_mrqa, mrqa_rows
from taskloom.tasks.squad import is_squad, squad_rows
from taskloom.tasks.text_files import extension_of, numbered_lines, read_text, stream_lines

__all__ = ["EXTENSIONS", "Part", "Row", "Table", "Unit", "join_tables", "place", "read_table", "require_file"]

logger = logging.getLogger(__name__)

#: File name extensions that can be read; those of text also with .gz behind them.
EXTENSIONS = (".tsv", ".csv", ".jsonl", ".jsonl.gz", ".ndjson", ".json", ".parquet")

Unit = Literal["line", "record", "row"]
#: A row and its number in the file, counted from 1.
Row = tuple[int, dict[str, Any]]

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # whole documents in one cell


@dataclass(frozen=True)
class Part:
    """One of several files that are read as one: its rows are counted on from `offset`."""

    offset: int
    source: str
    unit: Unit


@dataclass(frozen=True)
class Table:
    """Rows of one split as they stand in a file or data set, not yet checked against a task.

    Attributes:
        source: The file or data set, as messages name it.
        unit: What row numbers count: "line" of a text file, "record" of a JSON file, "row" of a table.
        columns: Names of the columns; of a JSON file, the keys of its first record.
        rows: Numbered rows.
        classes: Column to class names, where the source declares them (`datasets.ClassLabel`).
        parts: The files that the rows come from, if they are several.
    """

    source: str
    unit: Unit
    columns: tuple[str, ...]
    rows: list[Row]
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def where(self, number: int) -> str:
        """Return the place of a row as messages name it: "dev.tsv:17" or "dev.parquet, row 17"."""
        return place(self.source, self.unit, number, self.parts)


def place(source: str, unit: Unit, number: int, parts: Sequence[Part] = ()) -> str:
    """Return how messages name the line, record or row `number` of `source`, or of the one of its `parts`."""
    if parts:
        part = max((part for part in parts if part.offset < number), key=lambda part: part.offset)
        source, unit, number = part.source, part.unit, number - part.offset
    return f"{source}:{number}" if unit == "line" else f"{source}, {unit} {number}"


def join_tables(tables: Sequence[Table]) -> Table:
    """Return the rows of several files as those of one; each row still knows its place."""
    rows: list[Row] = []
    parts: list[Part] = []
    for table in tables:
        offset = rows[-1][0] if rows else 0
        parts.append(Part(offset, table.source, table.unit))
        rows.extend((offset + number, record) for number, record in table.rows)
    first, *others = tables
    source = " + ".join(table.source for table in tables)
    return replace(first, source=source, rows=rows, parts=tuple(parts)) if others else first


def read_table(
    path: Path,
    *,
    delimiter: str | None = None,
    quoting: bool = True,
    names: Sequence[str] | None = None,
    malformed_rows: Literal["error", "skip"] = "error",
    records_key: str | None = None,
) -> Table:
    """Read a file whose extension is one of `EXTENSIONS`; text is UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        delimiter: Field separator of CSV and TSV; by default comma and tab.
        quoting: Whether CSV and TSV fields may be quoted with ``"``.
        names: Column names of a CSV or TSV file that has no header line.
        malformed_rows: "skip" leaves out CSV and TSV rows with a wrong number of fields, and logs how many.
        records_key: Key of the list that holds a JSON file's records; by default the file is that list.

    Raises:
        DataError: The file is missing, of an unknown format, not UTF-8 or malformed.
    """
    require_file(path)
    extension = extension_of(path)
    if extension in (".csv", ".tsv"):
        separator = delimiter or ("," if extension == ".csv" else "\t")
        return _read_delimited(path, separator, quoting, names, malformed_rows)
    if extension in (".jsonl", ".ndjson"):
        return _read_json_lines(path)
    if extension == ".json":
        return _read_json(path, records_key)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    raise DataError(f"{path}: unknown file format '{extension}'; use one of {', '.join(EXTENSIONS)}")


def require_file(path: Path) -> None:
    """Raise a `DataError` with the nearest existing name unless `path` is a file."""
    if path.is_file():
        return
    if path.is_dir():
        raise DataError(f"{path} is a folder, expected a file")
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    kind = "file" if missing == path else "folder"
    siblings = sorted(entry.name for entry in missing.parent.iterdir() if not entry.name.startswith("."))
    raise DataError(
        f"no {kind} '{missing.name}' in {missing.parent} (looking for {path}).{did_you_mean(missing.name, siblings)}"
    )


def _quoted_records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, fields) of each record; quoted fields may span lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    first_line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as failure:
            raise DataError(
                f"{path}:{first_line}: malformed row ({failure}); "
                'if the file does not quote its fields with ", set `quoting: false` for the task'
            ) from None
        if fields:
            yield first_line, fields
        first_line = reader.line_num + 1


def _read_delimited(
    path: Path,
    delimiter: str,
    quoting: bool,
    names: Sequence[str] | None,
    malformed_rows: Literal["error", "skip"],
) -> Table:
    text = read_text(path)
    if quoting:
        records = _quoted_records(path, text, delimiter)
    else:
        records = ((number, line.split(delimiter)) for number, line in numbered_lines(text))
    columns = tuple(names) if names is not None else tuple(next(records, (1, []))[1])
    repeated = {name for name in columns if columns.count(name) > 1}
    if repeated:
        raise DataError(f"{path}:1: the column '{min(repeated)}' appears more than once in the header")

    rows: list[Row] = []
    skipped = 0
    for number, fields in records:
        if len(fields) == len(columns):
            rows.append((number, dict(zip(columns, fields, strict=True))))
        elif malformed_rows == "skip":
            skipped += 1
        else:
            raise DataError(
                f"{path}:{number}: found {len(fields)} fields, expected {len(columns)} ({', '.join(columns)}); "
                "mend the row, or check the task's `delimiter`, `quoting` and `columns`"
            )
    if skipped:
        logger.warning("%s: rows with a wrong number of fields that were left out: %d", path, skipped)
    return Table(str(path), "line", columns, rows)


def _read_json_lines(path: Path) -> Table:
    records = _json_lines(path)
    first = list(islice(records, 1))
    following = chain(first, records)
    rows = list(mrqa_rows(following, str(path)) if first and is_mrqa(first[0][1]) else following)
    return Table(str(path), "line", tuple(rows[0][1]) if rows else (), rows)


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in stream_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as failure:
            raise DataError(
                f"{path}:{number}: malformed JSON at column {failure.colno} ({failure.msg}); "
                "expected one JSON object a line"
            ) from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: found {_json_type(record)}, expected one JSON object a line")
        yield number, record


def _records_at(content: Any, key: str, path: Path) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{path}: the field '{key}', which `records` names, must hold the list of examples")
    return found


def _read_json(path: Path, records_key: str | None) -> Table:
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as failure:
        raise DataError(
            f"{path}:{failure.lineno}: malformed JSON at column {failure.colno} ({failure.msg}); "
            "if the file holds one object a line, name it .jsonl"
        ) from None
    if is_squad(content):
        records = list(squad_rows(content, str(path)))
    elif records_key is not None:
        records = _records_at(content, records_key, path)
    else:
        records = content if isinstance(content, list) else [content]
    rows: list[Row] = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {number}: found {_json_type(record)}, expected an object")
        rows.append((number, record))
    return Table(str(path), "record", tuple(rows[0][1]) if rows else (), rows)


def _read_parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        content = parquet.read_table(path)
    except pyarrow.ArrowException as failure:
        raise DataError(f"{path}: not a readable Parquet file ({failure})") from None
    rows = list(enumerate(content.to_pylist(), start=1))
    return Table(str(path), "row", tuple(content.column_names), rows)


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names[type(value)]
