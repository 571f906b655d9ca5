"""The directions of L-BFGS for many problems at once, around what is known of their Hessians beforehand.

L-BFGS (Nocedal, Wright 2006, algorithm 7.4) corrects an approximate inverse Hessian by the last few steps. The better
that is, the fewer steps: here it is either each problem's exact Hessian, or a diagonal one in shared eigenvectors.
"""

import torch
from torch import Tensor

__all__ = ["HISTORY", "ExactInverse", "Memory", "RotatedInverse"]

HISTORY = 10  # the steps that are remembered


class ExactInverse:
    """Multiplication by the inverses of Hessians, given as their Cholesky factors ``[problems, d, d]``."""

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    def __call__(self, right: Tensor) -> Tensor:
        # Two triangular solves are several times faster here than `torch.cholesky_solve`.
        half = torch.linalg.solve_triangular(self.factor, right.unsqueeze(2), upper=False)
        return torch.linalg.solve_triangular(self.factor.mT, half, upper=True).squeeze(2)

    def keep(self, rows: Tensor) -> None:
        self.factor = self.factor[rows]


class RotatedInverse:
    """Multiplication by the inverses of matrices that are diagonal, ``[problems, d]``, in shared eigenvectors."""

    def __init__(self, vectors: Tensor, diagonal: Tensor) -> None:
        self.vectors, self.diagonal = vectors, diagonal

    def __call__(self, right: Tensor) -> Tensor:
        return ((right @ self.vectors) / self.diagonal) @ self.vectors.T

    def keep(self, rows: Tensor) -> None:
        self.diagonal = self.diagonal[rows]


class Memory:
    """L-BFGS's two loops (Nocedal, Wright 2006, algorithm 7.4), one problem a row, around inverse Hessians."""

    def __init__(self, inverse: ExactInverse | RotatedInverse) -> None:
        self.inverse = inverse
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        curvature = (step * change).sum(1, keepdim=True)
        # Strong convexity makes the curvature positive, except where rounding is all that is left of a step.
        scale = torch.where(curvature > 0, 1 / curvature, torch.zeros_like(curvature))
        self.pairs = [*self.pairs[-HISTORY + 1 :], (step, change, scale)]

    def direction(self, gradient: Tensor) -> Tensor:
        q = gradient.clone()
        weights = []
        for step, change, scale in reversed(self.pairs):
            weight = scale * (step * q).sum(1, keepdim=True)
            q -= weight * change
            weights.append(weight)
        r = self.inverse(q)
        for (step, change, scale), weight in zip(self.pairs, reversed(weights), strict=True):
            r += step * (weight - scale * (change * r).sum(1, keepdim=True))
        return -r

    def keep(self, rows: Tensor) -> None:
        self.inverse.keep(rows)
        self.pairs = [(step[rows], change[rows], scale[rows]) for step, change, scale in self.pairs]
