"""Combining the gradients of the tasks by a `torchjd` aggregator instead of by their mean.

The encoder is shared, so its gradient is the aggregation of one row a task (the Jacobian of the tasks' losses). Each
head belongs to one task: its gradient is that of its own loss, as in the mean over tasks.

Of several processes each has a share of the batch. A row is a sum over the examples of its task, so the rows of the
whole batch are the sums of the processes' rows; they are aggregated then, not before.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from taskloom.errors import UserError, did_you_mean
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel
from taskloom.processes import from_main, sum_over

__all__ = ["aggregate_gradients", "find_aggregator"]

Aggregator = Callable[[Tensor], Tensor]


def find_aggregator(name: str) -> Aggregator:
    """Return the `torchjd` aggregator of that name, capitals aside (``upgrad``, ``PCGrad``, ``mgda``).

    Raises:
        UserError: `torchjd` is not installed, has no aggregator of that name, or this one needs arguments.
    """
    try:
        from torchjd import aggregation
    except ImportError:
        raise UserError(
            "training.aggregator: gradient aggregation needs torchjd. "
            "Install it with: pip install 'taskloom[aggregation]'"
        ) from None
    classes = {
        item.lower(): getattr(aggregation, item)
        for item in aggregation.__all__
        if isinstance(getattr(aggregation, item), type)
        and issubclass(getattr(aggregation, item), aggregation.Aggregator)
    }
    found = classes.get(name.lower())
    if found is None:
        known = [item.__name__ for item in classes.values()]
        raise UserError(f"training.aggregator: torchjd has no aggregator '{name}'.{did_you_mean(name, known)}")
    try:
        return found()
    except ImportError as error:
        raise UserError(f"training.aggregator: '{name}' needs more packages. {error}") from None
    except TypeError as error:
        raise UserError(f"training.aggregator: '{name}' needs settings that a recipe cannot give ({error}).") from None


def aggregate_gradients(
    model: MultiTaskModel | GenerativeModel,
    outputs: dict[str, Tensor],
    aggregator: Aggregator,
    accumulation_steps: int = 1,
) -> Tensor:
    """Add the aggregated gradient of a batch to ``.grad`` and return the mean of the tasks' losses.

    Args:
        model: the model that made `outputs`.
        outputs: what its `forward` returned for a batch with labels, or for this process's share of one.
        aggregator: maps the Jacobian, ``[tasks present, parameters]``, to one gradient, ``[parameters]``.
        accumulation_steps: number of batches whose gradients are averaged.
    """
    counts = sum_over(outputs["counts"].clone())
    present = counts > 0
    losses = (outputs["loss_sums"][present] / counts[present]) / accumulation_steps
    heads = model.head_parameters()
    own = {id(parameter) for parameter in heads}
    shared = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in own]
    rows = []
    for position in range(len(losses)):
        gradients: Any = torch.autograd.grad(losses[position], shared, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([_flat(g, p) for g, p in zip(gradients, shared, strict=True)]))
    # An aggregator may draw random numbers, which every process draws for itself.
    _accumulate(shared, from_main(aggregator(sum_over(torch.stack(rows)))))
    mean = losses.mean()
    if heads:
        head_gradients: Any = torch.autograd.grad(mean, heads, allow_unused=True)
        _accumulate(heads, sum_over(torch.cat([_flat(g, p) for g, p in zip(head_gradients, heads, strict=True)])))
    return sum_over(mean.detach())


def _flat(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()


def _accumulate(parameters: list[torch.nn.Parameter], flat: Tensor) -> None:
    pieces = flat.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        gradient = piece.view_as(parameter).to(parameter.dtype)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
