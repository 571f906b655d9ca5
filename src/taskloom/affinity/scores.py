"""What is estimated: each task's metric after training on each subset, and what a task gains by one over another.

A gain is far better known than the two estimates that it is the difference of, for both are of the same validation
examples: its standard error is that of the examples' differences (a paired comparison).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.affinity.metrics import Metric
from taskloom.affinity.source import TaskGradients

__all__ = ["Estimates", "Gains", "deviation", "measured"]


@dataclass(frozen=True)
class Gains:
    """By how much subsets improve on others, task by task; larger is better.

    Attributes:
        values: ``[subsets, tasks]``, the difference of the metric, negated for a loss. NaN where not asked for.
        stderr: ``[subsets, tasks]``, its standard error, from the finite number of validation examples and, with
            several sources, from the spread of the difference over them.
    """

    values: Tensor
    stderr: Tensor


@dataclass(frozen=True)
class Estimates:
    """How every task is estimated to do after training on each subset.

    Attributes:
        tasks: the columns.
        subsets: the rows.
        values: ``[subsets, tasks]``, the metric; with several sources the mean over them. NaN where not asked for.
        stderr: ``[subsets, tasks]``, the standard error from the finite number of validation examples.
        spread: ``[subsets, tasks]``, the standard deviation over the sources; None with one source.
        metric: the metric's name. Higher is better, except for "loss" and "mse".
        sources: the number of sources.
        gains: over each task trained alone; None where not asked for.
    """

    tasks: tuple[str, ...]
    subsets: tuple[tuple[str, ...], ...]
    values: Tensor
    stderr: Tensor
    spread: Tensor | None
    metric: str
    sources: int = 1
    gains: Gains | None = None

    def rows(self) -> Iterator[tuple[str, tuple[str, ...], float, float]]:
        """Yield ``(task, trained on, estimate, standard error)`` of everything that was asked for."""
        asked = ~self.values.isnan()
        for subset, values, errors, wanted in zip(
            self.subsets, self.values.tolist(), self.stderr.tolist(), asked.tolist(), strict=True
        ):
            for task, value, error, want in zip(self.tasks, values, errors, wanted, strict=True):
                if want:
                    yield task, subset, value, error


def measured(splits: list[TaskGradients], measure: Metric, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return a metric of one task after each change of the model, from the linearised outputs.

    Args:
        splits: the task's examples, as each source sees them.
        measure: the metric.
        coefficients: ``[sources, subsets, dimensions]``.

    Returns:
        The values ``[sources, subsets]``, and the influences ``[subsets, examples]`` on their mean over sources.
    """
    values, influences = [], torch.zeros(())
    for split, change in zip(splits, coefficients, strict=True):
        outputs = torch.addmm(split.outputs.double(), change, split.gradients.double().T)
        value, influence = measure(outputs, split.labels.double())
        values.append(value)
        # The sources look at the same examples: their influences average, and errors that they share stay.
        influences = influences + influence / len(splits)
    return torch.stack(values), influences


def deviation(values: Tensor) -> Tensor:
    """Return the standard deviation over sources, 0 with one."""
    return values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
