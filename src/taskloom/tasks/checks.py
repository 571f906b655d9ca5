"""Which fields of a task go together: the checks of a declaration, before any data is read."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from taskloom.errors import did_you_mean
from taskloom.tasks.kinds import INPUT_COUNTS, LABELLED_KINDS

if TYPE_CHECKING:
    from taskloom.tasks.task import Task

__all__ = ["check_task"]

#: Fields of text2text tasks whose answers are generated.
GENERATION_FIELDS = ("max_generated_length", "min_target_length", "num_beams")
#: Fields of text2text tasks alone.
TEXT2TEXT_FIELDS = ("answers", "choices", "round_to", "max_target_length", *GENERATION_FIELDS)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: Names that Windows keeps for devices, with any ending.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SPLIT_NAME = re.compile(r"train|(dev|test)\w*")


def check_task(task: "Task") -> None:
    """Check what the type of each field alone does not say.

    Raises:
        ValueError: fields exclude or miss each other; the message begins with the field's name.
    """
    if not _NAME.fullmatch(task.name):
        raise ValueError(
            f"name '{task.name}' may hold only letters, digits and _ . -, and starts with one of the first two"
        )
    if _DEVICE.fullmatch(task.name) or task.name.endswith("."):
        raise ValueError(f"name '{task.name}' can be no file's name under Windows; a task's files are called after it")
    if task.template is not None:
        _check_template(task)
    else:
        _check_inputs(task)
    if task.target is None and task.kind != "lm":
        raise ValueError(f"target: a {task.kind} task needs the name of its target column")
    verbalised = task.kind == "text2text" and (task.answers is not None or task.template is not None)
    if task.kind in LABELLED_KINDS or verbalised:
        _check_labels(task)
    elif task.labels is not None or task.label_values is not None:
        if task.kind == "text2text":
            raise ValueError("labels: a text2text task needs `answers` beside them, the text of each label")
        raise ValueError(f"labels: a {task.kind} task has none; remove them or change the kind")
    _check_windows(task)
    _check_answers(task)
    _check_division(task)
    for split in (*task.splits, *task.optional_splits, *(task.headerless or ())):
        if not _SPLIT_NAME.fullmatch(split):
            raise ValueError(
                f"splits: '{split}' is no split name; use train, dev, test or a name that starts with dev or test"
            )
    if task.dataset is not None and task.path is not None:
        raise ValueError("dataset and path exclude each other: give one of them")


def _check_inputs(task: "Task") -> None:
    fewest, most = (2, 2) if task.windows else INPUT_COUNTS[task.kind]
    if not fewest <= len(task.inputs) <= most:
        expected = str(most) if fewest == most else f"{fewest} or {most}"
        if task.windows:
            raise ValueError(
                f"inputs: a task with windows has 2, what stands before the context and the context, "
                f"found {len(task.inputs)}"
            )
        raise ValueError(
            f"inputs: a {task.kind} task has {expected}, found {len(task.inputs)}; "
            'join columns with a template such as "{first} {second}"'
        )


def _check_template(task: "Task") -> None:
    from taskloom.tasks.templates import SEPARATOR, check_syntax

    template = str(task.template)
    if task.inputs:
        raise ValueError("template and inputs exclude each other: give one of them")
    if task.kind not in ("classification", "text2text"):
        raise ValueError(f"template: a {task.kind} task has none; it is for classification and text2text tasks")
    if task.kind == "text2text" and SEPARATOR not in template:
        raise ValueError(f"template: there is no {SEPARATOR} between the prompt and the answer")
    check_syntax(template, "template")
    if task.answer_choices is not None:
        check_syntax(task.answer_choices, "answer_choices")


def _check_answers(task: "Task") -> None:
    """Check what only text2text tasks have."""
    for name in TEXT2TEXT_FIELDS:
        if task.kind != "text2text" and getattr(task, name) is not None:
            raise ValueError(f"{name}: a {task.kind} task has none; it is for text2text tasks")
    if task.round_to is not None and (task.answers is not None or task.template is not None):
        raise ValueError("round_to: the answers or the template say what the target becomes; remove one of them")
    longest = task.max_generated_length or task.max_target_length
    if task.min_target_length is not None and longest is not None and task.min_target_length > longest:
        raise ValueError(f"min_target_length: {task.min_target_length} is more than the longest answer ({longest})")
    if task.answers is not None:
        if task.template is not None:
            raise ValueError("answers: the template says what the answer is; remove one of them")
        for label in task.labels or ():
            if label not in task.answers:
                raise ValueError(f"answers: there is none for the label '{label}'")
        for label in task.answers if task.labels else ():
            if label not in (task.labels or ()):
                raise ValueError(f"answers: '{label}' is no label.{did_you_mean(label, task.labels or ())}")
    for name, texts in {"answers": task.answers, "choices": task.choices}.items():
        if texts is not None and not isinstance(texts, str):
            _check_known_texts(name, tuple(texts.values()) if isinstance(texts, Mapping) else texts)
    if task.decoding == "rank" and not task.has_choices:
        raise ValueError("decoding: rank needs to know the choices: give `choices` or `answers`")
    for name in GENERATION_FIELDS:
        if task.ranks and getattr(task, name) is not None:
            raise ValueError(
                f"{name}: the answer is the likeliest of the choices and not generated; set `decoding: generate`"
            )


def _check_windows(task: "Task") -> None:
    if task.kind != "text2text" and task.id is not None:
        raise ValueError(f"id: a {task.kind} task has none; it is for text2text tasks")
    if not task.windows:
        for name, given in {"spans": task.spans is not None, "null_windows": task.null_windows == "drop"}.items():
            if given:
                raise ValueError(f"{name}: only a task with `windows: true` has it")
        return
    if task.kind != "text2text":
        raise ValueError(f"windows: a {task.kind} task has none; it is for text2text tasks")
    for name in ("template", "answers", "choices"):
        if getattr(task, name) is not None:
            raise ValueError(f"{name}: a task with windows takes its answers from the context; remove one of them")


def _check_division(task: "Task") -> None:
    if task.divide is None:
        return
    if task.path is None or task.splits or task.dataset is not None:
        raise ValueError("divide: give one file as `path`, and neither `splits` nor `dataset`")
    for split, share in task.divide.items():
        if not _SPLIT_NAME.fullmatch(split):
            raise ValueError(f"divide: '{split}' is no split name; use train, dev and test")
        if share <= 0:
            raise ValueError(f"divide: the share of {split} must be above 0, found {share:g}")
    if abs(sum(task.divide.values()) - 1) > 1e-6:
        raise ValueError(f"divide: the shares must add up to 1, found {sum(task.divide.values()):g}")


def _check_labels(task: "Task") -> None:
    if task.labels is not None and len(task.labels) < 2:
        raise ValueError(f"labels: at least two are needed, found {len(task.labels)}")
    for name in ("labels", "label_values"):
        values = getattr(task, name)
        if values is not None and len(set(values)) < len(values):
            raise ValueError(f"{name}: each may appear once, found {', '.join(values)}")
    for name in ("label_values", "submission_labels"):
        values = getattr(task, name)
        if values is not None and len(values) != len(task.labels or ()):
            raise ValueError(
                f"{name}: as many as labels are needed, found {len(values)} for {len(task.labels or ())} labels"
            )


def _check_known_texts(name: str, texts: Sequence[str]) -> None:
    """Refuse a text without a letter, and texts that are all the same: neither can be an answer to choose."""
    for text in texts:
        if not text.strip():
            raise ValueError(f"{name}: found the text {text!r}, expected one that is not blank")
    if len({text.strip() for text in texts}) < 2:
        raise ValueError(f"{name}: at least two different texts are needed, found {', '.join(texts) or 'none'}")
