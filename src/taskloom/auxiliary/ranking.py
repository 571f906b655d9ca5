"""The final ranking: which auxiliary objectives a training came to weigh most, and how their gradients agreed."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from taskloom.auxiliary.tally import Tally
from taskloom.auxiliary.weights import ObjectiveWeights
from taskloom.storage import write_atomically

__all__ = ["RANKING_FILE", "RankedObjective", "rank_objectives", "ranking_table", "write_ranking"]

#: The file's name in a run folder.
RANKING_FILE = "objectives.csv"


@dataclass(frozen=True)
class RankedObjective:
    """One objective at the end of a training.

    Attributes:
        objective: its name.
        weight: its weight among all legal objectives.
        cosine: mean cosine of its gradient with the held-out one; NaN where none was compared.
        loss: its mean loss; NaN if it was never sampled.
        sampled: the steps that it was sampled in.
        skipped: those of them in which its gradient was not finite.
    """

    objective: str
    weight: float
    cosine: float
    loss: float
    sampled: int
    skipped: int


def rank_objectives(weights: ObjectiveWeights, tally: Tally) -> list[RankedObjective]:
    """Return all objectives by falling weight; of equal ones the space's order stays."""
    cosines, losses = (mean.tolist() for mean in tally.means())
    if not weights.learns:
        cosines = [math.nan] * len(losses)
    counts = zip(cosines, losses, tally.sampled.tolist(), tally.skipped.tolist(), strict=True)
    ranked = [
        RankedObjective(objective.name, weight, *rest)
        for objective, weight, rest in zip(weights.space, weights.probabilities().tolist(), counts, strict=True)
    ]
    return sorted(ranked, key=lambda each: -each.weight)


def write_ranking(ranked: Sequence[RankedObjective], path: Path) -> None:
    """Write the ranking as CSV: rank, objective, weight, cosine, loss, sampled, skipped. What is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "objective", "weight", "cosine", "loss", "sampled", "skipped"])
    for rank, each in enumerate(ranked, start=1):
        numbers = ("" if math.isnan(value) else f"{value:.6g}" for value in (each.weight, each.cosine, each.loss))
        writer.writerow([rank, each.objective, *numbers, each.sampled, each.skipped])
    write_atomically(Path(path), text.getvalue())


def ranking_table(ranked: Sequence[RankedObjective], top: int = 10) -> Table:
    """Return the first `top` objectives as a table for the console, without the losses, which the file has.

    A column says in red how often each was left out, if any was.
    """
    left = len(ranked) - top
    table = Table(
        title=f"Auxiliary objectives by weight{f' (the first {top} of {len(ranked)})' if left > 0 else ''}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("objective", overflow="fold")
    skipped = any(each.skipped for each in ranked[:top])
    for column in ("weight", "cosine", "sampled", *(["skipped"] if skipped else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for each in ranked[:top]:
        cosine = "–" if math.isnan(each.cosine) else f"{each.cosine:+.3f}"
        cells = [each.objective, f"{each.weight:.4f}", cosine, str(each.sampled)]
        if skipped:
            cells.append(f"[red]{each.skipped}[/red]" if each.skipped else "0")
        table.add_row(*cells)
    return table
