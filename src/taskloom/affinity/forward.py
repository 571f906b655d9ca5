"""Estimates by running the model (the published evaluation): each subset's estimated weights are written into it.

The linearised evaluation reads the same outputs off the validation gradients. This one keeps what the first-order
expansion leaves out, at the price of one pass over the validation examples a subset.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from taskloom.affinity.metrics import LOWER_IS_BETTER, metric_for, standard_error
from taskloom.affinity.outputs import OutputFunction
from taskloom.affinity.scores import Estimates, Gains
from taskloom.affinity.store import GradientStore
from taskloom.affinity.surrogate import SubsetSurrogate
from taskloom.gradients import written_back
from taskloom.progress import counted

__all__ = ["forward_estimates"]


def forward_estimates(
    surrogate: SubsetSurrogate,
    store: GradientStore,
    subsets: Sequence[Sequence[str]],
    metric: str,
    model: nn.Module,
    validation: Mapping[str, DataLoader],
    output_fn: OutputFunction,
    forward: Callable[[nn.Module, Mapping[str, Tensor]], object],
    console: Console | None = None,
) -> Estimates:
    """Return what `SubsetSurrogate.estimate` does for each subset's members, from real outputs of the changed model.

    Gains over training alone are there where each task of a subset is a subset of its own, too, earlier in the list.

    Args:
        surrogate: fitted on `store` alone.
        store: the gradients of `model`.
        subsets: the tasks of each subset.
        metric: as for `SubsetSurrogate.evaluate`.
        model: the base model, in evaluation mode; its weights are as before afterwards.
        validation: each task's held-out examples, in the order of the store.
        output_fn: the output function of the collection.
        forward: runs the model on a batch.
        console: where progress is shown.
    """
    named = tuple(tuple(subset) for subset in subsets)
    values, errors, gains, gain_errors = (
        torch.full((len(named), len(surrogate.tasks)), torch.nan, dtype=torch.float64) for _ in range(4)
    )
    alone: dict[str, tuple[Tensor, Tensor]] = {}
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    with counted(console, "forward evaluation", len(named), "subsets") as advance:
        for row, (subset, change) in enumerate(zip(named, surrogate.fit(named), strict=True)):
            with written_back(model, store.projection, change), torch.no_grad():
                for task in subset:
                    rows = store.validation(task)
                    batches = [output_fn(forward(model, batch), batch).cpu() for batch in validation[task]]
                    value, influence = metric_for(metric, task, rows)(
                        torch.cat(batches)[None].double(), rows.labels.double()
                    )
                    column = surrogate.position(task)
                    values[row, column] = value[0]
                    errors[row, column] = standard_error(influence)[0]
                    if len(subset) == 1:
                        alone[task] = value, influence
                    if task in alone:
                        base, base_influence = alone[task]
                        gains[row, column] = sign * (value - base)[0]
                        gain_errors[row, column] = standard_error(influence - base_influence)[0]
            advance(1)
    compared = None if bool((gains.isnan() & ~values.isnan()).any()) else Gains(gains, gain_errors)
    return Estimates(surrogate.tasks, named, values, errors, None, metric, gains=compared)
