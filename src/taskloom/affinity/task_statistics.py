"""What a task adds to the regressions of the subsets that hold it: sufficient statistics where nothing has moved yet.

A sum over the tasks of a subset is the gradient and the Hessian of its problem at ``c = 0`` (see
`taskloom.affinity.solver`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Basis", "TaskStatistics"]


@dataclass(frozen=True)
class TaskStatistics:
    """A task's share of every subset's problem.

    Attributes:
        gradients: ``[examples, d]``, as stored.
        outputs: ``[examples]``, float64.
        weight: the factor of its sum of losses.
        gradient: ``[d]``, of the weighted sum of losses at ``c = 0``.
        hessian: ``[d, d]``, of the same.
        rounding: what rounding alone may leave of `gradient`.
        quadratic: whether the Hessian is the same everywhere, so that the examples are not needed again.
    """

    gradients: Tensor
    outputs: Tensor
    weight: float
    gradient: Tensor
    hessian: Tensor
    rounding: float
    quadratic: bool

    @classmethod
    def of(cls, gradients: Tensor, outputs: Tensor, labels: Tensor, loss: str, weight: float) -> "TaskStatistics":
        rows, outputs = gradients.double(), outputs.double()
        if loss == "squared":
            slopes, curvatures = outputs - labels.double(), torch.ones_like(outputs)
        else:
            slopes = -torch.sigmoid(-outputs)
            curvatures = -slopes * (1 + slopes)
        hessian = weight * (rows.T @ (rows * curvatures[:, None]))
        rounding = torch.finfo(torch.float64).eps * weight * float(slopes.abs() @ rows.norm(dim=1))
        return cls(gradients, outputs, weight, weight * (slopes @ rows), hessian, rounding, loss == "squared")


@dataclass(frozen=True)
class Basis:
    """What makes all tasks' Hessians about diagonal, once for all problems.

    Attributes:
        vectors: ``[d, d]``, the eigenvectors of the tasks' sum.
        diagonals: ``[tasks, d]``, each Hessian's diagonal in them.
    """

    vectors: Tensor
    diagonals: Tensor

    @classmethod
    def of(cls, tasks: Sequence[TaskStatistics]) -> "Basis":
        total = torch.zeros_like(tasks[0].hessian)
        for task in tasks:
            total += task.hessian
        _, vectors = torch.linalg.eigh(total)
        return cls(vectors, torch.stack([((task.hessian @ vectors) * vectors).sum(0) for task in tasks]))
