"""The estimated model of every subset of tasks, and how it does on every task (Grad-TAG, section 3.2, algorithm 1).

Training on a subset S is replaced by a regression on the projected gradients of its examples, with the base model's
output as offset and no intercept of its own:

    c(S) = argmin over c of  C * sum over t in S, i of t of  loss(output_i + g_i . c)  +  |c|^2 / 2

with ``softplus(-(output + g . c))`` for logistic tasks and ``(output + g . c - label)^2 / 2`` for squared ones (with
the half it is ridge regression with ``alpha = 1 / C``). A task's performance after training on S follows from its
validation gradients, ``output + g . c(S)``, without a forward pass; `taskloom.affinity.forward_evaluate` runs one.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from taskloom.affinity.metrics import LOWER_IS_BETTER, metric_for, standard_error
from taskloom.affinity.scores import Estimates, Gains, deviation, measured
from taskloom.affinity.solver import bytes_a_subset, solve
from taskloom.affinity.source import GradientSource, check_source
from taskloom.affinity.task_statistics import Basis, TaskStatistics
from taskloom.errors import did_you_mean

__all__ = ["NotConvergedError", "SubsetSurrogate"]

Balance = Literal["sum", "tasks"]
Scope = Literal["all", "members"]


class NotConvergedError(RuntimeError):
    """Some regressions did not reach the tolerance; the message names the first and says what to change."""


class SubsetSurrogate:
    """Estimates of what training on any subset of a source's tasks would do.

    Args:
        source: the projected gradients; several sources of the same tasks (other projections, other checkpoints) are
            fitted each on its own and their estimates averaged, with the spread reported (bagging).
        C: the weight of the losses against ``|c|^2 / 2``, as in scikit-learn. The published value is 0.01.
        balance: "sum": every example weighs the same; "tasks": every task does, whatever its size. Its examples are
            weighted by the mean number of examples a task over its own number, so that `C` keeps its meaning.
        tolerance: the norm of the gradient at the solution, as a share of the norm at zero.
        max_steps: the most steps that a regression may take.
        memory: the most memory (bytes) for the state of the subsets that are solved together. It does not include the
            tasks' gradients and their ``[dimensions, dimensions]`` statistics.

    Raises:
        DataError: a task cannot be estimated (see `taskloom.affinity.source.check_source`).
        ValueError: a setting is out of range, or the sources differ in tasks or dimensions.
    """

    def __init__(
        self,
        source: GradientSource | Sequence[GradientSource],
        C: float = 0.01,  # noqa: N803  (scikit-learn's name)
        *,
        balance: Balance = "sum",
        tolerance: float = 1e-7,
        max_steps: int = 200,
        memory: int = 2**29,
    ) -> None:
        self.sources: list[GradientSource] = list(source) if isinstance(source, Sequence) else [source]
        if not self.sources:
            raise ValueError("`source` must hold at least one source, found none")
        if not 0 < C < float("inf"):
            raise ValueError(f"`C` must be positive and finite, found {C}")
        if balance not in ("sum", "tasks"):
            raise ValueError(f"`balance` must be 'sum' or 'tasks', found {balance!r}")
        first = self.sources[0]
        self.tasks = tuple(first.tasks)
        self.dimensions = first.dimensions
        for number, other in enumerate(self.sources[1:], start=1):
            if tuple(other.tasks) != self.tasks or other.dimensions != self.dimensions:
                raise ValueError(
                    f"`source` {number} has {len(other.tasks)} tasks in {other.dimensions} dimensions, source 0 has"
                    f" {len(self.tasks)} in {self.dimensions}: all sources must have the same tasks, in the same order"
                )
        for each in self.sources:
            check_source(each)
        self.C, self.balance = C, balance
        self.tolerance, self.max_steps, self.memory = tolerance, max_steps, memory
        self._index = {task: position for position, task in enumerate(self.tasks)}
        self._statistics = [self._task_statistics(each) for each in self.sources]
        self._bases: dict[int, Basis] = {}

    def _task_statistics(self, source: GradientSource) -> list[TaskStatistics]:
        splits = [source.train(task) for task in self.tasks]
        mean = sum(len(rows) for rows in splits) / len(splits)
        weights = [self.C * (mean / len(rows) if self.balance == "tasks" else 1.0) for rows in splits]
        return [
            TaskStatistics.of(rows.gradients, rows.outputs, rows.labels, rows.loss, weight)
            for rows, weight in zip(splits, weights, strict=True)
        ]

    def _basis(self, member: int) -> Basis:
        """Return a source's basis, made when it is first needed: with many tasks it costs as much as many subsets."""
        if member not in self._bases:
            self._bases[member] = Basis.of(self._statistics[member])
        return self._bases[member]

    def position(self, task: str) -> int:
        """Return the column of a task."""
        if task not in self._index:
            raise ValueError(f"unknown task '{task}'.{did_you_mean(task, self.tasks)}")
        return self._index[task]

    def _positions(self, subsets: Sequence[Sequence[str]]) -> list[list[int]]:
        positions = []
        for number, subset in enumerate(subsets):
            if isinstance(subset, str):
                raise ValueError(f"`subsets` must hold sequences of tasks; number {number} is the text '{subset}'")
            if not subset or len(set(subset)) != len(subset):
                raise ValueError(f"`subsets` number {number} must name each of its tasks once, found {list(subset)}")
            positions.append([self.position(task) for task in subset])
        return positions

    def _chunks(self, subsets: list[list[int]]) -> Iterator[slice]:
        """Yield stretches of subsets whose state fits into `memory`; at least one subset each."""
        sizes = [max(len(member[t].outputs) for member in self._statistics) for t in range(len(self.tasks))]
        exact = any(task.quadratic for member in self._statistics for task in member)
        first, used = 0, 0
        for number, subset in enumerate(subsets):
            need = bytes_a_subset(self.dimensions, sum(sizes[task] for task in subset), exact)
            if used and used + need > self.memory:
                yield slice(first, number)
                first, used = number, 0
            used += need
        if subsets:
            yield slice(first, len(subsets))

    def fit(self, subsets: Sequence[Sequence[str]], start: Tensor | None = None) -> Tensor:
        """Return the estimated change of the model for each subset, in projected coordinates.

        Args:
            subsets: the tasks of each subset.
            start: coefficients to start from, shaped as the answer, such as those of slightly smaller subsets.

        Returns:
            ``[subsets, dimensions]`` float64, or ``[sources, subsets, dimensions]`` with several sources.

        Raises:
            ValueError: a subset is empty or names a task twice or an unknown one; `start` has another shape.
            NotConvergedError: a regression has not converged in `max_steps`.
        """
        positions = self._positions(subsets)
        shape = (len(self.sources), len(positions), self.dimensions)
        if start is not None:
            if start.shape != (shape if len(self.sources) > 1 else shape[1:]):
                raise ValueError(f"`start` must be shaped as the answer, {list(shape)}, found {list(start.shape)}")
            start = start.double().reshape(shape)
        coefficients = torch.empty(shape, dtype=torch.float64)
        for member, statistics in enumerate(self._statistics):
            # Hessians of the squared loss are exact everywhere, and need no basis.
            basis = None if all(task.quadratic for task in statistics) else self._basis(member)
            for chunk in self._chunks(positions):
                begin = None if start is None else start[member, chunk]
                solution = solve(statistics, positions[chunk], begin, self.tolerance, self.max_steps, basis)
                stuck = (solution.excess > 1).nonzero().flatten().tolist()
                if stuck:
                    name = ", ".join(self.tasks[task] for task in positions[chunk][stuck[0]])
                    raise NotConvergedError(
                        f"The regressions of {len(stuck)} subsets have not converged in {self.max_steps} steps; the"
                        f" first is of the tasks {name}, whose gradient is {float(solution.excess[stuck[0]]):.3g} times"
                        " what `tolerance` allows. Use a smaller `C`, more `max_steps` or a larger `tolerance`."
                    )
                coefficients[member, chunk] = solution.coefficients
        return coefficients if len(self.sources) > 1 else coefficients[0]

    def evaluate(self, coefficients: Tensor, metric: str = "loss", tasks: Sequence[str] | None = None) -> Tensor:
        """Return ``[subsets, tasks]``, each task's metric on its validation examples, linearised; no forward pass.

        Args:
            coefficients: as returned by `fit`.
            metric: "loss" (mean log-loss or squared error), "accuracy" (positive margins), "f1" and "mcc" (of class 1),
                "mse", "pearson", or "auto": accuracy for logistic and Pearson's correlation for squared tasks.
            tasks: the tasks to evaluate; the others' columns are NaN. None is all.

        Raises:
            ValueError: the metric does not suit a task; the message names it.
        """
        return self._scores(coefficients, metric, self._columns(coefficients, tasks))[0][0]

    def compare(
        self, coefficients: Tensor, against: Tensor, metric: str = "loss", tasks: Sequence[str] | None = None
    ) -> Gains:
        """Return by how much models do better than others, on the same validation examples.

        Args:
            coefficients: as returned by `fit`.
            against: the same of the others: one for each of `coefficients`, or one for all.
            metric: see `evaluate`.
            tasks: see `evaluate`.

        Raises:
            ValueError: the metric does not suit a task, or the numbers of subsets differ.
        """
        count, others = coefficients.shape[-2], against.shape[-2]
        if others not in (1, count):
            raise ValueError(f"`against` must hold 1 or {count} subsets, as `coefficients` does, found {others}")
        baseline = (torch.arange(count) % others)[:, None].expand(count, len(self.tasks))
        _, gains = self._scores(coefficients, metric, self._columns(coefficients, tasks), against, baseline)
        return self._oriented(gains, metric)

    def gains(
        self,
        subsets: Sequence[Sequence[str]],
        against: Sequence[Sequence[str]],
        metric: str = "loss",
        tasks: Sequence[str] | None = None,
    ) -> Gains:
        """Return by how much training on `subsets` is better than on `against` (as many, or one for all); paired."""
        fitted = self.fit([*subsets, *against])
        first, second = fitted.split([len(subsets), len(against)], dim=-2)
        return self.compare(first, second, metric, tasks)

    def estimate(
        self, subsets: Sequence[Sequence[str]], metric: str = "loss", scope: Scope = "all", *, gains: bool = False
    ) -> Estimates:
        """Fit some subsets and evaluate them on every task, or (``scope="members"``) on the tasks that each holds.

        Args:
            subsets: the tasks of each subset.
            metric: see `evaluate`.
            scope: the tasks to evaluate each on.
            gains: whether to compare each with the task that it is evaluated on, trained alone.
        """
        if scope not in ("all", "members"):
            raise ValueError(f"`scope` must be 'all' or 'members', found {scope!r}")
        named = tuple(tuple(subset) for subset in subsets)
        positions = self._positions(named)
        members = positions if scope == "members" else None
        count = len(self.sources)
        if gains:
            alone = [(task,) for task in self.tasks]
            places = {subset: place for place, subset in enumerate(dict.fromkeys([*named, *alone]))}
            fitted = self.fit(list(places))
            coefficients = fitted[..., [places[subset] for subset in named], :]
            against = fitted[..., [places[subset] for subset in alone], :]
            baseline = torch.arange(len(self.tasks)).expand(len(named), -1)
            scores, differences = self._scores(coefficients, metric, members, against, baseline)
            compared = self._oriented(differences, metric)
        else:
            (scores, _), compared = self._scores(self.fit(named), metric, members), None
        values, errors, spread = scores
        return Estimates(self.tasks, named, values, errors, spread if count > 1 else None, metric, count, compared)

    def _columns(self, coefficients: Tensor, tasks: Sequence[str] | None) -> list[list[int]] | None:
        return None if tasks is None else [[self.position(task) for task in tasks]] * coefficients.shape[-2]

    @staticmethod
    def _oriented(differences: Tensor, metric: str) -> Gains:
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        return Gains(sign * differences[0], differences[1])

    def _by_source(self, coefficients: Tensor) -> Tensor:
        shape = (len(self.sources), coefficients.shape[-2], self.dimensions)
        if coefficients.shape != (shape if len(self.sources) > 1 else shape[1:]):
            raise ValueError(f"`coefficients` must be as `fit` returns them, found shape {list(coefficients.shape)}")
        return coefficients.double().reshape(shape)

    def _scores(
        self,
        coefficients: Tensor,
        metric: str,
        members: list[list[int]] | None,
        against: Tensor | None = None,
        baseline: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return values, standard errors and spread ``[3, subsets, tasks]``, and those of the differences ``[2, ..]``.

        Args:
            coefficients: of the subsets.
            metric: see `evaluate`.
            members: the tasks to evaluate each subset on, None for all; elsewhere the answer is NaN.
            against: coefficients to compare with.
            baseline: ``[subsets, tasks]``, which of `against` each entry is compared with.
        """
        coefficients = self._by_source(coefficients)
        others = None if against is None else self._by_source(against)
        count = coefficients.shape[1]
        # No differences are held where none are asked for: with many tasks and subsets these are large.
        scores, differences = (
            torch.full((parts, count, len(self.tasks)), torch.nan, dtype=torch.float64)
            for parts in (3, 2 if others is not None else 0)
        )
        if members is None:
            holders = [torch.arange(count)] * len(self.tasks)
        else:
            listed: list[list[int]] = [[] for _ in self.tasks]
            for number, subset in enumerate(members):
                for task in subset:
                    listed[task].append(number)
            holders = [torch.tensor(numbers, dtype=torch.long) for numbers in listed]
        for task, name in enumerate(self.tasks):
            if not len(holders[task]):
                continue
            splits = [source.validation(name) for source in self.sources]
            measure = metric_for(metric, name, splits[0])
            step = max(1, self.memory // (64 * len(splits[0])))
            for rows in holders[task].split(step):
                values, influences = measured(splits, measure, coefficients[:, rows])
                scores[:, rows, task] = torch.stack([values.mean(0), standard_error(influences), deviation(values)])
                if others is None or baseline is None:
                    continue
                used, place = baseline[rows, task].unique(return_inverse=True)
                base_values, base_influences = measured(splits, measure, others[:, used])
                values, influences = values - base_values[:, place], influences - base_influences[place]
                variance = standard_error(influences) ** 2 + deviation(values) ** 2 / len(values)
                differences[:, rows, task] = torch.stack([values.mean(0), variance.sqrt()])
        return scores, differences
