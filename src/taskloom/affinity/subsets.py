"""Subsets of tasks to estimate (Grad-TAG, section 3.2).

The published script trains on random subsets of 10 out of 100 tasks, drawn uniformly and without repetition
(``train_sample_tasks.py``: 10 is its smallest and its largest size). Here estimating a subset is cheap, so that the
number defaults to what holds every pair about `PAIR_COUNT` times.
"""

from collections.abc import Sequence
from itertools import combinations
from math import ceil, comb

import numpy as np

__all__ = ["PUBLISHED_SIZE", "all_subsets", "pair_subsets", "random_subsets"]

PUBLISHED_SIZE = 10
PAIR_COUNT = 10

Subsets = list[tuple[str, ...]]


def pair_subsets(tasks: Sequence[str]) -> Subsets:
    """Return every task alone, then every pair of tasks."""
    return [(task,) for task in tasks] + list(combinations(tasks, 2))


def all_subsets(tasks: Sequence[str]) -> Subsets:
    """Return every non-empty subset, smaller ones first.

    Raises:
        ValueError: there are more than 16 tasks, thus more than 65,535 subsets.
    """
    if len(tasks) > 16:
        raise ValueError(f"`tasks` must be at most 16 to list all subsets, found {len(tasks)}; use `random_subsets`")
    return [subset for size in range(1, len(tasks) + 1) for subset in combinations(tasks, size)]


def random_subsets(
    tasks: Sequence[str], size: int = PUBLISHED_SIZE, number: int | None = None, seed: int = 0
) -> Subsets:
    """Return different random subsets of one size, each as likely as any other.

    Pairs of tasks that no draw holds are then given one: a draw whose pairs all occur elsewhere makes way for a random
    subset that holds the pair, as far as `number` allows. The answer does not depend on the order of `tasks`.

    Args:
        tasks: the tasks' names.
        size: the tasks in a subset.
        number: the subsets; None: as many as hold every pair about 10 times, at most all there are.
        seed: of the draws.

    Raises:
        ValueError: `size` or `number` is out of range.
    """
    names = sorted(tasks)
    n = len(names)
    if not 1 <= size <= n:
        raise ValueError(f"`size` must be between 1 and the number of tasks, {n}; found {size}")
    possible = comb(n, size)
    if number is None:
        number = min(possible, max(n, ceil(PAIR_COUNT * n * (n - 1) / (size * max(size - 1, 1)))))
    if not 1 <= number <= possible:
        raise ValueError(f"`number` must be between 1 and the {possible} subsets of size {size}; found {number}")
    generator = np.random.default_rng(seed)
    if possible <= 2 * number:
        # Most subsets are wanted: to draw until enough different ones are found would take long.
        listed = list(combinations(range(n), size))
        drawn = [listed[i] for i in generator.permutation(possible)[:number]]
    else:
        found: dict[tuple[int, ...], None] = {}
        while len(found) < number:
            found[tuple(sorted(generator.choice(n, size, replace=False).tolist()))] = None
        drawn = list(found)
    if size > 1:
        _cover_pairs(drawn, n, generator)
    return [tuple(names[task] for task in subset) for subset in drawn]


def _cover_pairs(drawn: list[tuple[int, ...]], n: int, generator: np.random.Generator) -> None:
    """Replace draws that are not needed by subsets that hold the pairs which no draw holds."""
    counts = np.zeros((n, n), dtype=int)
    for subset in drawn:
        counts[np.ix_(subset, subset)] += 1
    size = len(drawn[0])
    for position, subset in enumerate(drawn):
        missing = np.argwhere(np.triu(counts == 0, 1))
        if not len(missing):
            return
        block = np.ix_(subset, subset)
        if (counts[block] < 2).any():
            continue
        new = _holding(missing, n, size, generator)
        counts[block] -= 1
        counts[np.ix_(new, new)] += 1
        drawn[position] = new


def _holding(missing: np.ndarray, n: int, size: int, generator: np.random.Generator) -> tuple[int, ...]:
    """Return a random subset that holds a missing pair, and as many more of them as adding one task at a time finds."""
    wanted = np.zeros((n, n), dtype=bool)
    wanted[missing[:, 0], missing[:, 1]] = wanted[missing[:, 1], missing[:, 0]] = True
    subset = missing[generator.integers(len(missing))].tolist()
    while len(subset) < size:
        # Random numbers below 1 decide between equals.
        gain = wanted[:, subset].sum(1) + generator.random(n)
        gain[subset] = -1
        subset.append(int(gain.argmax()))
    return tuple(sorted(subset))
