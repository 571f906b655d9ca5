"""Estimated weights written into a model for a while: θ + P c (Grad-TAG, section 3.2)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from taskloom.gradients.projection import Projection

__all__ = ["written_back"]


@contextmanager
def written_back(model: nn.Module, projection: Projection, coefficients: Tensor) -> Iterator[nn.Module]:
    """Inside, the trainable parameters of `model` are θ + P c; afterwards they are θ again, bit for bit.

    Args:
        model: the model whose gradients were projected; its parameters' names and `requires_grad` select P.
        projection: the one that the gradients were projected with.
        coefficients: c, [dimensions].
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    try:
        with torch.no_grad():
            for name, parameter in trained.items():
                change = projection.back(coefficients.to(parameter.device), {name: parameter.shape})[name]
                parameter.copy_(parameter + change)  # added in float32, rounded once
        yield model
    finally:
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(before[name])
