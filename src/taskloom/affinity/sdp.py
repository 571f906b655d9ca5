"""The relaxed clustering problem (Grad-TAG, section 3.3): the densest k clusters, as a semi-definite programme.

    maximise  <A, X>   over symmetric X   with   X PSD,  X >= 0,  X 1 = 1,  trace X = k

A partition into clusters C_1..C_k is the feasible X with ``X_ij = 1 / |C|`` for i, j in the same cluster C; then
``<A, X>`` is the sum of the clusters' average densities. The constraints but ``X >= 0`` fix a spectrum: X is
``1 1^T / n`` plus a matrix orthogonal to 1 with eigenvalues in [0, 1] that sum to k - 1. Projecting on that set is one
eigendecomposition, on ``X >= 0`` a clamp; the alternating direction method of multipliers (Boyd et al. 2011, section 5)
joins the two. Every answer is certified by a feasible X and by a dual bound, whose difference is the gap.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

__all__ = ["Relaxation", "solve_relaxation"]

Matrix = NDArray[np.float64]
CHECK_EVERY = 25
OVER_RELAXATION = 1.6


@dataclass(frozen=True)
class Relaxation:
    """The solution: a feasible ``X [n, n]``, its value, and an upper bound that no feasible X exceeds."""

    X: Matrix
    value: float
    bound: float


def solve_relaxation(
    affinity: Matrix,
    k: int,
    tolerance: float = 1e-6,
    max_steps: int = 5000,
    good_enough: Callable[[Matrix], float] | None = None,
) -> Relaxation:
    """Solve the programme for a symmetric matrix and ``1 < k < n``.

    Args:
        affinity: ``[n, n]``, symmetric.
        k: the number of clusters.
        tolerance: the gap to reach, as a share of the largest possible difference that clustering can make: the bound
            without ``X >= 0``, over the value of the uniform X.
        max_steps: the steps after which the best found is returned, with whatever gap is left.
        good_enough: a function of X that returns the value of a partition made from it; the search ends as soon as
            that reaches the bound too, for then the partition is optimal and a better X is of no use.
    """
    n = len(affinity)

    def upper(slack: Matrix) -> float:
        """Return the dual bound of multipliers ``slack >= 0`` of ``X >= 0``."""
        moved = affinity + slack
        values = eigh(_centred(moved), eigvals_only=True, subset_by_index=(n - k + 1, n - 1))
        return float(moved.sum() / n + values.sum())

    even = np.full((n, n), (n - k) / (n * (n - 1)))
    np.fill_diagonal(even, k / n)
    even_value = float((affinity * even).sum())
    bound = upper(np.zeros_like(affinity))
    size = np.abs(affinity).max()
    scale = max(bound - even_value, n * np.finfo(float).eps * size, np.finfo(float).tiny)

    # Entries of X are of the order k / n, those of the multipliers of the order of A: rho carries one to the other.
    rho = max(np.ptp(affinity), np.finfo(float).eps * size, np.finfo(float).tiny) * n / k
    Y, U = even.copy(), np.zeros_like(affinity)  # noqa: N806
    best = Relaxation(even, even_value, bound)
    next_look = CHECK_EVERY
    for step in range(1, max_steps + 1):
        X = _spectral_projection(Y - U + affinity / rho, k)  # noqa: N806
        relaxed = OVER_RELAXATION * X + (1 - OVER_RELAXATION) * Y
        previous, moved = Y, relaxed + U
        Y = np.maximum(moved, 0)  # noqa: N806
        U = np.minimum(moved, 0)  # noqa: N806
        if step % CHECK_EVERY:
            continue
        feasible = _feasible(X, even)
        value, bound = float((affinity * feasible).sum()), min(best.bound, upper(-rho * U))
        best = Relaxation(feasible, value, bound) if value >= best.value else Relaxation(best.X, best.value, bound)
        reached = best.value
        # Making a partition costs as much as many steps, hence ever more steps between two of them.
        if bound - reached > tolerance * scale and good_enough is not None and step >= next_look:
            next_look = 2 * step
            reached = max(reached, good_enough(best.X))
        if bound - reached <= tolerance * scale:
            break
        # Residual balancing (Boyd et al. 2011, section 3.4.1); U is scaled by rho.
        primal, dual = float(np.linalg.norm(X - Y)), float(np.linalg.norm(Y - previous))
        if primal > 3 * dual or dual > 3 * primal:
            factor = 2.0 if primal > dual else 0.5
            rho, U = rho * factor, U / factor  # noqa: N806
    return best


def _centred(matrix: Matrix) -> Matrix:
    """Return the matrix orthogonally to the vector 1, which becomes the eigenvector of the lowest eigenvalue."""
    rows = matrix.mean(0)
    inner = matrix - rows - rows[:, None] + rows.mean()
    inner = (inner + inner.T) / 2
    return inner - 2 * np.linalg.norm(inner) / len(matrix)


def _spectral_projection(matrix: Matrix, k: int) -> Matrix:
    """Return the nearest ``1 1^T / n + Z``: Z orthogonal to 1, eigenvalues in [0, 1], trace k - 1."""
    values, vectors = np.linalg.eigh(_centred(matrix))
    shares = _capped_simplex(values[1:], k - 1)
    used = shares > 0
    kept = vectors[:, 1:][:, used] * np.sqrt(shares[used])
    return kept @ kept.T + 1 / len(matrix)


def _capped_simplex(values: Matrix, total: float) -> Matrix:
    """Return the numbers in [0, 1] with the sum `total` that are nearest to `values`: a shift and a clamp."""
    # The sum falls piecewise linearly as the shift grows, with corners where a number meets 0 or 1.
    corners = np.sort(np.concatenate([values, values - 1]))
    low, high = 0, len(corners) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if np.clip(values - corners[middle], 0, 1).sum() >= total else (low, middle)
    sums = [np.clip(values - corners[end], 0, 1).sum() for end in (low, high)]
    share = (sums[0] - total) / (sums[0] - sums[1]) if sums[0] > sums[1] else 0.0
    return np.clip(values - (corners[low] + share * (corners[high] - corners[low])), 0, 1)


def _feasible(X: Matrix, even: Matrix) -> Matrix:  # noqa: N803
    """Return a feasible matrix near X, which lacks only ``X >= 0``: a mixture with the even one, which is positive."""
    lowest = X.min()
    if lowest >= 0:
        return X
    share = -lowest / (even[0, 1] - lowest)
    return np.maximum((1 - share) * X + share * even, 0)
