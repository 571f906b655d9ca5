"""The rows of a split as its task wants them: unrolled, others left out, mistakes named with their place."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from taskloom.errors import DataError, did_you_mean
from taskloom.tasks.columns import ColumnReader, MissingColumnError, column_names, explode
from taskloom.tasks.files import Table
from taskloom.tasks.task import Task, spell
from taskloom.tasks.templates import RowTemplate

__all__ = ["NO_TARGET", "TaskRows", "is_hidden"]

#: Benchmarks that keep the targets of their test split to themselves publish one of these instead.
HIDDEN_TARGETS = (None, -1, "-1")
#: Marks of the examples of a split that have no target, while others have one.
NO_TARGET = (*HIDDEN_TARGETS, "", "-")

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class TaskRows:
    """The unrolled rows of a table.

    Attributes:
        task: What they are read for.
        table: Where they were read.
        numbers: Line (or record, or row) of each.
        records: Their columns.
    """

    def __init__(self, task: Task, table: Table) -> None:
        rows = explode(table, task.explode)
        self.task = task
        self.table = table
        self.numbers = [number for number, _ in rows]
        self.records = [record for _, record in rows]

    def keep_named(self) -> None:
        """Drop the rows that do not hold what the task's `where` names."""
        columns = {ColumnReader(name, self.task): values for name, values in self.task.where.items()}
        if self.records:
            self.require(columns, "where")

        def belongs(record: dict[str, Any]) -> bool:
            return all(spell(column(record)) in values for column, values in columns.items())

        self._keep([index for index, kept in enumerate(self.map(belongs, self.records)) if kept])

    def keep_wanted(self) -> None:
        """Drop the rows for which the task's template gives no prompt or, where the target is known, no answer."""
        template = RowTemplate(self.task)
        if self.records:
            self.require(template.columns, "template")
        column = ColumnReader(self.task.target, self.task) if self.task.target is not None else None

        def left_out(record: dict[str, Any]) -> bool:
            known = column is not None and not is_hidden(column, record)
            return template.leaves_out(record, with_answer=self.task.kind == "text2text" and known)

        self._keep([index for index, out in enumerate(self.map(left_out, self.records)) if not out])

    def drop_unlabelled(self) -> None:
        """Drop the rows without a target, unless that is all of them: then the split keeps its targets to itself."""
        column = ColumnReader(str(self.task.target), self.task)
        labelled = [i for i, record in enumerate(self.records) if not is_hidden(column, record, NO_TARGET)]
        if 0 < len(labelled) < len(self.records):
            count, source = len(self.records) - len(labelled), self.table.source
            logger.info("task '%s', %s: rows without a target that were left out: %d", self.task.name, source, count)
            self._keep(labelled)

    def _keep(self, kept: Sequence[int]) -> None:
        self.numbers = [self.numbers[index] for index in kept]
        self.records = [self.records[index] for index in kept]

    def require(self, columns: Iterable[ColumnReader], field: str) -> None:
        """Report a column that even the first row lacks as one that the file does not have.

        Raises:
            DataError: a column is missing; `field` of the task names it.
        """
        first = self.records[0]
        for column in columns:
            try:
                column(first)
            except MissingColumnError:
                known = dict.fromkeys((*self.table.columns, *column_names(first)))
                raise DataError(
                    f"{self.table.source}: no column {column}, which `{field}` of task '{self.task.name}' names."
                    f"{did_you_mean(column.paths[0], known)}"
                ) from None

    def map(self, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        """Apply `function` to the arguments of each row; its ValueError becomes a `DataError` with the place."""
        results = []
        for number, *row_arguments in zip(self.numbers, *arguments, strict=True):
            try:
                results.append(function(*row_arguments))
            except ValueError as failure:
                raise DataError(f"{self.table.where(number)}: {failure}") from None
        return results


def is_hidden(column: ColumnReader, record: dict[str, Any], marks: Sequence[Any] = HIDDEN_TARGETS) -> bool:
    """Return whether a row has one of `marks`, or nothing at all, in the place of its target."""
    try:
        return column(record) in marks
    except MissingColumnError:
        return True
