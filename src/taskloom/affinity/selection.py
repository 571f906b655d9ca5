"""Which tasks to train with a given one: forward selection, and what each task adds to the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from taskloom.affinity.surrogate import SubsetSurrogate

__all__ = ["Gain", "Selection", "forward_selection", "leave_one_out"]


class Gain(NamedTuple):
    """By how much a task improves another (larger is better), with the standard error of the paired comparison."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Selection:
    """The tasks in the order in which they were chosen, the target first.

    Attributes:
        tasks: the chosen tasks.
        estimates: the target's metric after each choice; the first is the target alone.
        gains: what each choice after the first added.
        metric: the metric.
    """

    tasks: tuple[str, ...]
    estimates: tuple[float, ...]
    gains: tuple[Gain, ...]
    metric: str


def forward_selection(
    surrogate: SubsetSurrogate,
    target: str,
    *,
    metric: str = "loss",
    candidates: Sequence[str] | None = None,
    max_tasks: int | None = None,
    z: float = 0.0,
) -> Selection:
    """Add, one at a time, the task that most improves the target's estimate, until none does.

    Args:
        surrogate: the estimator.
        target: the task that matters.
        metric: see `SubsetSurrogate.evaluate`.
        candidates: the tasks to choose from; None is all.
        max_tasks: the most tasks to choose, the target included.
        z: how many of its standard errors a gain must exceed; with 2, chance on the validation examples rarely does.

    Raises:
        ValueError: a task is unknown, or `max_tasks` is less than 1.
    """
    column = surrogate.position(target)
    limit = len(surrogate.tasks) if max_tasks is None else max_tasks
    if limit < 1:
        raise ValueError(f"`max_tasks` must be at least 1, found {max_tasks}")
    left = [task for task in (surrogate.tasks if candidates is None else candidates) if task != target]
    chosen = [target]
    coefficients = surrogate.fit([chosen])
    estimates = [float(surrogate.evaluate(coefficients, metric, [target])[0, column])]
    gains: list[Gain] = []
    while left and len(chosen) < limit:
        # The answer without the new task is a good place to start from.
        start = coefficients.expand(*coefficients.shape[:-2], len(left), -1)
        trials = surrogate.fit([[*chosen, task] for task in left], start=start)
        found = surrogate.compare(trials, coefficients, metric, [target])
        best = int(found.values[:, column].argmax())
        gain = Gain(float(found.values[best, column]), float(found.stderr[best, column]))
        if not gain.value > z * gain.stderr:
            break
        chosen.append(left.pop(best))
        coefficients = trials[..., best : best + 1, :]
        estimates.append(float(surrogate.evaluate(coefficients, metric, [target])[0, column]))
        gains.append(gain)
    return Selection(tuple(chosen), tuple(estimates), tuple(gains), metric)


def leave_one_out(
    surrogate: SubsetSurrogate, target: str, *, metric: str = "loss", tasks: Sequence[str] | None = None
) -> dict[str, Gain]:
    """Return by how much each other task improves the target: training on all tasks over training without it.

    Args:
        surrogate: the estimator.
        target: the task that matters.
        metric: see `SubsetSurrogate.evaluate`.
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
    losses = surrogate.compare(without, whole, metric, [target])
    values, errors = -losses.values[:, column], losses.stderr[:, column]
    return {task: Gain(*pair) for task, *pair in zip(others, values.tolist(), errors.tolist(), strict=True)}
