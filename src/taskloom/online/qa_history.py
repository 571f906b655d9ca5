"""What a history of evaluations says: which was the best by each metric, and whether to stop.

An evaluation is a mapping with its ``step`` and the metrics found, the history a list of them in order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["METRICS", "BestValue", "best_value", "deciding_metric", "is_out_of_patience"]

#: The metrics by which a model may be chosen, and whether more is better.
METRICS = {"nll": False, "f1": True, "exact_match": True}

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class BestValue:
    """The best value of a metric and the optimizer step after which it was found."""

    step: int
    value: float


def best_value(history: History, metric: str) -> BestValue | None:
    """Return the best value of `metric`, of equal ones the earliest; None if no evaluation has a finite one."""
    best: BestValue | None = None
    for entry in history:
        value = entry.get(metric, math.nan)
        if math.isfinite(value) and (best is None or (value > best.value if METRICS[metric] else value < best.value)):
            best = BestValue(int(entry["step"]), value)
    return best


def deciding_metric(history: History, stop_on: str) -> str:
    """Return `stop_on`, or ``"nll"`` as long as each evaluation found the same `stop_on`.

    This is the published rule: small models may get no answer right, and still become better.
    """
    return "nll" if len({entry.get(stop_on) for entry in history}) <= 1 else stop_on


def is_out_of_patience(history: History, stop_on: str, patience: int | None) -> bool:
    """Return whether the last `patience` evaluations have found nothing better than one before them.

    An equal value is not better. (With the published rule it was as good as a better one, and a metric that had come
    to its end never stopped a training.)
    """
    if patience is None:
        return False
    best = best_value(history, deciding_metric(history, stop_on))
    since = sum(best is None or entry["step"] > best.step for entry in history)
    return since >= patience
