"""What one optimizer step learns from: the objectives that were sampled, grouped by what can share a forward pass.

Objectives of the same data, transform and representation differ only in what is read off the hidden states, so one pass
serves them all, as long as they take the same rows: pieces of text, or the pairs of one sentence-level output.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from taskloom.auxiliary.batch import BLOCKS
from taskloom.auxiliary.space import Objective
from taskloom.auxiliary.stages import SENTENCE_OUTPUTS

__all__ = ["Share", "View", "plan_step", "view_of"]

#: A view's fewest rows: sentence-level outputs that tell neighbours from others need two pairs.
FEWEST = 4


@dataclass(frozen=True)
class View:
    """One corrupted and masked reading of some rows."""

    data: str
    transform: str
    representation: str
    rows: str


@dataclass(frozen=True)
class Share:
    """A view's part of a step: how many rows, and which of the step's objectives (positions) are read off it."""

    view: View
    rows: int
    members: tuple[int, ...]


def view_of(objective: Objective) -> View:
    """Return the view that an objective is read off."""
    rows = objective.output if objective.output in SENTENCE_OUTPUTS else BLOCKS
    return View(objective.data, objective.transform, objective.representation, rows)


def plan_step(
    objectives: Sequence[Objective],
    weights: Sequence[float],
    rows: int,
    split: Literal["weights", "even"] = "weights",
) -> list[Share]:
    """Split a step's rows among the views of its objectives.

    Args:
        objectives: those of the step.
        weights: of each, summing to 1.
        rows: in all; each view has `FEWEST` at least, so that there may be more.
        split: in proportion to the summed weights of a view's objectives, or evenly.

    Returns:
        The views in the order in which they first occur.
    """
    members: dict[View, list[int]] = {}
    for position, objective in enumerate(objectives):
        members.setdefault(view_of(objective), []).append(position)
    parts = [sum(weights[position] for position in found) for found in members.values()]
    if split == "even":
        parts = [1 / len(members)] * len(members)
    counts = _apportioned(rows, parts)
    return [
        Share(view, max(count, FEWEST), tuple(found))
        for (view, found), count in zip(members.items(), counts, strict=True)
    ]


def _apportioned(total: int, parts: Sequence[float]) -> list[int]:
    """Round shares to whole numbers that sum to `total` (largest remainders)."""
    exact = [total * part / sum(parts) for part in parts]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
