"""Which tasks to train with a given one: forward selection, and what each task adds to the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from taskloom.affinity.metrics import LOWER_IS_BETTER
from taskloom.affinity.surrogate import SubsetSurrogate

__all__ = ["Selection", "forward_selection", "leave_one_out"]


@dataclass(frozen=True)
class Selection:
    """The tasks in the order in which they were chosen, the target first.

    Attributes:
        tasks: the chosen tasks.
        estimates: the target's metric after each choice; the first is the target alone.
        metric: the metric.
    """

    tasks: tuple[str, ...]
    estimates: tuple[float, ...]
    metric: str


def forward_selection(
    surrogate: SubsetSurrogate,
    target: str,
    *,
    metric: str = "loss",
    candidates: Sequence[str] | None = None,
    max_tasks: int | None = None,
) -> Selection:
    """Add, one at a time, the task that most improves the target's estimate, until none does.

    Args:
        surrogate: the estimator.
        target: the task that matters.
        metric: see `SubsetSurrogate.evaluate`.
        candidates: the tasks to choose from; None is all.
        max_tasks: the most tasks to choose, the target included.

    Raises:
        ValueError: a task is unknown, or `max_tasks` is less than 1.
    """
    column = surrogate.position(target)
    limit = len(surrogate.tasks) if max_tasks is None else max_tasks
    if limit < 1:
        raise ValueError(f"`max_tasks` must be at least 1, found {max_tasks}")
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    left = [task for task in (surrogate.tasks if candidates is None else candidates) if task != target]
    chosen = [target]
    coefficients = surrogate.fit([chosen])
    estimates = [float(surrogate.evaluate(coefficients, metric, [target])[0, column])]
    while left and len(chosen) < limit:
        # The answer without the new task is a good place to start from.
        start = coefficients.expand(*coefficients.shape[:-2], len(left), -1)
        trials = surrogate.fit([[*chosen, task] for task in left], start=start)
        values = sign * surrogate.evaluate(trials, metric, [target])[:, column]
        best = int(values.argmax())
        if not values[best] > sign * estimates[-1]:
            break
        chosen.append(left.pop(best))
        coefficients = trials[..., best : best + 1, :]
        estimates.append(sign * float(values[best]))
    return Selection(tuple(chosen), tuple(estimates), metric)


def leave_one_out(
    surrogate: SubsetSurrogate, target: str, *, metric: str = "loss", tasks: Sequence[str] | None = None
) -> dict[str, float]:
    """Return by how much each other task improves the target: the estimate with all tasks less that without it.

    Args:
        surrogate: the estimator.
        target: the task that matters.
        metric: see `SubsetSurrogate.evaluate`; for a loss the sign is turned, so that more is better.
        tasks: the tasks that are trained together, the target among them; None is all.

    Raises:
        ValueError: a task is unknown, or `tasks` does not hold the target.
    """
    column = surrogate.position(target)
    together = list(surrogate.tasks if tasks is None else tasks)
    if target not in together:
        raise ValueError(f"`tasks` must hold the target '{target}', found {together}")
    others = [task for task in together if task != target]
    if not others:
        return {}
    whole = surrogate.fit([together])
    start = whole.expand(*whole.shape[:-2], len(others), -1)
    without = surrogate.fit([[task for task in together if task != left_out] for left_out in others], start=start)
    values = surrogate.evaluate(torch.cat([whole, without], dim=-2), metric, [target])[:, column]
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    gains = sign * (values[0] - values[1:])
    return dict(zip(others, gains.tolist(), strict=True))
