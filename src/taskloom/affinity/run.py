"""The affinity of a run's tasks: from its recipe to a store of gradients, estimates, a matrix and groups."""

import json
import time
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from rich.console import Console

from taskloom.affinity.bagging import split_dimensions
from taskloom.affinity.cluster import Method, Transform, cluster_tasks
from taskloom.affinity.estimate import AffinityMatrix, affinity_from
from taskloom.affinity.folder import AFFINITY_FOLDER, read_affinity, write_affinity
from taskloom.affinity.forward import forward_estimates
from taskloom.affinity.scores import Estimates
from taskloom.affinity.store import GradientStore
from taskloom.affinity.subsets import PUBLISHED_SIZE, pair_subsets, random_subsets
from taskloom.affinity.suite import SuiteCollection
from taskloom.affinity.surrogate import NotConvergedError, SubsetSurrogate
from taskloom.build import build_model, build_suite, recipe_tokenizer
from taskloom.errors import DataError, RecipeError
from taskloom.predictor import load
from taskloom.processes import is_main, lost_processes, main_first, on_main
from taskloom.recipe import Recipe
from taskloom.report import affinity_heatmap
from taskloom.runs import RunFolder
from taskloom.storage import write_atomically
from taskloom.tasks import TaskSuite

__all__ = ["Grouping", "estimate_affinity", "group_tasks"]

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
    a collection of gradients that was interrupted goes on, and a finished one is used again. Several processes share
    training and collection; the main one alone makes and writes the estimates.

    Raises:
        UserError: a mistake in the recipe or the data, or the folder holds a run or gradients of something else.
    """
    from taskloom.fit import fit

    console = None if quiet or not is_main() else Console(stderr=True)
    with main_first():  # who comes later reads the first one's caches
        suite = build_suite(recipe)
        _refuse_suite(suite)
        _refuse_few_subsets(recipe, len(suite))
    begun, finished = on_main(lambda: [(recipe.output / name).is_file() for name in ("recipe.yaml", "finished.json")])
    if not begun:
        with main_first():
            SuiteCollection(recipe, build_model(recipe, list(suite)), recipe_tokenizer(recipe), suite).rehearse()
    run = fit(recipe, resume=begun, quiet=quiet or finished)
    with RunFolder.create(run.path, recipe, resume=True):
        with main_first():
            predictor = load(run.path)
            collection = SuiteCollection(recipe, predictor.model, predictor.tokenizer, suite)
        started = time.perf_counter()
        with lost_processes("Run the same command again: it goes on from what is collected."):
            store = collection.collect(run.path / AFFINITY_FOLDER / "gradients", console)
        collected = time.perf_counter()

        def estimated() -> AffinityMatrix:
            estimates = _estimates(recipe, store, collection, console)
            try:
                affinity = affinity_from(estimates, alone=recipe.affinity.order == "pairwise")
            except ValueError as error:
                raise RecipeError(f"affinity.subsets: {error}") from error
            seconds = {"collect": collected - started, "estimate": time.perf_counter() - collected}
            write_affinity(run.path / AFFINITY_FOLDER, recipe, estimates, affinity, seconds)
            return affinity

        return run, on_main(estimated)


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


def _refuse_few_subsets(recipe: Recipe, tasks: int) -> None:
    """Refuse before the training what leaves pairs of tasks without an estimate, however it is drawn."""
    given = recipe.affinity.subsets
    size = _subset_size(recipe, tasks)
    if recipe.affinity.order == "pairwise" or given is None or size < 2:
        return
    needed = ceil(tasks * (tasks - 1) / (size * (size - 1)))
    if given < needed:
        raise RecipeError(
            f"affinity.subsets: {given} subsets of {size} tasks cannot hold every pair of {tasks} tasks: expected "
            f"{needed:,} at least, better several times as many. Leave it out for a number that suffices"
        )


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
    except (ValueError, NotConvergedError) as error:
        raise RecipeError(f"affinity: {error}") from error


def _subsets(recipe: Recipe, tasks: tuple[str, ...]) -> list[tuple[str, ...]]:
    settings = recipe.affinity
    if settings.order == "pairwise":
        return pair_subsets(tasks)
    try:
        return random_subsets(tasks, _subset_size(recipe, len(tasks)), settings.subsets, recipe.seed)
    except ValueError as error:
        raise RecipeError(f"affinity.subset_size and affinity.subsets: {error}") from error


def _subset_size(recipe: Recipe, tasks: int) -> int:
    return recipe.affinity.subset_size or min(PUBLISHED_SIZE, max(2, tasks // 2))


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
    count = len(affinity.tasks)
    if k != "auto" and k > count:
        raise DataError(f"{run}: has {count} tasks, too few for {k} groups: choose 1 to {count}, or auto")
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
