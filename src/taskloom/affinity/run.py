"""The affinity of a run's tasks: from its recipe to a store of gradients, estimates, a matrix and groups.

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
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from taskloom.affinity.bagging import split_dimensions
from taskloom.affinity.cluster import Method, Transform, cluster_tasks
from taskloom.affinity.collect import collect_gradients
from taskloom.affinity.estimate import AffinityMatrix, affinity_from
from taskloom.affinity.forward import forward_estimates
from taskloom.affinity.outputs import SuiteOutput
from taskloom.affinity.scores import Estimates
from taskloom.affinity.store import GradientStore
from taskloom.affinity.subsets import PUBLISHED_SIZE, pair_subsets, random_subsets
from taskloom.affinity.surrogate import SubsetSurrogate
from taskloom.build import build_suite, layout
from taskloom.errors import DataError, RecipeError, RunError
from taskloom.gradients import Projection
from taskloom.predictor import Predictor, load
from taskloom.recipe import Recipe
from taskloom.report import affinity_heatmap
from taskloom.runs import RunFolder
from taskloom.storage import write_atomically
from taskloom.tasks import TaskFeatures, TaskSuite

__all__ = ["AFFINITY_FOLDER", "Grouping", "estimate_affinity", "group_tasks", "read_affinity"]

AFFINITY_FOLDER = "affinity"
#: Above this many trainable parameters `affinity.factor=auto` compresses weight matrices to sides of FACTOR first.
DENSE_PARAMETERS = 1_000_000
FACTOR = 32
#: Each subset is estimated on all tasks, not only its own, as long as there are no more estimates than this.
MANY_ESTIMATES = 200_000


@dataclass(frozen=True)
class Grouping:
    """A partition of a run's tasks, and how it was found."""

    groups: list[list[str]]
    method: str
    transform: str | None
    metric: str


def estimate_affinity(recipe: Recipe, quiet: bool = False) -> tuple[RunFolder, AffinityMatrix]:
    """Estimate how the recipe's tasks do when they are trained with each other, and write it to the run's folder.

    The base model is the recipe's own run on all tasks. It is trained, or its training resumed, if it is not finished;
    a collection of gradients that was interrupted goes on, and a finished one is used again.

    Raises:
        UserError: a mistake in the recipe or the data, or the folder holds a run or gradients of something else.
    """
    from taskloom.fit import fit

    console = None if quiet else Console(stderr=True)
    suite = build_suite(recipe)
    _refuse_suite(suite)
    run = fit(recipe, resume=(recipe.output / "recipe.yaml").is_file(), quiet=quiet)
    with RunFolder.create(run.path, recipe, resume=True):
        collection = SuiteCollection(recipe, load(run.path), suite)
        started = time.perf_counter()
        store = collection.collect(run.path / AFFINITY_FOLDER / "gradients", console)
        collected = time.perf_counter()
        estimates = _estimates(recipe, store, collection, console)
        affinity = affinity_from(estimates, alone=recipe.affinity.order == "pairwise")
        seconds = {"collect": collected - started, "estimate": time.perf_counter() - collected}
        _write(run.path / AFFINITY_FOLDER, recipe, estimates, affinity, seconds)
    return run, affinity


def _refuse_suite(suite: TaskSuite) -> None:
    """Refuse before the training what could not be estimated after it."""
    if len(suite) < 2:
        raise RecipeError("tasks: there is only one; affinity is between two or more")
    for task in suite:
        examples = suite.examples(task.name, "train")
        if task.kind == "classification" and len(set(examples.targets or [])) < 2:
            raise DataError(
                f"{examples.source}: all training examples of task '{task.name}' are of one class; nothing can be "
                "learned from them. Add others, or leave the task out."
            )


class SuiteCollection:
    """A run's model and its tasks' examples, as `collect_gradients` wants them.

    Args:
        recipe: its `affinity` section says how many examples.
        predictor: the run's best model.
        suite: the tasks with their data.
    """

    def __init__(self, recipe: Recipe, predictor: Predictor, suite: TaskSuite) -> None:
        self.settings = recipe.affinity
        self.model = predictor.model
        self.suite = suite
        self.output = SuiteOutput(list(suite))
        collator = predictor.inference().collator
        self._items: dict[tuple[str, str], _Items] = {}
        for task in suite:
            limits = {"train": self.settings.examples, task.dev_splits[0]: self.settings.validation_examples}
            for split, limit in limits.items():
                features = suite.task_features(task.name, split, predictor.tokenizer, **layout(recipe, self.model))
                key = f"{recipe.seed}/{task.name}/{split}"
                self._items[task.name, split] = _Items(features, limit, key, suite.examples(task.name, split).where)
        self.train, self.validation = (
            {
                task.name: DataLoader(
                    self._items[task.name, self._split(task.name, part)],
                    batch_size=self.settings.batch_size,
                    collate_fn=collator,
                    num_workers=recipe.data.workers,
                )
                for task in suite
            }
            for part in ("train", "validation")
        )

    def _split(self, task: str, part: str) -> str:
        return "train" if part == "train" else self.suite[task].dev_splits[0]

    def collect(self, folder: Path, console: Console | None) -> GradientStore:
        """Collect the gradients into a folder, or finish what was begun there."""
        settings = self.settings
        return collect_gradients(
            self.model,
            self.train,
            self.output,
            folder=folder,
            validation=self.validation,
            projection=Projection(settings.dimensions, settings.distribution, settings.projection_seed, self._factor()),
            losses=self.output.losses,
            labels_fn=self.output.labels,
            fallback=None if settings.fallback == "none" else settings.fallback,
            describe=lambda task, part, position: self._items[task, self._split(task, part)].where(position),
            console=console,
        )

    def forward(self, _model: Any, batch: Mapping[str, Tensor]) -> Any:
        """Run the model on a batch, on its device."""
        device = next(self.model.parameters()).device
        return self.model(**{name: value.to(device) for name, value in batch.items()})

    def _factor(self) -> int | None:
        if self.settings.factor == "auto":
            trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
            return FACTOR if trained > DENSE_PARAMETERS else None
        return None if self.settings.factor == "none" else self.settings.factor


class _Items(Subset):
    """Some items of a split, drawn by a seeded choice, the longest first, so that batches hold little padding."""

    def __init__(self, features: TaskFeatures, limit: int | None, key: str, where: Callable[[int], str]) -> None:
        chosen = list(range(len(features)))
        if limit is not None and limit < len(chosen):
            chosen = random.Random(key).sample(chosen, limit)
        data: Dataset = features
        super().__init__(data, sorted(chosen, key=lambda item: (-features.lengths[item], item)))
        self._examples = None if features.windows is None else features.windows.examples
        self._where = where

    def where(self, position: int) -> str:
        """Return the file and line of an item."""
        item = self.indices[position]
        return self._where(item if self._examples is None else int(self._examples[item]))


def _estimates(recipe: Recipe, store: GradientStore, collection: SuiteCollection, console: Console | None) -> Estimates:
    settings = recipe.affinity
    sources = split_dimensions(store, settings.members) if settings.members > 1 else store
    surrogate = SubsetSurrogate(sources, settings.C, balance=settings.balance)
    subsets = _subsets(recipe, store.tasks)
    try:
        if settings.evaluation == "forward":
            arguments = (collection.model, collection.validation, collection.output, collection.forward)
            return forward_estimates(surrogate, store, subsets, settings.metric, *arguments, console)
        scope: Literal["all", "members"] = "all" if len(subsets) * len(store.tasks) <= MANY_ESTIMATES else "members"
        return surrogate.estimate(subsets, settings.metric, scope, gains=settings.order == "pairwise")
    except ValueError as error:
        raise RecipeError(f"affinity: {error}") from error


def _subsets(recipe: Recipe, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
    settings = recipe.affinity
    if settings.order == "pairwise":
        return pair_subsets(tasks)
    size = settings.subset_size or min(PUBLISHED_SIZE, max(2, len(tasks) // 2))
    try:
        return random_subsets(tasks, size, settings.subsets, recipe.seed)
    except ValueError as error:
        raise RecipeError(f"affinity.subset_size and affinity.subsets: {error}") from error


def _write(
    folder: Path, recipe: Recipe, estimates: Estimates, affinity: AffinityMatrix, seconds: Mapping[str, float]
) -> None:
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
        RunError: there is none, or its file is damaged.
    """
    path = Path(run) / AFFINITY_FOLDER / "affinity.json"
    if not path.is_file():
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


def group_tasks(
    run: Path | str,
    k: int | Literal["auto"] = "auto",
    method: Method = "sdp",
    transform: Transform | None = None,
) -> Grouping:
    """Partition a run's tasks by their affinity, and write the groups and the heatmap in their order.

    Args:
        run: a run folder with estimates of affinity.
        k: the number of groups; "auto" chooses it.
        method: see `cluster_tasks`.
        transform: of the rows of the affinity, see `AffinityMatrix.symmetric`.

    Raises:
        RunError: the run has no affinity.
        DataError: the affinity is not finite, or there are fewer tasks than groups.
    """
    affinity, order = read_affinity(run)
    try:
        clusters = cluster_tasks(affinity.symmetric(transform), k, method)
    except ValueError as error:
        raise DataError(f"{Path(run) / AFFINITY_FOLDER / 'affinity.json'}: {error}") from error
    groups = [[affinity.tasks[position] for position in cluster] for cluster in clusters]
    grouping = Grouping(groups, method, transform, affinity.metric)
    folder = Path(run) / AFFINITY_FOLDER
    content = {"groups": groups, "method": method, "transform": transform, "metric": affinity.metric, "k": len(groups)}
    write_atomically(folder / "groups.json", json.dumps(content, indent=1) + "\n")
    affinity_heatmap(affinity, folder / "heatmap.png", alone=order == "pairwise", clusters=clusters)
    return grouping
