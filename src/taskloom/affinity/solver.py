"""Thousands of regularised regressions at once, each on the examples of a subset of tasks (Grad-TAG, section 3.2).

For a subset S the problem is, over ``c`` in R^d,

    minimise  sum over tasks t in S of  weight_t * sum over examples i of t of  loss(output_i + g_i . c)   +  |c|^2 / 2

It is strongly convex. A task's gradient and Hessian at ``c = 0`` are sufficient statistics that the subsets share: a
subset's are the sums over its tasks. Where some tasks have the squared loss, the start is the Newton step from the base
model, without a pass over the examples; for a subset of such tasks alone it is the answer. Elsewhere a Cholesky factor
a subset would cost more than all else, and the Hessians are taken as diagonal in the eigenvectors of their sum. From
there L-BFGS, preconditioned in the same way, takes a few matrix products a step, which all subsets that contain a task
share; the first of them in single precision. A problem that is slow gets its exact Hessian, where it stands, every so
many steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from taskloom.affinity.lbfgs import HISTORY, ExactInverse, Memory, RotatedInverse
from taskloom.affinity.task_statistics import Basis, TaskStatistics

__all__ = ["Solution", "bytes_a_subset", "solve"]

REFRESH = 40  # steps after which a problem's Hessian is computed again
ROUGH = 1e-5  # the tolerance that single precision reaches safely
# A step is long enough once the slope along it has fallen to this share of its start, and too long once it has risen
# to that share beyond the minimum. Slopes, unlike values, keep their precision next to the minimum (Hager, Zhang 2005).
TOO_SHORT, TOO_LONG = -0.7, 0.25


@dataclass(frozen=True)
class Solution:
    """``coefficients [subsets, d]``, and `excess [subsets]`, the gradient's norm as a share of what is allowed."""

    coefficients: Tensor
    excess: Tensor


def bytes_a_subset(dimensions: int, examples: int, exact: bool) -> int:
    """Return the memory (bytes) that one subset with so many examples takes while it is solved.

    Args:
        dimensions: of the projected gradients.
        examples: the training examples of the subset's tasks.
        exact: whether its Hessian is held, with its factor, as where tasks have the squared loss.
    """
    hessians = 3 * dimensions**2 if exact else 0
    return 8 * (hessians + (2 * HISTORY + 8) * dimensions + 6 * examples)


def solve(
    tasks: Sequence[TaskStatistics],
    subsets: Sequence[Sequence[int]],
    start: Tensor | None,
    tolerance: float,
    max_steps: int,
    basis: Basis | None = None,
) -> Solution:
    """Solve the problems of some subsets together.

    Args:
        tasks: the statistics of every task.
        subsets: each problem's tasks, as indices, without repetition.
        start: ``[subsets, d]``, where to start; None is the Newton step from zero.
        tolerance: the norm of the gradient to reach, as a share of the norm at zero.
        max_steps: the steps after which a problem is left as it is.
        basis: of `tasks`; None makes it. Tasks with the squared loss need none.
    """
    present = sorted(set(chain.from_iterable(subsets)))
    column = {task: position for position, task in enumerate(present)}
    flat = torch.tensor([column[task] for task in chain.from_iterable(subsets)])
    sizes = torch.tensor([len(subset) for subset in subsets])
    offsets = sizes.cumsum(0) - sizes
    d = len(tasks[0].gradient)

    def summed(rows: list[Tensor]) -> Tensor:
        return embedding_bag(flat, torch.stack(rows), offsets, mode="sum")

    base = summed([tasks[t].gradient for t in present])
    rounding = summed([torch.tensor([tasks[t].rounding], dtype=torch.float64) for t in present]).squeeze(1)
    allowed = tolerance * base.norm(dim=1) + rounding + torch.finfo(torch.float64).tiny

    owner = torch.repeat_interleave(torch.arange(len(subsets)), sizes)
    holders = [owner[flat == position] for position in range(len(present))]
    members = [tasks[t] for t in present]
    if any(task.quadratic for task in members):
        hessian = summed([task.hessian.flatten() for task in members]).unflatten(1, (d, d))
        hessian.diagonal(dim1=1, dim2=2).add_(1)
        inverse = ExactInverse(torch.linalg.cholesky(hessian))
        begin = -inverse(base) if start is None else start
    else:
        basis = basis or Basis.of(tasks)
        vectors = basis.vectors
        diagonal = 1 + summed([basis.diagonals[t] for t in present])
        inverse = RotatedInverse(vectors, diagonal)
        begin = -inverse(base) if start is None else start
        if start is None:
            single = _Problem(members, holders, begin.float())
            roughly = torch.maximum(allowed, ROUGH * base.norm(dim=1)).float()
            rough = _descend(single, RotatedInverse(vectors.float(), diagonal.float()), roughly, REFRESH)
            found = rough.coefficients.double()
            begin = torch.where(found.isfinite().all(1, keepdim=True), found, begin)
            del single
    exact = isinstance(inverse, ExactInverse)
    solution = _descend(
        _Problem(members, holders, begin), inverse, allowed, max_steps if exact else min(REFRESH, max_steps)
    )
    if exact or max_steps <= REFRESH:
        return solution
    # Hessians of those that are left: as many at a time as take the memory that all problems took without them.
    examples = sum(len(task.outputs) * len(rows) for task, rows in zip(members, holders, strict=True)) // len(subsets)
    share = len(subsets) * bytes_a_subset(d, examples, exact=False) // bytes_a_subset(d, examples, exact=True)
    for rows in (solution.excess > 1).nonzero().squeeze(1).split(max(1, share)):
        place = torch.full((len(subsets),), -1).index_copy_(0, rows, torch.arange(len(rows)))
        left = [place[held][place[held] >= 0] for held in holders]
        problem = _Problem(members, left, solution.coefficients[rows])
        factor = torch.linalg.cholesky(problem.hessian())
        part = _descend(problem, ExactInverse(factor), allowed[rows], max_steps - REFRESH)
        solution.coefficients[rows], solution.excess[rows] = part.coefficients, part.excess
    return solution


def _descend(problem: "_Problem", inverse: ExactInverse | RotatedInverse, allowed: Tensor, max_steps: int) -> Solution:
    """Go down from where the problems stand until their gradients' norms are `allowed`; `problem` is used up."""
    coefficients = problem.coefficients.clone()
    excess = torch.full_like(allowed, torch.inf)
    active = torch.arange(len(allowed))
    memory = Memory(inverse)
    for step in range(max_steps):
        left = problem.gradient.norm(dim=1) / allowed
        coefficients[active], excess[active] = problem.coefficients, left
        going = left > 1
        if not going.any():
            break
        # Dropping finished problems copies the state of the others: worth it once there are enough of them.
        if going.float().mean() < 0.8:
            active, allowed = active[going], allowed[going]
            problem.keep(going)
            memory.keep(going)
        if step and step % REFRESH == 0:
            memory = Memory(ExactInverse(torch.linalg.cholesky(problem.hessian())))
        before, slope = problem.coefficients, problem.gradient
        direction = memory.direction(problem.gradient)
        problem.advance(direction)
        memory.add(problem.coefficients - before, problem.gradient - slope)
    return Solution(coefficients, excess)


class _Problem:
    """Where every problem stands: its coefficients, gradient, and the margins of its examples, all of one precision.

    Args:
        tasks: the statistics of the tasks that some problem holds.
        holders: for each task, the problems that hold it.
        coefficients: ``[problems, d]``.
    """

    def __init__(self, tasks: list[TaskStatistics], holders: list[Tensor], coefficients: Tensor) -> None:
        self.coefficients = coefficients
        parts = list(zip(tasks, holders, strict=True))
        self.quadratic = [(task, rows) for task, rows in parts if task.quadratic]
        self.logistic = [(task, rows) for task, rows in parts if not task.quadratic]
        self.margins = [
            torch.addmm(task.outputs.to(coefficients), coefficients[rows], task.gradients.to(coefficients).T)
            for task, rows in self.logistic
        ]
        slopes = [_slopes(task, margin) for (task, _), margin in zip(self.logistic, self.margins, strict=True)]
        self.gradient = self._gradient(slopes)

    def _gradient(self, slopes: list[Tensor]) -> Tensor:
        total = self.coefficients.clone()
        for (task, rows), slope in zip(self.logistic, slopes, strict=True):
            total.index_add_(0, rows, slope @ task.gradients.to(total))
        for task, rows in self.quadratic:
            total.index_add_(0, rows, torch.addmm(task.gradient, self.coefficients[rows], task.hessian))
        return total

    def hessian(self) -> Tensor:
        """Return ``[problems, d, d]``, the Hessians where the problems stand."""
        d = self.coefficients.shape[1]
        total = torch.eye(d, dtype=torch.float64).repeat(len(self.coefficients), 1, 1)
        for task, rows in self.quadratic:
            total.index_add_(0, rows, task.hessian.expand(len(rows), d, d))
        for (task, rows), margin in zip(self.logistic, self.margins, strict=True):
            gradients = task.gradients.double()
            for row, shares in zip(rows.tolist(), torch.sigmoid(-margin), strict=True):
                total[row].addmm_((gradients * (task.weight * shares * (1 - shares))[:, None]).T, gradients)
        return total

    def advance(self, direction: Tensor) -> None:
        """Move every problem along its direction, by a step that brings the slope near zero."""
        moves = [direction[rows] @ task.gradients.to(direction).T for task, rows in self.logistic]
        first = (self.gradient * direction).sum(1)
        # The part of the slope that is linear in the step: |c|^2 / 2 and the quadratic tasks.
        bend = (direction * direction).sum(1)
        origin = (self.coefficients * direction).sum(1)
        for task, rows in self.quadratic:
            turned = direction[rows] @ task.hessian
            bend.index_add_(0, rows, (turned * direction[rows]).sum(1))
            origin.index_add_(0, rows, (turned * self.coefficients[rows]).sum(1) + direction[rows] @ task.gradient)

        size = torch.ones_like(first)
        slopes: list[Tensor] = []
        slope = origin + bend
        for (task, rows), margin, move in zip(self.logistic, self.margins, moves, strict=True):
            slopes.append(_slopes(task, margin + move))
            slope.index_add_(0, rows, (slopes[-1] * move).sum(1))
        wrong = _wrong(slope / first.abs())
        if wrong.any():
            size[wrong] = self._search(wrong, first, slope, origin, bend, moves)
        for number, ((task, rows), margin, move) in enumerate(zip(self.logistic, self.margins, moves, strict=True)):
            margin.addcmul_(move, size[rows, None])
            again = wrong[rows]
            if again.any():
                slopes[number][again] = _slopes(task, margin[again])
        self.coefficients = self.coefficients + size[:, None] * direction
        self.gradient = self._gradient(slopes)

    def _search(
        self, wrong: Tensor, first: Tensor, slope: Tensor, origin: Tensor, bend: Tensor, moves: list[Tensor]
    ) -> Tensor:
        """Return the steps of the problems for which 1 is no good one: where a convex function's slope is near zero."""
        problems = wrong.nonzero().squeeze(1)
        place = torch.full_like(wrong, -1, dtype=torch.long).index_copy_(0, problems, torch.arange(len(problems)))
        parts = []
        for (task, rows), margin, move in zip(self.logistic, self.margins, moves, strict=True):
            chosen = wrong[rows]
            if chosen.any():
                parts.append((task, place[rows[chosen]], margin[chosen], move[chosen]))
        first, slope, origin, bend = (part[problems] for part in (first, slope, origin, bend))
        scale = first.abs()
        low, low_slope = torch.zeros_like(first), first.clone()
        high, high_slope = torch.full_like(first, torch.inf), torch.full_like(first, torch.inf)
        size = torch.ones_like(first)
        for _ in range(60):
            bad = _wrong(slope / scale)
            if not bad.any():
                break
            short = slope < 0
            low, low_slope = torch.where(short, size, low), torch.where(short, slope, low_slope)
            high, high_slope = torch.where(short, high, size), torch.where(short, high_slope, slope)
            # The secant's zero, kept off the ends lest a kink hold it back; doubled while nothing is too long.
            share = (low_slope / (low_slope - high_slope)).clamp(0.1, 0.9)
            between = low + share * (high - low)
            size = torch.where(bad, torch.where(high.isinf(), 2 * size, between), size)
            slope = origin + size * bend
            for task, rows, margin, move in parts:
                steps = margin + size[rows, None] * move
                slope.index_add_(0, rows, (_slopes(task, steps) * move).sum(1))
        return size

    def keep(self, problems: Tensor) -> None:
        """Drop the problems that `problems` does not name."""
        place = problems.long().cumsum(0) - 1
        self.coefficients, self.gradient = self.coefficients[problems], self.gradient[problems]
        self.margins = [margin[problems[rows]] for (_, rows), margin in zip(self.logistic, self.margins, strict=True)]
        self.quadratic = [(task, place[rows[problems[rows]]]) for task, rows in self.quadratic]
        self.logistic = [(task, place[rows[problems[rows]]]) for task, rows in self.logistic]


def _slopes(task: TaskStatistics, margins: Tensor) -> Tensor:
    return (-margins).sigmoid_().mul_(-task.weight)


def _wrong(share: Tensor) -> Tensor:
    return (share < TOO_SHORT) | (share > TOO_LONG)
