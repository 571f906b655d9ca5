"""Prompts as promptsource writes them: one Jinja template a row, `prompt ||| answer` (Bach et al. 2022).

Templates come from files that others wrote: they are rendered in Jinja's sandbox, which gives them the row's values and
nothing else.
"""

import random
from collections.abc import Mapping, Set
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from taskloom.tasks.columns import ColumnReader, MissingColumnError
from taskloom.tasks.task import spell

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

    from taskloom.tasks.task import Task

__all__ = ["SEPARATOR", "RowTemplate", "check_syntax"]

#: Stands between the prompt and the answer, and between answer choices.
SEPARATOR = "|||"
#: Takes the separator's place while a template is rendered: a control character that no text holds.
_MARK = "\x1f"
_CHOICES = "answer_choices"


class RowTemplate:
    """The template of a task, ready to be filled with rows.

    A template sees each column by its name. The target column of a task with labels is the label's index, as in the
    hub's data sets that promptsource's templates are written for. A row for which the template gives no prompt or no
    answer is one that the template's author left out on purpose.

    Attributes:
        columns: the columns that every row needs; the target is not among them.
    """

    def __init__(self, task: "Task") -> None:
        self._task = task
        self._in_choices = _variables(task.answer_choices or "")
        names = _variables(str(task.template)) | self._in_choices
        self._target = ColumnReader(task.target, task) if task.target in names else None
        self._readers = {name: ColumnReader(name, task) for name in sorted(names - {_CHOICES, task.target})}
        self.columns = list(self._readers.values())
        spelled = task.label_values or task.labels or ()
        self._indices = {label: index for index, label in enumerate(spelled)}

    def prompt(self, row: Mapping[str, Any]) -> str:
        """Return the prompt of a row, which may lack its target."""
        return self._parts(row)[0]

    def answer(self, row: Mapping[str, Any]) -> str | None:
        """Return the answer of a row; None if there is no second part."""
        parts = self._parts(row)
        return parts[1] if len(parts) > 1 else None

    def leaves_out(self, row: Mapping[str, Any], with_answer: bool) -> bool:
        """Return whether the template gives nothing for this row."""
        parts = self._parts(row)
        return not parts[0] or (with_answer and (len(parts) < 2 or not parts[1]))

    def choices(self, row: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return the answers to choose from; None if the template names none."""
        return self._rendered_choices(self._context(row, self._in_choices))

    def _parts(self, row: Mapping[str, Any]) -> list[str]:
        context = self._context(row)
        choices = self._rendered_choices(context)
        if choices is not None:
            context[_CHOICES] = list(choices)
        # Without a target only the prompt is wanted: what the answer part then lacks is no mistake.
        strict = self._target is None or self._task.target in context
        return _split(_compiled(str(self._task.template), strict), context)

    def _rendered_choices(self, context: dict[str, Any]) -> tuple[str, ...] | None:
        choices = self._task.answer_choices
        return None if choices is None else tuple(_split(_compiled(choices), context))

    def _context(self, row: Mapping[str, Any], names: Set[str] | None = None) -> dict[str, Any]:
        """Return the values of the variables, or of those among `names`."""
        wanted = self._readers.keys() if names is None else names & self._readers.keys()
        context = {name: self._readers[name](row) for name in wanted}
        if self._target is not None:
            with suppress(MissingColumnError):
                value = self._target(row)
                context[str(self._task.target)] = self._indices.get(spell(value), value)
        return context


def check_syntax(template: str, field: str) -> None:
    """Raise a `ValueError` that names line and reason if `template` is not a Jinja template."""
    from jinja2 import TemplateSyntaxError

    try:
        _compiled(template)
    except TemplateSyntaxError as failure:
        raise ValueError(f"{field}: not a Jinja template (line {failure.lineno}: {failure.message})") from None


def _split(template: Any, context: dict[str, Any]) -> list[str]:
    from jinja2 import TemplateError

    try:
        rendered = template.render(context)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as failure:
        raise ValueError(f"the template cannot be filled in: {failure}") from None
    return [part.strip() for part in rendered.split(_MARK)]


@cache
def _compiled(template: str, strict: bool = True) -> Any:
    return _environment(strict).from_string(template.replace(SEPARATOR, _MARK))


@cache
def _variables(template: str) -> set[str]:
    from jinja2 import meta

    environment = _environment(strict=True)
    return meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys()


@cache
def _environment(strict: bool) -> "SandboxedEnvironment":
    from jinja2 import StrictUndefined, Undefined, pass_context
    from jinja2.sandbox import SandboxedEnvironment

    @pass_context
    def choice(context: Any, items: Any) -> Any:
        """The filter `choice` of promptsource, which here depends on the row alone: the same row, the same prompt."""
        row = {name: value for name, value in context.get_all().items() if isinstance(value, (str, int, float))}
        return random.Random(repr(sorted(row.items()))).choice(list(items))

    environment = SandboxedEnvironment(undefined=StrictUndefined if strict else Undefined)
    environment.filters["choice"] = choice
    return environment
