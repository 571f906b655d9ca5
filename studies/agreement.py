"""How well estimates of many subsets' performance agree with what was truly trained.

Arrays are [subsets, tasks], NaN where a task is not in the subset. Three questions are kept apart, since they have
very different answers:

- over subsets: does the mean over a subset's tasks agree? Most of its variation is which tasks are in the subset, so
  that the base model's own scores already answer it;
- over entries: the same for each task of each subset;
- within tasks: after the removal of each task's mean, does the estimate know *with which* other tasks this task does
  well? Only this is of use for grouping. With the linear effect of the subset's size removed as well, what is left is
  which tasks, not how many.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

__all__ = ["agreement", "ceiling"]

Scores = NDArray[np.float64]


def agreement(estimate: Scores, truth: Scores) -> dict[str, float]:
    """Return relative errors and correlations; a correlation is NaN if it is of a constant or too short."""
    estimate = np.where(np.isnan(truth), np.nan, estimate)
    means, true_means = np.nanmean(estimate, axis=1), np.nanmean(truth, axis=1)
    held = ~np.isnan(truth) & (truth != 0)
    within, true_within = (_within_tasks(scores, truth) for scores in (estimate, truth))
    return {
        "error": float(np.mean(np.abs(means - true_means) / np.abs(true_means))),
        "entry_error": float(np.mean(np.abs(estimate[held] - truth[held]) / np.abs(truth[held]))),
        "pearson": _correlation(pearsonr, means, true_means),
        "spearman": _correlation(spearmanr, means, true_means),
        "within_pearson": _correlation(pearsonr, within, true_within),
        "within_spearman": _correlation(spearmanr, within, true_within),
        "sized_pearson": _correlation(
            pearsonr, *(_within_tasks(scores, truth, sized=True) for scores in (estimate, truth))
        ),
    }


def ceiling(seeds: Scores) -> dict[str, float]:
    """The agreement of one seed's true trainings with the mean of the other seeds', averaged over [seeds, ...]."""
    each = [agreement(seed, np.delete(seeds, number, axis=0).mean(axis=0)) for number, seed in enumerate(seeds)]
    return {name: float(np.mean([one[name] for one in each])) for name in each[0]}


def _within_tasks(scores: Scores, truth: Scores, sized: bool = False) -> Scores:
    """The deviations from each task's mean (`sized`: from its straight line over the subsets' sizes).

    Only tasks that at least six subsets hold count.
    """
    held = ~np.isnan(truth)
    sizes = held.sum(axis=1)
    deviations = []
    for column, rows in zip(scores.T, held.T, strict=True):
        if rows.sum() >= 6:
            line = np.polyfit(sizes[rows], column[rows], deg=int(sized and np.ptp(sizes[rows]) > 0))
            deviations.append(column[rows] - np.polyval(line, sizes[rows]))
    return np.concatenate([np.empty(0), *deviations])


def _correlation(kind, first: Scores, second: Scores) -> float:
    if len(first) < 3 or np.ptp(first) < 1e-9 or np.ptp(second) < 1e-9:
        return float("nan")
    return float(kind(first, second).statistic)
