"""What a model that ignores its input would score: the floor that a learned score must clear."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any

from taskloom.evaluation.metrics import score_task

if TYPE_CHECKING:
    from taskloom.tasks.task import Task

__all__ = ["majority_baseline"]


def majority_baseline(task: "Task", train_targets: Sequence[Any], dev_targets: Sequence[Any]) -> dict[str, float]:
    """Return the metrics on the dev split of the constant prediction that suits the train split best.

    The constant is the most frequent class (the first of equals), text or tag, the mean of a regression
    target, or the empty answer of a span task. Targets are as in ``Examples.targets``. A language model has
    no constant
    prediction: its result is empty.
    """
    if task.kind == "lm":
        return {}
    return score_task(task, _constant_predictions(task.kind, train_targets, dev_targets), dev_targets)


def _constant_predictions(kind: str, train_targets: Sequence[Any], dev_targets: Sequence[Any]) -> list[Any]:
    if kind == "token":
        tag = _most_frequent(chain.from_iterable(train_targets))
        return [[tag] * len(sentence) for sentence in dev_targets]
    if kind == "span":
        constant = ""
    elif kind == "regression":
        constant = fmean(train_targets)
    elif kind == "text2text":
        constant = _most_frequent(target if isinstance(target, str) else target[0] for target in train_targets)
    else:
        constant = _most_frequent(train_targets)
    return [constant] * len(dev_targets)


def _most_frequent(values: Any) -> Any:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))
