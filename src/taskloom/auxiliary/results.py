"""The results of many runs as one sheet: a row a setting, mean and spread over its seeds (published `resultsSheets`).

Every run says in its ``auxiliary.json`` how the tasks fared before the final fine-tuning (``pre``) and after it
(``post``), by task and metric. Settings are told apart by the fields in which the runs' recipes differ.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.errors import RunError
from taskloom.recipe import Recipe, differences
from taskloom.runs import RunFolder
from taskloom.storage import write_atomically

__all__ = ["RESULTS_FILE", "ResultsSheet", "results_sheet"]

#: What `taskloom.auxiliary.finetune` writes a run's scores to.
RESULTS_FILE = "auxiliary.json"

#: Fields that tell runs apart which are no settings.
_NOT_SETTINGS = ("name", "seed")


@dataclass(frozen=True)
class ResultsSheet:
    """A table of settings and their scores.

    Attributes:
        columns: the fields that differ between runs, by dotted name; then ``split`` and ``seeds``, their number; then
            ``pre.<metric>.mean``, ``pre.<metric>.std``, and the same of ``post``. Where runs have several tasks, a
            metric is called ``<task>.<metric>``.
        rows: one a setting, by column; a score that no run of the setting has is left out.
        notes: a line a folder that could not be counted, and why.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    notes: list[str]

    def write(self, path: Path) -> None:
        """Write the sheet as CSV; lists and mappings are written as JSON, what is missing is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(row.get(column)) for column in self.columns] for row in self.rows)
        write_atomically(Path(path), text.getvalue())


@dataclass(frozen=True)
class _Finished:
    path: Path
    recipe: Recipe
    split: str
    scores: dict[str, float]


def results_sheet(folders: Iterable[str | Path]) -> ResultsSheet:
    """Gather the scores of finished runs; others are noted and left out.

    The standard deviation is that of the seeds themselves (divided by n), as published.

    Args:
        folders: run folders, seeds and settings in any order.

    Raises:
        RunError: none of the folders holds a finished run with scores.
    """
    runs: list[_Finished] = []
    notes: list[str] = []
    for folder in folders:
        try:
            runs.append(_read(Path(folder)))
        except RunError as error:
            notes.append(f"left out: {error}")
    if not runs:
        raise RunError("\n".join(["there are no finished runs to compare", *notes]))
    fields = _differing([run.recipe for run in runs])
    settings: dict[str, list[_Finished]] = {}
    for run in runs:
        key = json.dumps([*(_value(run.recipe, field) for field in fields), run.split])
        same = settings.setdefault(key, [])
        twin = next((other for other in same if other.recipe.seed == run.recipe.seed), None)
        if twin is None:
            same.append(run)
        else:
            notes.append(f"left out: {run.path}: the setting and seed of {twin.path} again")
    scores = list(dict.fromkeys(name for run in runs for name in run.scores))
    scores.sort(key=lambda name: not name.startswith("pre."))
    rows = [
        {field: _value(group[0].recipe, field) for field in fields}
        | {"split": group[0].split, "seeds": len(group)}
        | _summary(group, scores)
        for group in settings.values()
    ]
    columns = [*fields, "split", "seeds", *(f"{score}.{kind}" for score in scores for kind in ("mean", "std"))]
    return ResultsSheet(tuple(columns), rows, notes)


def _read(folder: Path) -> _Finished:
    run = RunFolder.open(folder)
    if not run.finished:
        raise RunError(f"{folder}: this run is not finished")
    path = folder / RESULTS_FILE
    if not path.is_file():
        raise RunError(f"{folder}: a run without auxiliary objectives: it has no {RESULTS_FILE}")
    try:
        written = json.loads(path.read_text("utf-8"))
        scores = {
            name: value
            for phase in ("pre", "post")
            for name, value in _named(phase, written[phase] or {}).items()
            if value is not None
        }
        return _Finished(folder, run.recipe, str(written["split"]), scores)
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"{path}: expected the scores pre, post and the split: the file was changed") from error


def _named(phase: str, tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    several = len(tasks) > 1
    return {
        f"{phase}.{task}.{metric}" if several else f"{phase}.{metric}": value
        for task, metrics in tasks.items()
        for metric, value in metrics.items()
    }


def _differing(recipes: Sequence[Recipe]) -> list[str]:
    """Return the dotted names of the fields in which any two recipes differ, in the recipe's order."""
    first, *others = recipes
    found = dict.fromkeys(name for other in others for name in differences(first, other))
    return [name for name in found if name not in _NOT_SETTINGS]


def _value(recipe: Recipe, field: str) -> Any:
    section, _, name = field.partition(".")
    value = recipe.resolved()[section]
    return value.get(name) if name else value


def _summary(runs: Sequence[_Finished], scores: Iterable[str]) -> dict[str, float]:
    summary: dict[str, float] = {}
    for score in scores:
        values = [run.scores[score] for run in runs if score in run.scores]
        if values:
            summary[f"{score}.mean"], summary[f"{score}.std"] = float(np.mean(values)), float(np.std(values))
    return summary


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value) if isinstance(value, list | dict | bool) else value
