"""Which runs are the same setting under several seeds, and in which fields of their recipes runs differ."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from taskloom.report.html.reading.run import PLACES, Run

__all__ = ["Setting", "Spread", "differing_fields", "settings"]


@dataclass(frozen=True)
class Spread:
    """Values over seeds.

    Attributes:
        values: one a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """The standard deviation (divided by n - 1); None of one value."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Setting:
    """Runs of one recipe that differ in their seed alone.

    Attributes:
        name: of the run, or of the first with the number of seeds.
        runs: one a seed.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> int:
        return len(self.runs)


def settings(runs: Iterable[Run]) -> list[Setting]:
    """Return the settings of runs with dev scores, in the order of their first run."""
    groups: dict[tuple[str, int], list[Run]] = {}
    counts: Counter[tuple[str, int | None]] = Counter()
    for run in runs:
        key = _key(run)
        # The same recipe with the same seed again is no further seed.
        groups.setdefault((key, counts[key, run.seed]), []).append(run)
        counts[key, run.seed] += 1
    return [Setting(_name(group), tuple(group)) for group in groups.values()]


def _key(run: Run) -> str:
    others = ("affinity.", "sweep.", "pipeline.")
    fields = {
        name: value
        for name, value in run.recipe.items()
        # A field that one version of taskloom has and another has not is unset.
        if value is not None and name != "seed" and name not in PLACES and not name.startswith(others)
    }
    if not fields:  # a recipe that cannot be read is like no other
        return str(run.path)
    return json.dumps([run.kind, run.way, fields], sort_keys=True, default=str)


def _name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    names = [run.name for run in runs]
    start = names[0]
    if len({name.rpartition("/")[0] for name in names}) == 1 and "/" in start and "seed" in start:
        start = start.rpartition("/")[0]
    return f"{start} ({len(runs)} seeds)"


def differing_fields(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the fields in which the recipes of runs differ, each with the value of every run."""
    # A way of a grouped run has the recipe of that run.
    recipes = [run.recipe for run in runs]
    names = dict.fromkeys(name for recipe in recipes for name in recipe)
    found = {}
    for name in names:
        values = [recipe.get(name) for recipe in recipes]
        # Without groups it says nothing what these are compared with.
        compared = [recipe.get(name) for recipe in recipes if recipe.get("groups") or name != "group_against"]
        if name not in PLACES and any(value != compared[0] for value in compared):
            found[name] = values
    return found
