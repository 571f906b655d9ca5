"""What the target column of a row may hold, by kind of task, and what it becomes."""

import math
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from taskloom.errors import did_you_mean
from taskloom.tasks.columns import as_text, as_words
from taskloom.tasks.spans import answer_texts
from taskloom.tasks.task import Task, spell

__all__ = ["accepted", "target_parser"]

#: Takes the value of a target column and the example's texts.
TargetParser = Callable[[Any, tuple[str, ...]], Any]


def accepted(target: str | Sequence[str]) -> Sequence[str]:
    """Return the texts that count as right for a text2text example, the one to train on first."""
    return [target] if isinstance(target, str) else target


def target_parser(task: Task, name: str) -> TargetParser:
    """Return the function that turns a value of the target column `name` into the target of an example.

    The function returns a class index (classification), a number (regression), a list of class indices
    (token), ``{"text": [...], "answer_start": [...]}`` (span), a text or a list of right texts (text2text). It
    raises a `ValueError` whose message says what was found and what was expected.
    """
    if task.kind == "regression":
        return lambda value, _: _number(value, name)
    if task.kind == "span":
        return lambda value, texts: _answers(value, texts[1], name)
    if task.windows:
        return lambda value, _: answer_texts(value, name) or [""]
    if task.kind == "text2text":
        answers = task.answers
        if task.round_to is not None:
            step = Decimal(str(task.round_to))
            step = Decimal(int(step)) if step == step.to_integral_value() else step
            return lambda value, _: _rounded(value, step, name)
        if answers is None and {"pearson", "spearman"} & set(task.metrics):
            return lambda value, _: _number_texts(value, name)
        if answers is None:
            return lambda value, _: _texts(value, name)
        if task.labels:
            answers = dict(
                zip(task.label_values or task.labels, (answers[label] for label in task.labels), strict=True)
            )
        return lambda value, _: _verbalised(value, answers, name)

    indices = {value: index for index, value in enumerate(task.label_values or task.labels or ())}
    if task.kind == "token":
        return lambda value, words: _tags(value, words, indices, name)
    return lambda value, _: _class_index(value, indices, name)


def _texts(value: Any, name: str) -> str | list[str]:
    """Return a text, or the texts of a list: any of them is a right answer, and the first is trained on."""
    if not isinstance(value, list):
        return as_text(value, name)
    if not value:
        raise ValueError(f"the field '{name}' holds an empty list, expected at least one text")
    return [as_text(text, name) for text in value]


def _number_texts(value: Any, name: str) -> str | list[str]:
    """Return the texts of a target that a correlation is to be computed with: they spell numbers."""
    texts = _texts(value, name)
    for text in accepted(texts):
        _number(text, name)
    return texts


def _verbalised(value: Any, answers: dict[str, str], name: str) -> str:
    spelled = as_text(value, name)
    if spelled not in answers:
        spelled = spelled.strip()  # Social IQa's hub copy keeps the line feeds of the file of labels
    if spelled not in answers:
        raise ValueError(
            f"'{spelled}' in the field '{name}' has no text among the answers ({', '.join(answers)})."
            f"{did_you_mean(spelled, answers)}"
        )
    return answers[spelled]


def _rounded(value: Any, step: Decimal, name: str) -> str:
    """Return the multiple of `step` next to a number, as text.

    Ties go to the even multiple, as NumPy and T5's preprocessing have it. Six digits are looked at: a hub copy in
    single precision gives the same text as the file.
    """
    number = Decimal(f"{_number(value, name):.6g}")
    nearest = (number / step).to_integral_value(ROUND_HALF_EVEN) * step
    return f"{nearest.quantize(step) + 0:f}"  # adding 0 takes the sign off zero


def _class_index(value: Any, indices: dict[str, int], name: str) -> int:
    spelled = as_text(value, name)
    if spelled not in indices:
        raise ValueError(
            f"label '{spelled}' in the field '{name}' is not in the label list ({', '.join(indices)})."
            f"{did_you_mean(spelled, indices)}"
        )
    return indices[spelled]


def _tags(value: Any, words: tuple[str, ...], indices: dict[str, int], name: str) -> list[int]:
    tags = as_words(value, name)
    if len(tags) != len(words):
        raise ValueError(f"the field '{name}' holds {len(tags)} labels for {len(words)} words, expected one a word")
    return [_class_index(tag, indices, name) for tag in tags]


def _number(value: Any, name: str) -> float:
    try:
        number = float(as_text(value, name))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"the field '{name}' holds {spell(value)!r}, expected a finite number") from None
    return number


def _answers(value: Any, context: str, name: str) -> dict[str, list[Any]]:
    """Check that each answer stands in the context where `answer_start` (in characters) says it does."""
    if not isinstance(value, dict) or not {"text", "answer_start"} <= value.keys():
        raise ValueError(f"the field '{name}' must be an object with the lists `text` and `answer_start`")
    texts, starts = list(value["text"]), list(value["answer_start"])
    if len(texts) != len(starts):
        raise ValueError(f"the field '{name}' holds {len(texts)} texts for {len(starts)} values of answer_start")
    for text, start in zip(texts, starts, strict=True):
        found = context[start : start + len(text)]
        if found != text:
            raise ValueError(
                f"the answer '{text}' in the field '{name}' is not in the context at answer_start {start}, "
                f"where it reads '{found}'"
            )
    return {"text": texts, "answer_start": starts}
