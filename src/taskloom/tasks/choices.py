"""The answers that an example of a ranked text2text task may have: the task's own, a column's or a template's."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskloom.tasks.columns import ColumnReader, as_text
from taskloom.tasks.targets import accepted
from taskloom.tasks.task import Task
from taskloom.tasks.templates import RowTemplate

__all__ = ["choices_reader", "require_choice"]


def choices_reader(task: Task) -> Callable[[Mapping[str, Any]], tuple[str, ...]]:
    """Return the function that reads from a row the answers that an example of a ranked task may have.

    It raises a `ValueError` that names the column if the row lacks it, or if there are fewer than two answers.
    """
    if isinstance(task.choices, str):
        column = ColumnReader(task.choices, task)
        name = column.paths[0]
        return lambda row: _at_least_two(_listed(column(row), name), f"field '{name}'")
    if task.answer_choices is not None:
        template = RowTemplate(task)
        return lambda row: _at_least_two(template.choices(row) or (), "answer_choices")
    fixed = _at_least_two(task.choices or tuple((task.answers or {}).values()), "choices")
    return lambda _: fixed


def _listed(value: Any, name: str) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"the field '{name}' holds {value!r}, expected a list of answers to choose from")
    return [as_text(text, name) for text in value]


def _at_least_two(texts: Sequence[str], where: str) -> tuple[str, ...]:
    distinct = tuple(dict.fromkeys(texts))
    if len(distinct) < 2:
        raise ValueError(f"the {where} holds {len(distinct)} answer to choose from, expected at least two")
    return distinct


def require_choice(target: str | Sequence[str], choices: Sequence[str]) -> None:
    """Refuse an example that no choice answers: it could never be right.

    Raises:
        ValueError: none of the choices is one of its right texts.
    """
    known = {choice.strip() for choice in choices}
    if known and not any(text.strip() in known for text in accepted(target)):
        raise ValueError(f"the answer '{accepted(target)[0]}' is not among the choices ({', '.join(choices)})")
