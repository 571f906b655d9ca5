"""What a section of the report is, and how much of a run it may show."""

from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Limits", "Section"]

#: Characters of generated answers that are given up last.
FEW = 50_000


@dataclass
class Section:
    """A part of the page.

    Attributes:
        key: its anchor, and the name of its template.
        title: its heading.
        values: what the template shows.
        data: what its scripts read.
        left_out: what is not shown, and where it is: a line each.
    """

    key: str
    title: str
    values: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Limits:
    """How much is shown, so that a page stays small enough to send and quick to open.

    Attributes:
        points: of a line.
        generations: characters of all generated answers.
        tokens: of weighted documents.
        cells: of all affinity matrices, with their numbers.
        panels: tasks with learning curves of their own.
    """

    points: int = 120
    generations: int = 5_000_000
    tokens: int = 12_000
    cells: int = 90_000
    panels: int = 240

    def tighter(self) -> "Limits":
        """Return lower limits: half of the texts, of which there is the most, before half of anything else."""
        lower = replace(self, generations=max(1, self.generations // 2), tokens=max(1, self.tokens // 2))
        if self.generations > FEW:
            return lower
        others = {name: max(1, getattr(self, name) // 2) for name in ("points", "cells", "panels")}
        return replace(lower, **others)
