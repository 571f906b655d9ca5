"""One model a group of tasks, beside one model for all tasks and one for each (Grad-TAG, section 4).

RUN/
  recipe.yaml           with `groups`
  group-1/, group-2/    a run folder each
  all/                  the run of one model for all tasks
  single/TASK/          the run of a task alone
  scores.json           each way's dev scores, and which way is better for each task
  summary.md            the same as a table
"""

import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

from rich.console import Console

from taskloom.affinity.folder import AFFINITY_FOLDER
from taskloom.build import build_suite
from taskloom.errors import RunError
from taskloom.inference import Scores, mean_score
from taskloom.processes import is_main, on_main
from taskloom.recipe import Recipe, differences
from taskloom.report import score_markdown, score_table
from taskloom.runs import RunFolder
from taskloom.tasks import TaskSuite

__all__ = ["fit_groups", "read_groups"]


def fit_groups(recipe: Recipe, resume: bool = False, quiet: bool = False) -> RunFolder:
    """Train one model for each of the recipe's `groups`, and what `group_against` asks for to compare with.

    Every model has the recipe's settings. With `training.max_steps`, a model of some tasks takes the share of the
    steps that is its tasks' share of the training examples, so that all ways see as many examples. The run that the
    groups came from is used as the one for all tasks if it is of the same recipe.

    Args:
        recipe: with `groups`.
        resume: continue an interrupted run in the same folder; models that are finished are not trained again.
        quiet: print nothing.

    Raises:
        UserError: a mistake in the groups, the recipe, the data or the run folder.
        KeyboardInterrupt: the run was interrupted; a checkpoint has been written.
    """
    assert recipe.groups is not None
    on_main(lambda: RunFolder.refuse_unusable(recipe.output, resume))
    console = Console(quiet=quiet or not is_main(), stderr=True)
    suite = build_suite(recipe)
    groups = read_groups(recipe.groups, suite)
    with RunFolder.create(recipe.output, recipe, resume) as run:
        if run.finished:
            console.print(f"{run.path} is finished: there is nothing to resume.")
            return run
        plan = _Plan(recipe, suite, console, quiet)
        ways = {"groups": [plan.train(f"group-{number}", group) for number, group in enumerate(groups, start=1)]}
        if "all" in recipe.group_against:
            ways["all"] = [plan.for_all()]
        if "single" in recipe.group_against:
            ways["single"] = [plan.train(f"single/{name}", [name]) for name in suite.names]
        _conclude(run, suite, groups, ways, console)
    return run


class _Plan:
    """The models of one grouped run, trained one after the other; each set of tasks once."""

    def __init__(self, recipe: Recipe, suite: TaskSuite, console: Console, quiet: bool) -> None:
        self.recipe = recipe
        self.suite = suite
        self.console = console
        self.quiet = quiet
        self._trained: dict[tuple[str, ...], RunFolder] = {}

    def for_all(self) -> RunFolder:
        source = self.recipe.groups
        if source is not None and (source / "finished.json").is_file():
            base = RunFolder.open(source)
            own = {"name", "groups", "group_against"}
            if not differences(base.recipe, self.recipe).keys() - own:
                self.console.print(f"one for all: {source}, the run that the groups came from")
                return base
        return self.train("all", list(self.suite.names))

    def train(self, name: str, tasks: Sequence[str]) -> RunFolder:
        from taskloom.fit import fit

        key = tuple(sorted(tasks))
        if key not in self._trained:
            self.console.print(f"[bold]{name}[/bold]: {', '.join(tasks)}")
            recipe = self._recipe(name, tasks)
            begun = on_main(lambda: (recipe.output / "recipe.yaml").is_file())
            self._trained[key] = fit(recipe, resume=begun, quiet=self.quiet)
        return self._trained[key]

    def _recipe(self, name: str, tasks: Sequence[str]) -> Recipe:
        training = self.recipe.training
        if training.max_steps > 0:
            share = self._examples(tasks) / self._examples(self.suite.names)
            steps = ceil(training.max_steps * share)
            every = None if training.evaluate_every is None else min(training.evaluate_every, steps)
            training = training.model_copy(
                update={"max_steps": steps, "evaluate_every": every, "checkpoint_every": None}
            )
        return self.recipe.model_copy(
            update={
                "name": f"{self.recipe.name}/{name}",
                "output": self.recipe.output / name,
                "only": [task for task in self.suite.names if task in tasks],
                "groups": None,
                "training": training,
            }
        )

    def _examples(self, tasks: Sequence[str]) -> int:
        return sum(len(self.suite.examples(task, "train")) for task in tasks)


def _conclude(
    run: RunFolder,
    suite: TaskSuite,
    groups: Sequence[Sequence[str]],
    ways: Mapping[str, Sequence[RunFolder]],
    console: Console,
) -> None:
    scores = {way: _merged(folders, "dev") for way, folders in ways.items()}
    baselines = _merged(ways["groups"], "majority")
    group_of = {name: str(number) for number, group in enumerate(groups, start=1) for name in group}
    tasks = sorted(suite, key=lambda task: (int(group_of[task.name]), suite.index(task.name)))
    content = {
        "groups": [list(group) for group in groups],
        "mean": {way: mean_score(suite, found) for way, found in scores.items()},
        "dev": scores,
        "majority": baselines,
    }
    run.write_scores(content)
    run.write_summary(score_markdown(tasks, scores, baselines, group_of))
    run.mark_finished()
    console.print(score_table(tasks, scores, baselines, group_of))
    console.print(f"Run folder: {run.path}")


def _merged(folders: Sequence[RunFolder], part: str) -> Scores:
    return {title: metrics for folder in folders for title, metrics in folder.read_scores()[part].items()}


def read_groups(path: Path, suite: TaskSuite) -> list[list[str]]:
    """Return the groups of tasks that a file, or the folder of a grouped run, holds.

    Raises:
        RunError: there are none, or they are not a partition of the suite's tasks.
    """
    file = path / AFFINITY_FOLDER / "groups.json" if path.is_dir() else path
    if not file.is_file():
        advice = f"Make them with: taskloom group {path}" if path.is_dir() else "Give a run folder or a JSON file"
        raise RunError(f"groups: there is no file {file}. {advice}")
    try:
        stored = json.loads(file.read_text("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: is not JSON: {error}") from error
    groups = stored.get("groups") if isinstance(stored, dict) else stored
    if not isinstance(groups, list) or not all(
        isinstance(group, list) and group and all(isinstance(name, str) for name in group) for group in groups
    ):
        raise RunError(f'{file}: must hold lists of task names, such as [["rte", "mnli"], ["cola"]]')
    named = [name for group in groups for name in group]
    unknown = sorted(set(named) - set(suite.names))
    if unknown:
        raise RunError(f"{file}: the recipe has no task '{unknown[0]}'; its tasks are {', '.join(suite.names)}")
    for name in suite.names:
        if named.count(name) != 1:
            found = "no group" if name not in named else f"{named.count(name)} groups"
            raise RunError(f"{file}: task '{name}' is in {found}; each task must be in one")
    return groups
