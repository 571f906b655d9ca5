"""Grad-TAG's published projected gradients, written plainly: an `autograd.grad` call an example, a dense matrix."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["published_matrix", "published_projected_gradients"]


def published_matrix(parameters: int, dimensions: int, seed: int = 0) -> Tensor:
    """Return P, [parameters, dimensions]: ±1 / sqrt(dimensions), whole, in float32 (published: float64)."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (parameters, dimensions), generator=generator, dtype=torch.int8)
    return signs.float().mul_(2).sub_(1).div_(dimensions**0.5)


def published_projected_gradients(
    model: nn.Module, batch: dict[str, Tensor], output_fn: Callable[[Any, Any], Tensor], matrix: Tensor
) -> Tensor:
    """Return [batch, dimensions]: a forward of the batch, then a backward pass and a product with P an example."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for value in output_fn(model(**batch), batch):
        gradient = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in gradient]) @ matrix)
    return torch.stack(rows)
