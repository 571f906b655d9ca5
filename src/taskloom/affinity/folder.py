"""What a run's affinity folder holds, and how it is written and read.

RUN/affinity/
  gradients/        every example's projected gradient, see `taskloom.affinity.store`
  estimates.csv     task, trained_on, estimate, stderr: every estimate
  affinity.csv      task, with, affinity, stderr, gain, gain_stderr, subsets: the matrix
  affinity.json     the matrix with the settings that it came from and the seconds that it took
  groups.json       the groups that `taskloom group` found
  heatmap.png       the matrix in the order of the groups (and .svg)
"""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from taskloom.affinity.estimate import AffinityMatrix
from taskloom.affinity.scores import Estimates
from taskloom.errors import RunError
from taskloom.recipe import Recipe
from taskloom.report import affinity_heatmap
from taskloom.runs import RunFolder
from taskloom.storage import write_atomically

__all__ = ["AFFINITY_FOLDER", "read_affinity", "write_affinity"]

AFFINITY_FOLDER = "affinity"


def write_affinity(
    folder: Path, recipe: Recipe, estimates: Estimates, affinity: AffinityMatrix, seconds: Mapping[str, float]
) -> None:
    """Write the estimates, the matrix and its picture.

    Args:
        folder: the affinity folder.
        recipe: what was asked for.
        estimates: of every subset.
        affinity: what they amount to.
        seconds: what each step took.
    """
    rows = [
        (task, "+".join(trained_on), f"{value:.6g}", f"{error:.3g}")
        for task, trained_on, value, error in estimates.rows()
    ]
    _write_csv(folder / "estimates.csv", ("task", "trained_on", "estimate", "stderr"), rows)
    entries = [
        (
            row,
            column,
            f"{affinity.values[i, j]:.6g}",
            f"{affinity.stderr[i, j]:.3g}",
            f"{affinity.gain[i, j]:.6g}",
            f"{affinity.gain_stderr[i, j]:.3g}",
            str(int(affinity.counts[i, j])),
        )
        for i, row in enumerate(affinity.tasks)
        for j, column in enumerate(affinity.tasks)
    ]
    header = ("task", "with", "affinity", "stderr", "gain", "gain_stderr", "subsets")
    _write_csv(folder / "affinity.csv", header, entries)
    content = {
        "tasks": affinity.tasks,
        "metric": affinity.metric,
        "order": recipe.affinity.order,
        "values": affinity.values.tolist(),
        "stderr": affinity.stderr.tolist(),
        "gain": affinity.gain.tolist(),
        "gain_stderr": affinity.gain_stderr.tolist(),
        "counts": affinity.counts.tolist(),
        "settings": recipe.affinity.model_dump(mode="json"),
        "seconds": dict(seconds),
    }
    write_atomically(folder / "affinity.json", json.dumps(content, indent=1) + "\n")
    affinity_heatmap(affinity, folder / "heatmap.png", alone=recipe.affinity.order == "pairwise")


def _write_csv(path: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def read_affinity(run: Path | str) -> tuple[AffinityMatrix, str]:
    """Return the affinity that a run's folder holds, and its order, "pairwise" or "higher".

    Raises:
        RunError: there is none, its file is damaged, or `run` is no run folder.
    """
    path = Path(run) / AFFINITY_FOLDER / "affinity.json"
    if not path.is_file():
        RunFolder.open(run)  # says so if it is no run at all
        raise RunError(f"{run}: has no estimates of affinity yet. Make them with: taskloom affinity {run}")
    try:
        stored = json.loads(path.read_text("utf-8"))
        names = ("values", "stderr", "gain", "gain_stderr")
        numbers = {name: torch.tensor(stored[name], dtype=torch.float64) for name in names}
        counts = torch.tensor(stored["counts"])
        affinity = AffinityMatrix(tuple(stored["tasks"]), **numbers, counts=counts, metric=stored["metric"])
        return affinity, stored["order"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is damaged. Make it again with: taskloom affinity {run}") from error
