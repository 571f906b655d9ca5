"""One run of the report: what its folder says about it, whatever kind it is of."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from taskloom.evaluation.metrics import combined
from taskloom.report.html.reading.files import Files, Notes, mapping, number, numbers

__all__ = ["KINDS", "Run", "Series", "flat", "score", "table"]

#: What the kinds of a run are called.
KINDS = {
    "train": "training",
    "auxiliary": "auxiliary objectives",
    "groups": "a model a group",
    "way": "way to group",
    "tune-qa": "tuning on questions",
    "meta-train": "meta-training",
    "adapt": "online adaptation",
    "sweep": "sweep",
}

#: Values and the steps at which they were logged.
Series = list[tuple[float, float]]

#: Fields of a recipe that tell folders apart, not what is trained.
PLACES = ("name", "description", "output", "data.cache")


@dataclass
class Run:
    """A run folder, or one way of a grouped run.

    Args:
        path: the folder.
        name: what the report calls it.
        kind: one of `KINDS`.
        notes: what is missing or damaged.
        parts: of a way of a grouped run, the runs that it is made of.
        way: the name of that way in its scores.
    """

    path: Path
    name: str
    kind: str
    notes: Notes = field(default_factory=Notes)
    parts: tuple["Run", ...] = ()
    way: str | None = None

    @cached_property
    def files(self) -> Files:
        return Files(self.path, self.notes)

    @cached_property
    def recipe_text(self) -> str:
        """The recipe as it was written."""
        return self.files.text("base.yaml" if self.kind == "sweep" else "recipe.yaml") or ""

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe's fields by dotted name; the list of tasks stays whole."""
        name = "base.yaml" if self.kind == "sweep" else "recipe.yaml"
        try:
            content = yaml.safe_load(self.recipe_text)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            self.notes.add(
                f"{self.path / name}{f':{mark.line + 1}' if mark else ''}: not YAML: the recipe cannot be compared"
            )
            return {}
        return flat(mapping(content))

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self.files.json("environment.json")

    @cached_property
    def scores(self) -> dict[str, Any]:
        return self.files.json("scores.json")

    @property
    def seed(self) -> int | None:
        found = number(self.recipe.get("seed"))
        return None if found is None else int(found)

    @property
    def finished(self) -> bool:
        return self.files.has("finished.json")

    @cached_property
    def minutes(self) -> float | None:
        """From the start to the end of the run; None for one that is not finished or was resumed."""
        start, end = _time(self.environment.get("started")), self._end
        if self.resumed or start is None or end is None:
            return None
        return (end - start).total_seconds() / 60

    @property
    def resumed(self) -> int:
        """How often the run was taken up again; not what opened it when it was finished, such as its affinity."""
        given = self.environment.get("resumed")
        times = [_time(mapping(each).get("started")) for each in given] if isinstance(given, list) else []
        return sum(self._end is None or time is None or time < self._end for time in times)

    @cached_property
    def _end(self) -> datetime | None:
        return _time(self.files.json("finished.json").get("finished")) if self.finished else None

    # Scores

    @cached_property
    def dev(self) -> dict[str, dict[str, float]]:
        """The metrics of each dev split by its title."""
        found = mapping(self.scores.get("dev"))
        way = "groups" if self.kind == "groups" else self.way
        return table(found.get(way) if way is not None else found)

    @cached_property
    def majority(self) -> dict[str, dict[str, float]]:
        """The same of the majority baseline."""
        return table(self.scores.get("majority"))

    @property
    def mean(self) -> float | None:
        """The mean dev score."""
        found, way = self.scores.get("mean"), "groups" if self.kind == "groups" else self.way
        return number(mapping(found).get(way)) if way is not None else number(found)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, from the scores or, before there are any, the log."""
        names = [title for title in self.dev if "/" not in title]
        return names or list(self.history.tasks)

    # The log

    @cached_property
    def history(self) -> "History":
        """The log of the run; of a way of a grouped run, that of its parts, task by task."""
        if self.kind == "way":
            return History.merged([part.history for part in self.parts])
        history = History()
        for entry in self.files.json_lines("metrics.jsonl"):
            history.add(entry)
        return history


@dataclass
class History:
    """What a run logged over its steps.

    Attributes:
        whole: series of the whole run by name, such as ``loss`` and ``dev/mean``.
        loss, dev, share: of each task, its training loss, the mean of its dev metrics, and its share of the examples.
        steps: the last step.
    """

    whole: dict[str, Series] = field(default_factory=lambda: defaultdict(list))
    loss: dict[str, Series] = field(default_factory=lambda: defaultdict(list))
    dev: dict[str, Series] = field(default_factory=lambda: defaultdict(list))
    share: dict[str, Series] = field(default_factory=lambda: defaultdict(list))
    steps: int = 0

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys([*self.share, *self.loss, *self.dev]))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take in one entry of the log."""
        step = number(entry.get("step"))
        if step is None:
            return
        self.steps = max(self.steps, int(step))
        dev: dict[str, dict[str, float]] = defaultdict(dict)
        for key, value in numbers(entry).items():
            match key.split("/"):
                case ["loss", task]:
                    self.loss[task].append((step, value))
                case ["share", task]:
                    self.share[task].append((step, value))
                case ["dev", task, metric]:
                    if metric != "loss":
                        dev[task][metric] = value
                case ["dev", _]:
                    self.whole[key].append((step, value))
                case ["loss" | "nll" | "nll_gain" | "kl"]:
                    self.whole[key].append((step, value))
        for task, metrics in dev.items():
            self.dev[task].append((step, score(metrics)))

    @classmethod
    def merged(cls, histories: list["History"]) -> "History":
        whole = cls(steps=max((each.steps for each in histories), default=0))
        for each in histories:
            whole.loss.update(each.loss)
            whole.dev.update(each.dev)
            whole.share.update(each.share)
        return whole


def score(metrics: Mapping[str, float]) -> float:
    """Return the one number that counts, the mean of a task's metrics (a perplexity as its inverse)."""
    return combined({name: value for name, value in metrics.items() if name != "perplexity" or value})


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def table(value: Any) -> dict[str, dict[str, float]]:
    """Return the metrics of each title of a table of scores."""
    return {str(title): numbers(metrics) for title, metrics in mapping(value).items()}


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe's sections under dotted names."""
    found: dict[str, Any] = {}
    for section, value in recipe.items():
        if isinstance(value, Mapping):
            found.update({f"{section}.{name}": item for name, item in value.items()})
        else:
            found[str(section)] = value
    return found
