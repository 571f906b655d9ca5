"""Finding values in rows: plain columns, dotted paths, renamed columns, templates and nested lists."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taskloom.errors import DataError
from taskloom.tasks.files import Row, Table
from taskloom.tasks.task import Task, spell

__all__ = [
    "ColumnReader",
    "InputsReader",
    "MissingColumnError",
    "as_text",
    "as_words",
    "column_names",
    "explode",
    "has_path",
]

#: A column in a template input: ``"{word}: {sentence1}"``.
TEMPLATE_FIELD = re.compile(r"\{([^{}]+)\}")


class MissingColumnError(ValueError):
    """A row lacks a column; the message names it."""


class ColumnReader:
    """Reads the column that a task calls `name`, which the file may call otherwise (`Task.columns`).

    Attributes:
        paths: Where the value is looked for, in this order: the names in the file, then the task's own.
    """

    def __init__(self, name: str, task: Task) -> None:
        renames = task.columns if isinstance(task.columns, dict) else {}
        self.paths = (*(source for source, renamed in renames.items() if renamed == name), name)

    def __call__(self, row: Mapping[str, Any]) -> Any:
        """Return the value.

        Raises:
            MissingColumnError: `row` has no such column.
        """
        for path in self.paths:
            try:
                return _look_up(row, path)
            except KeyError:
                continue
        raise MissingColumnError(f"the field {self} is missing")

    def __str__(self) -> str:
        return " or ".join(f"'{path}'" for path in self.paths)


class InputsReader:
    """Reads an example's texts in the order of `Task.inputs`; of a token task, its words.

    Attributes:
        columns: All columns that are read.
    """

    def __init__(self, task: Task) -> None:
        self._instruction = task.instruction
        self._template = None
        self._texts = [_TextReader(template, task) for template in task.inputs]
        self._holds_words = task.kind == "token"
        self.columns = [column for text in self._texts for column in text.columns]
        if task.template is not None:
            from taskloom.tasks.templates import RowTemplate

            self._template = RowTemplate(task)
            self.columns = self._template.columns

    def __call__(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the texts.

        Raises:
            ValueError: A column is missing or its value is not text; the message names the column.
        """
        if self._holds_words:
            (column,) = self.columns
            name = column.paths[0]
            return tuple(as_text(word, name) for word in as_words(column(row), name))
        if self._template is not None:
            return (self._instruction + self._template.prompt(row),)
        first, *others = (text(row) for text in self._texts)
        return (self._instruction + first, *others)


class _TextReader:
    """Reads one input, a column or a template of columns."""

    def __init__(self, template: str, task: Task) -> None:
        # Splitting by a pattern with one group alternates literal text and column names.
        pieces = TEMPLATE_FIELD.split(template) if TEMPLATE_FIELD.search(template) else ["", template, ""]
        self.literals = pieces[0::2]
        self.columns = [ColumnReader(name, task) for name in pieces[1::2]]

    def __call__(self, row: Mapping[str, Any]) -> str:
        text = self.literals[0]
        for column, literal in zip(self.columns, self.literals[1:], strict=True):
            text += as_text(column(row), column.paths[0]) + literal
        return text


def as_text(value: Any, name: str) -> str:
    """Return the value of the text column `name`; numbers and booleans are spelled out, nothing else is converted.

    Raises:
        ValueError: The value is null, a list or an object.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return spell(value)
    found = "null" if value is None else "a list" if isinstance(value, list) else "an object"
    raise ValueError(f"the field '{name}' holds {found}, expected text")


def as_words(value: Any, name: str) -> list[Any]:
    """Return the items of the column `name` if it holds a list, or the words of a text, split at white space.

    Raises:
        ValueError: The value is neither.
    """
    if isinstance(value, str):
        return value.split()
    if isinstance(value, (list, tuple)):
        return list(value)
    raise ValueError(f"the field '{name}' holds {value!r}, expected a list")


def column_names(row: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names under which the values of `row` can be looked up, nested ones as dotted paths."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from column_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def has_path(row: Mapping[str, Any], path: str) -> bool:
    """Return whether there is a value at `path`."""
    try:
        _look_up(row, path)
    except KeyError:
        return False
    return True


def explode(table: Table, paths: Sequence[str]) -> list[Row]:
    """Unroll nested lists: for each of `paths` in turn, one row for each element, which takes the list's place.

    Rows keep the number of the row that they come from.

    Raises:
        DataError: There is no list at a path.
    """
    rows = table.rows
    for path in paths:
        rows = [(number, exploded) for number, row in rows for exploded in _explode_row(row, path, table.where(number))]
    return rows


def _explode_row(row: dict[str, Any], path: str, place: str) -> Iterator[dict[str, Any]]:
    elements = _look_up(row, path) if has_path(row, path) else None
    if not isinstance(elements, list):
        raise DataError(f"{place}: the field '{path}', which `explode` names, must hold a list, found {elements!r}")
    for element in elements:
        yield _replaced(row, path.split("."), element)


def _replaced(row: dict[str, Any], steps: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of `row` with `value` at the path `steps`; what lies elsewhere is shared."""
    first, *rest = steps
    return {**row, first: _replaced(row[first], rest, value) if rest else value}


def _look_up(row: Mapping[str, Any], path: str) -> Any:
    """Return the value at `path`: a column name, or steps through nested objects and lists joined by dots.

    Raises:
        KeyError: There is nothing at `path`.
    """
    if path in row:
        return row[path]
    value: Any = row
    for step in path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise KeyError(path)
    return value
