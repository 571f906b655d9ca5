"""The optimizers of the published code, by name."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn
from transformers.optimization import Adafactor

__all__ = ["OptimizerName", "make_optimizer"]

OptimizerName = Literal["adam", "sgd", "adafactor"]


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """Return an optimizer without weight decay; Adafactor runs at the given rate, without relative steps.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "adam":
            return torch.optim.Adam(parameters, lr=learning_rate)
        case "sgd":
            return torch.optim.SGD(parameters, lr=learning_rate)
        case "adafactor":
            return Adafactor(list(parameters), lr=learning_rate, scale_parameter=False, relative_step=False)
        case _:
            raise ValueError(f"`name` must be adam, sgd or adafactor, found {name!r}")
