"""Gradients as lists, a tensor or None a parameter: how they agree with the held-out one, and how they add up."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from taskloom.gradients import inner
from taskloom.processes import sum_over, world_size

__all__ = ["Gradient", "HeldOut", "accumulate", "add", "kept", "over_processes", "total"]

Gradient = list[Tensor | None]


class HeldOut:
    """The held-out gradient.

    Args:
        gradient: of all parameters of the body.
        covered: on which of them gradients are compared.
    """

    def __init__(self, gradient: Sequence[Tensor | None], covered: Sequence[bool]) -> None:
        self._covered = covered
        self._gradient = self._only(gradient)
        self._norm = inner(self._gradient, self._gradient).sqrt()

    def _only(self, gradient: Sequence[Tensor | None]) -> Gradient:
        return [each for each, covered in zip(gradient, self._covered, strict=True) if covered]

    def norm(self, gradient: Sequence[Tensor | None]) -> Tensor:
        """Return the norm of a gradient, where gradients are compared."""
        compared = self._only(gradient)
        return inner(compared, compared).sqrt().to(self._norm.device)

    def cosine(self, gradient: Sequence[Tensor | None], norm: Tensor | None = None) -> Tensor:
        """Return the cosine of a gradient with the held-out one, 0 where either is zero; `norm`, if it is known."""
        scale = (self.norm(gradient) if norm is None else norm) * self._norm
        product = inner(self._only(gradient), self._gradient).to(scale.device)
        return torch.where(scale == 0, torch.zeros_like(scale), product / scale)


def kept(gradient: Tensor, factor: Tensor | None) -> Tensor:
    """Return a gradient, or zeros where its factor is zero, for zero times infinity would be NaN."""
    if factor is None or (factor.device.type == "cpu" and factor > 0):  # elsewhere a look would wait for the device
        return gradient
    return torch.where(factor > 0, gradient, torch.zeros_like(gradient))


def accumulate(summed: Gradient, gradient: Sequence[Tensor | None], weight: Tensor, factor: Tensor | None) -> None:
    """Add a weighted gradient, if its factor keeps it, to `summed`, in place."""
    for index, each in enumerate(gradient[: len(summed)]):
        if each is None:
            continue
        part, scale, before = kept(each, factor), weight.to(each.dtype), summed[index]
        summed[index] = part * scale if before is None else before.addcmul_(part, scale)


def add(parameter: nn.Parameter, gradient: Tensor | None, weight: float, factor: Tensor | None = None) -> None:
    """Add a weighted gradient, if its factor keeps it, to a parameter's own."""
    if gradient is None:
        return
    part = kept(gradient, factor)
    parameter.grad = part * weight if parameter.grad is None else parameter.grad.add_(part, alpha=weight)


def over_processes(gradient: Gradient, like: Sequence[Tensor]) -> Gradient:
    """Return the sum of a gradient over the processes; None only where it is None in all of them.

    Args:
        gradient: of this process.
        like: of the same shapes, for what is None here and not elsewhere.
    """
    if world_size() == 1:
        return gradient
    # Told from memory to memory: a GPU that is still at work on the gradient is not waited for.
    used = sum_over(torch.tensor([each is not None for each in gradient], dtype=torch.int)).tolist()
    summed: Gradient = [None] * len(gradient)
    filled = [
        (index, torch.zeros_like(like[index]) if each is None else each)
        for index, each in enumerate(gradient)
        if used[index]
    ]
    for dtype in dict.fromkeys(each.dtype for _, each in filled):
        part = [(index, each) for index, each in filled if each.dtype == dtype]
        flat = sum_over(torch.cat([each.reshape(-1) for _, each in part]))
        for (index, each), values in zip(part, flat.split([each.numel() for _, each in part]), strict=True):
            summed[index] = values.view_as(each)
    return summed


def total(a: Gradient, b: Gradient) -> Gradient:
    """Return the sum of two gradients."""
    return [x if y is None else y if x is None else x + y for x, y in zip(a, b, strict=True)]
