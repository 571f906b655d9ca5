"""Task affinity: how each task does when it is trained with each other (Grad-TAG, section 2; Li et al. 2023, eq. 1).

Pairwise: ``T_ij`` is how task i does after training on i and j. Higher-order: ``T_ij`` is the mean, over the sampled
subsets that hold both i and j, of how task i does. Losses are negated, so that larger always means better.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from taskloom.affinity.metrics import LOWER_IS_BETTER
from taskloom.affinity.scores import Estimates
from taskloom.affinity.subsets import PUBLISHED_SIZE, pair_subsets, random_subsets
from taskloom.affinity.surrogate import SubsetSurrogate

if TYPE_CHECKING:
    from taskloom.affinity.cluster import Transform
    from taskloom.gradients import Projection

__all__ = ["AffinityMatrix", "affinity_from", "affinity_matrix", "forward_evaluate"]

BLOCK = 4096  # subsets that are added up together


@dataclass(frozen=True)
class AffinityMatrix:
    """How each task (row) does when it is trained with each other (column); larger is better.

    Attributes:
        tasks: the rows and columns.
        values: ``[n, n]`` float64. The diagonal: trained alone (pairwise), or the mean of all subsets that hold it.
        stderr: ``[n, n]``: the error from the finite number of subsets behind each entry, with that from the finite
            validation examples (the same in all subsets, so that it does not average) and from several sources.
        gain: ``[n, n]``, what the column's task brings the row's; 0 on the diagonal. Pairwise: over training alone.
            Higher-order: over the mean of all subsets that hold the row's task.
        gain_stderr: ``[n, n]``. Pairwise: of the paired comparison on the same validation examples. Higher-order: how
            far the mean of so many of the row's subsets, drawn at random, lies from the mean of all.
        counts: ``[n, n]``, the subsets behind each entry.
        metric: the metric; a loss is negated in `values`.
    """

    tasks: tuple[str, ...]
    values: Tensor
    stderr: Tensor
    gain: Tensor
    gain_stderr: Tensor
    counts: Tensor
    metric: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Let NumPy, and `cluster_tasks`, read the values."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def symmetric(self, transform: "Transform | None" = None) -> Tensor:
        """Return ``(A + A^T) / 2``, what `cluster_tasks` takes, after `transform` (see there) of the rows."""
        from taskloom.affinity.cluster import transformed

        values = torch.from_numpy(transformed(self.values.numpy(), transform))
        return (values + values.T) / 2


def affinity_matrix(
    surrogate: SubsetSurrogate,
    order: Literal["pairwise", "higher"] = "pairwise",
    *,
    metric: str = "loss",
    subsets: Sequence[Sequence[str]] | None = None,
    size: int | None = None,
    number: int | None = None,
    seed: int = 0,
) -> AffinityMatrix:
    """Estimate the affinity of every two tasks.

    Args:
        surrogate: the estimator.
        order: "pairwise" estimates each task alone and each pair; "higher" averages over random subsets.
        metric: see `SubsetSurrogate.evaluate`.
        subsets: the subsets to average over (implies "higher"); None draws them by `random_subsets`.
        size: the tasks in a random subset (implies "higher"); None is the published 10, at most half of the tasks.
        number: of random subsets (implies "higher"); None holds every pair about 10 times.
        seed: of the random subsets.

    Raises:
        ValueError: some pair of tasks is in no subset; the message says how many more subsets are needed.
    """
    if order not in ("pairwise", "higher"):
        raise ValueError(f"`order` must be 'pairwise' or 'higher', found {order!r}")
    if subsets is not None and (size is not None or number is not None):
        raise ValueError("`size` and `number` describe random subsets; `subsets` are given")
    if subsets is None:
        if order == "pairwise" and size is None and number is None:
            pairs = pair_subsets(surrogate.tasks)
            return affinity_from(surrogate.estimate(pairs, metric, scope="members", gains=True), alone=True)
        n = len(surrogate.tasks)
        size = min(PUBLISHED_SIZE, n, max(2, n // 2)) if size is None else size
        subsets = random_subsets(surrogate.tasks, size, number, seed)
    return affinity_from(surrogate.estimate(subsets, metric, scope="members"))


def affinity_from(estimates: Estimates, *, alone: bool = False) -> AffinityMatrix:
    """Return the affinity that some estimates amount to.

    Args:
        estimates: at least of the tasks in each subset.
        alone: take the diagonal from the subsets of one task only, and gains over it. Where `estimates` hold no gains,
            their errors are those of independent estimates, which overstates them.

    Raises:
        ValueError: some pair of tasks is in no subset.
    """
    variance = estimates.stderr**2
    if estimates.spread is not None:
        variance = variance + estimates.spread**2 / estimates.sources
    mean, between, noise, counts = _averages(estimates, estimates.values, variance, alone)
    _check_counts(estimates, counts)
    sign = -1.0 if estimates.metric in LOWER_IS_BETTER else 1.0
    values, errors = sign * mean, _error(between, noise, counts)
    level = values.diagonal()[:, None]
    if not alone:
        # The mean of some of a row's subsets, without replacement: no error is left where the column is in all of them.
        held = counts.diagonal()[:, None]
        spread = between.diagonal()[:, None] * held / (held - 1).clamp(min=1)
        gain, gain_errors = values - level, (spread * (1 / counts - 1 / held)).clamp(min=0).sqrt()
    elif estimates.gains is None:
        gain, gain_errors = values - level, (errors**2 + errors.diagonal()[:, None] ** 2).sqrt()
    else:
        paired = estimates.gains
        gain, between, noise, _ = _averages(estimates, paired.values, paired.stderr**2, alone)
        gain_errors = _error(between, noise, counts)
    return AffinityMatrix(
        estimates.tasks,
        values,
        errors,
        gain.fill_diagonal_(0),
        gain_errors.fill_diagonal_(0),
        counts.long(),
        estimates.metric,
    )


def _averages(
    estimates: Estimates, numbers: Tensor, variance: Tensor, alone: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``[n, n]`` over the subsets that hold both tasks: mean, variance, mean of `variance`, and their number."""
    n = len(estimates.tasks)
    column = {task: position for position, task in enumerate(estimates.tasks)}
    counts, total, squares, noise = (torch.zeros(n, n, dtype=torch.float64) for _ in range(4))
    single = torch.tensor([len(subset) == 1 for subset in estimates.subsets])
    for rows in torch.arange(len(estimates.subsets)).split(BLOCK):
        held = torch.zeros(len(rows), n, dtype=torch.float64)
        for number, row in enumerate(rows.tolist()):
            held[number, [column[task] for task in estimates.subsets[row]]] = 1
        values, errors = (torch.where(held > 0, part[rows], 0) for part in (numbers, variance))
        for into, part in ((counts, held), (total, values), (squares, values**2), (noise, errors)):
            sums = part.T @ held
            if alone:
                sums.diagonal().copy_(part[single[rows]].sum(0))
            into += sums
    mean = total / counts
    return mean, (squares / counts - mean**2).clamp(min=0), noise / counts, counts


def _error(between: Tensor, noise: Tensor, counts: Tensor) -> Tensor:
    """Return the error of a mean over subsets; one alone tells nothing of how they differ, only of its own noise."""
    return (between / (counts - 1).clamp(min=1) + noise).sqrt()


def _check_counts(estimates: Estimates, counts: Tensor) -> None:
    missing = (counts == 0).triu().nonzero().tolist()
    if missing:
        size = max(len(subset) for subset in estimates.subsets)
        pairs = max(size * (size - 1) // 2, 1)
        first, second = (estimates.tasks[task] for task in missing[0])
        raise ValueError(
            f"`subsets` leave {len(missing)} of the pairs of tasks without an estimate, such as '{first}' with"
            f" '{second}': at least {-(-len(missing) // pairs)} more subsets of size {size} are needed"
        )


def forward_evaluate(
    model: nn.Module,
    projection: "Projection",
    coefficients: Tensor,
    score: Callable[[nn.Module], Mapping[str, float]],
) -> list[dict[str, float]]:
    """Score a model with each estimate written into it: exact for the estimated weights, at one evaluation a subset.

    Args:
        model: the base model; its weights are as before afterwards.
        projection: that of the gradients.
        coefficients: ``[subsets, dimensions]``, as `SubsetSurrogate.fit` returns them for one source.
        score: maps the model to a number for each task.
    """
    from taskloom.gradients import written_back

    scores = []
    for change in coefficients:
        with written_back(model, projection, change), torch.no_grad():
            scores.append(dict(score(model)))
    return scores
