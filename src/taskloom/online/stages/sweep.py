"""Choosing the learning rate of updates on a validation stream, as published; a rate that diverges is marked so."""

import csv
import io
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taskloom.errors import RunError
from taskloom.online.stream_run import DivergedError
from taskloom.processes import is_main, on_main
from taskloom.storage import write_atomically

__all__ = ["choose_rate"]

COLUMNS = ("learning_rate", "status", "documents", "nll", "f1", "exact_match")


def choose_rate(
    rates: Sequence[float],
    metric: str,
    trial: Callable[[float, Path], dict[str, Any]],
    folder: Path,
) -> float:
    """Try learning rates and return the best, of equal ones that of the lower nll; ``sweep.csv`` has them all.

    Args:
        rates: to try.
        metric: ``nll``, ``f1`` or ``exact_match``.
        trial: adapts the model with a rate in a folder and returns `documents` and the metrics that it then has.
        folder: for ``sweep.csv``, from which trials that are done are taken when the sweep goes on, and for a folder
            ``sweep/RATE`` of each trial.

    Raises:
        RunError: every rate diverged.
    """
    path = folder / "sweep.csv"
    done = {float(row["learning_rate"]): row for row in on_main(lambda: _read(path))}
    rows: list[dict[str, Any]] = []
    for rate in rates:
        row = done.get(rate)
        if row is None:
            row = {"learning_rate": rate, **_tried(trial, rate, _trial_folder(folder, rate))}
        rows.append(row)
        if not is_main():
            continue
        _write(path, rows)
        # They are as large as the model and its optimizer, and of use only to a trial that is not done.
        shutil.rmtree(_trial_folder(folder, rate) / "checkpoints", ignore_errors=True)
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        tried = ", ".join(f"{rate:g}" for rate in rates)
        raise RunError(f"adapt.learning_rate: the model diverged with every one of {tried}. Try lower ones")
    # Small models often answer nothing right at any rate: then the nll tells them apart.
    best = min(good, key=lambda row: (_cost(row, metric), _cost(row, "nll"), float(row["learning_rate"])))
    return float(best["learning_rate"])


def _cost(row: dict[str, Any], metric: str) -> float:
    return float(row[metric]) if metric == "nll" else -float(row[metric])


def _trial_folder(folder: Path, rate: float) -> Path:
    return folder / "sweep" / str(rate)


def _tried(trial: Callable[[float, Path], dict[str, Any]], rate: float, folder: Path) -> dict[str, Any]:
    try:
        found = trial(rate, folder)
    except DivergedError:
        return {"status": "diverged"}
    return {"status": "ok" if math.isfinite(found["nll"]) else "diverged", **found}


def _read(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8")))) if path.is_file() else []


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer: Any = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
