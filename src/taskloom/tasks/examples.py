"""Examples: the rows of one split after they were checked against their task."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskloom.errors import DataError
from taskloom.tasks.choices import choices_reader, require_choice
from taskloom.tasks.columns import ColumnReader, InputsReader, as_text, as_words, has_path
from taskloom.tasks.files import Part, Table, Unit, place
from taskloom.tasks.rows import NO_TARGET, TaskRows, is_hidden
from taskloom.tasks.spans import Span, answer_spans
from taskloom.tasks.targets import target_parser
from taskloom.tasks.task import Task, spell
from taskloom.tasks.templates import RowTemplate

__all__ = ["Examples", "derive_labels", "examples_from_inputs", "read_examples", "read_inputs"]


@dataclass(frozen=True)
class Examples:
    """One split of one task: texts, targets and where each example was read.

    Attributes:
        texts: An example's texts in the order of `Task.inputs`; of a token task, its words.
        targets: By kind: class index (classification), number (regression), class index of each word (token),
            ``{"text": [...], "answer_start": [...]}`` (span), text or list of right texts (text2text). None where the
            split has none.
        lines: Line (or record, or row) of each example, counted from 1.
        source: File or data set.
        unit: What `lines` counts.
        choices: Of a text2text task with choices, the answers that each example may have; otherwise None.
        spans: Of a task with windows, where the answers of each example stand in its context; otherwise None.
        ids: The names of the examples, of a task that says where they are; otherwise None.
        parts: The files of a split that several make up.
    """

    texts: list[tuple[str, ...]]
    targets: list[Any] | None
    lines: list[int]
    source: str
    unit: Unit = "line"
    choices: list[tuple[str, ...]] | None = None
    spans: list[list[Span]] | None = None
    ids: list[str] | None = None
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def where(self, index: int) -> str:
        """Return the place of an example as messages name it: "dev.tsv:17"."""
        where = place(self.source, self.unit, self.lines[index], self.parts)
        return where if self.ids is None else f"{where} ('{self.ids[index]}')"

    def subset(self, indices: Sequence[int]) -> "Examples":
        """Return only the examples at `indices`."""
        return replace(
            self,
            texts=[self.texts[index] for index in indices],
            targets=None if self.targets is None else [self.targets[index] for index in indices],
            lines=[self.lines[index] for index in indices],
            choices=None if self.choices is None else [self.choices[index] for index in indices],
            spans=None if self.spans is None else [self.spans[index] for index in indices],
            ids=None if self.ids is None else [self.ids[index] for index in indices],
        )


def read_examples(task: Task, table: Table, split: str) -> Examples:
    """Check the rows of a split and return them as examples.

    A test split without a target column, or whose targets are all hidden (null or -1), has no targets.

    Args:
        task: The task; if its kind has labels, they are known.
        table: The rows.
        split: Name of the split.

    Raises:
        DataError: The split is empty, a column is missing, or a text or target is not what the task declares.
    """
    rows = TaskRows(task, table)
    rows.keep_named()
    if task.unlabelled_rows == "skip":
        rows.drop_unlabelled()
    if task.template is not None:
        rows.keep_wanted()
    return _read(task, rows, split)


def _read(task: Task, rows: TaskRows, split: str, with_targets: bool = True) -> Examples:
    table = rows.table
    if not rows.records:
        wanted = ", ".join(f"'{name}' of {' or '.join(values)}" for name, values in task.where.items())
        empty = f"has no row with {wanted}" if wanted else "is empty"
        raise DataError(
            f"{table.source}: the split '{split}' of task '{task.name}' {empty}; expected at least one example"
        )
    texts = _read_texts(task, rows)
    targets = _read_targets(task, rows, texts, split) if with_targets else None
    choices = None
    if task.ranks:
        if isinstance(task.choices, str):
            rows.require([ColumnReader(task.choices, task)], "choices")
        choices = rows.map(choices_reader(task), rows.records)
    if targets is not None and task.choices is not None:
        fixed = task.choices if isinstance(task.choices, tuple) else ()
        rows.map(require_choice, targets, choices or [fixed] * len(targets))
    ids = _read_ids(task, rows, split, required=with_targets)
    spans = _read_spans(task, rows, texts, ids) if task.windows and targets is not None else None
    return Examples(texts, targets, rows.numbers, table.source, table.unit, choices, spans, ids, table.parts)


def derive_labels(task: Task, table: Table) -> tuple[str, ...]:
    """Return the labels that the train split declares (`Table.classes`) or holds, sorted; whole numbers by value.

    Raises:
        DataError: The target column is missing, or holds fewer than two labels.
    """
    rows = TaskRows(task, table)
    column = ColumnReader(str(task.target), task)
    name = column.paths[0]
    if name in table.classes:
        return table.classes[name]
    rows.require([column], "target")
    found: set[str] = set()
    for value in rows.map(column, rows.records):
        labels = as_words(value, name) if task.kind == "token" else [value]
        found.update(spell(label) for label in labels if label is not None)
    if len(found) < 2:
        raise DataError(
            f"{table.source}: the column '{name}' of task '{task.name}' holds {len(found)} label, expected at least "
            "two; check `target`, or list the task's `labels`"
        )
    return tuple(sorted(found, key=int if all(label.isdecimal() for label in found) else None))


def examples_from_inputs(
    task: Task, inputs: Iterable[str | Sequence[str] | Mapping[str, Any]], source: str = "input"
) -> Examples:
    """Return examples without targets from what a caller wants predictions for.

    Args:
        task: The task.
        inputs: For each example a text, a tuple of texts in the order of `task.inputs`, or a mapping of columns
            to values, from which `task.inputs` (templates too) are read. Token tasks: a list of words, or a
            text that is split at white space.
        source: How messages name the place.

    Raises:
        DataError: There are no inputs, or one lacks a column or has the wrong number of texts.
    """
    reader = InputsReader(task)
    read_choices = choices_reader(task) if task.ranks else None
    texts, choices = [], []
    for number, given in enumerate(inputs, start=1):
        try:
            texts.append(reader(given) if isinstance(given, Mapping) else _given_texts(task, given))
            if read_choices is not None:
                choices.append(read_choices(given if isinstance(given, Mapping) else {}))
        except ValueError as failure:
            raise DataError(f"{source}, record {number}: {failure} (task '{task.name}')") from None
    if not texts:
        raise DataError(f"{source}: there are no inputs for task '{task.name}'")
    return Examples(texts, None, list(range(1, len(texts) + 1)), source, "record", choices or None)


def read_inputs(task: Task, table: Table) -> Examples:
    """Return examples without targets from a file of inputs, nested as the task's files or already flat.

    Raises:
        DataError: The file is empty or lacks a column.
    """
    flat = not (table.rows and all(has_path(table.rows[0][1], path) for path in task.explode[:1]))
    task = task.model_copy(update={"explode": ()}) if flat else task
    return _read(task, TaskRows(task, table), "input", with_targets=False)


def _read_texts(task: Task, rows: TaskRows) -> list[tuple[str, ...]]:
    reader = InputsReader(task)
    rows.require(reader.columns, "inputs")
    return rows.map(reader, rows.records)


def _read_targets(task: Task, rows: TaskRows, texts: list[tuple[str, ...]], split: str) -> list[Any] | None:
    if task.target is None:
        return None
    column = ColumnReader(task.target, task)
    if split.startswith("test") and all(is_hidden(column, record, NO_TARGET) for record in rows.records):
        return None
    if task.template is not None and task.kind == "text2text":
        return rows.map(RowTemplate(task).answer, rows.records)
    rows.require([column], "target")
    return rows.map(target_parser(task, column.paths[0]), rows.map(column, rows.records), texts)


def _read_ids(task: Task, rows: TaskRows, split: str, required: bool) -> list[str] | None:
    if task.id is None:
        return None
    column = ColumnReader(task.id, task)
    if not required and not has_path(rows.records[0], column.paths[0]):
        return None
    rows.require([column], "id")
    unique = required and split != "train"  # inputs may be several contexts of one question
    seen: set[str] = set()

    def name(record: dict[str, Any]) -> str:
        found = as_text(column(record), column.paths[0])
        if unique and found in seen:
            raise ValueError(
                f"a second example '{found}' of task '{task.name}'; predictions are named by '{column.paths[0]}', so "
                "that each example needs its own"
            )
        seen.add(found)
        return found

    return rows.map(name, rows.records)


def _read_spans(task: Task, rows: TaskRows, texts: list[tuple[str, ...]], ids: list[str] | None) -> list[list[Span]]:
    column = ColumnReader(str(task.spans or task.target), task)
    rows.require([column], "spans" if task.spans else "target")

    def spans(record: dict[str, Any], context: str, name: str) -> list[Span]:
        try:
            return answer_spans(column(record), context, column.paths[0])
        except ValueError as failure:
            raise ValueError(f"question '{name}': {failure}" if name else str(failure)) from None

    return rows.map(spans, rows.records, [context for _, context in texts], ids or [""] * len(texts))


def _given_texts(task: Task, given: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(given, (str, list, tuple)):
        raise ValueError(f"found {given!r}, expected a text, a list or a mapping")
    if task.kind == "token":
        texts = as_words(given, task.inputs[0])
    else:
        texts = [given] if isinstance(given, str) else list(given)
        expected = task.inputs or ("the whole prompt",)
        if len(texts) != len(expected):
            raise ValueError(f"found {len(texts)} texts, expected {len(expected)} ({', '.join(expected)})")
    return tuple(as_text(text, "text") for text in texts)
