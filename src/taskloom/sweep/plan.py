"""What a sweep is: its recipe, what it varies and how it compares; kept in its folder, which another cannot take over.

FOLDER/
  sweep.json        this plan
  base.yaml         the resolved recipe that all trials start from; recipes/: those that are tried as a whole
  sweep.db          Optuna's record of trials (SQLite); of the backend ray: ray/
  trials/SETTING/   settings.json, and for each seed: seed-N/ (a normal run folder), its log and its outcome
  results.csv, results.parquet, sweep.png, sweep.svg
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from taskloom.errors import RecipeError, RunError
from taskloom.locks import FolderLock
from taskloom.recipe import Recipe, load_recipe, recipe_yaml
from taskloom.storage import write_atomically
from taskloom.sweep.space import RECIPE, Choice, Dimension, Drawn, grid
from taskloom.sweep.trial import copied_recipe

__all__ = ["PLAN_FILE", "RECIPE_FILE", "SweepPlan", "checked_recipes", "open_folder"]

PLAN_FILE = "sweep.json"
RECIPE_FILE = "base.yaml"

Search = Literal["grid", "random", "tpe"]


@dataclass(frozen=True)
class SweepPlan:
    """What is tried and how it is compared.

    Attributes:
        space: values by dotted field.
        search: all combinations, at random, or by Optuna's tree-structured Parzen estimator (TPE).
        trials: settings tried; None tries all of a grid.
        seeds: trainings of each setting, with seeds from the recipe's on.
        stop: ``asha`` stops trainings early whose dev scores are among the worse (asynchronous successive halving).
        verb: the command that trains.
        metric: what is compared, see `taskloom.sweep.trial.Trial`.
        minimize: whether less of it is better.
        seed: of the search.
    """

    space: dict[str, Dimension]
    search: Search = "grid"
    trials: int | None = None
    seeds: int = 1
    stop: Literal["none", "asha"] = "none"
    verb: str = "train"
    metric: str = "mean"
    minimize: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.search == "grid":
            count = len(grid(self.space))
            if self.trials is not None and self.trials < count:
                raise RecipeError(
                    f"--trials is {self.trials}, but the grid has {count} settings: leave it out, or use "
                    "--search random, which draws so many of them"
                )
        elif self.trials is None:
            raise RecipeError(f"--search {self.search} draws settings without end: say how many with --trials")
        if not self.space and self.seeds == 1:
            raise RecipeError(
                "there is nothing to vary: give fields with values, such as training.learning_rate=1e-5,3e-5, or "
                "`sweep.grid` in the recipe, or --seeds"
            )
        if self.stop == "asha" and (self.metric != "mean" or self.minimize):
            raise RecipeError("--stop asha compares mean dev scores while they come: it goes with --metric mean only")

    @property
    def size(self) -> int:
        """How many settings are tried."""
        return len(grid(self.space)) if self.search == "grid" else self.trials or 0

    def written(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        space = {
            name: {"values": list(each.values)} if isinstance(each, Choice) else asdict(each)
            for name, each in self.space.items()
        }
        names = ("search", "trials", "seeds", "stop", "verb", "metric", "minimize", "seed")
        return {"space": space} | {name: getattr(self, name) for name in names}


def checked_recipes(plan: SweepPlan, recipe: str | Path, overrides: list[str]) -> dict[str, Recipe]:
    """Load the recipe with values of each field, so that a mistake is told before anything runs.

    Returns:
        By name the recipes that are tried as a whole.

    Raises:
        RecipeError: a field or value that no recipe takes.
    """
    tried = {
        name: dimension.values if isinstance(dimension, Choice) else _ends(dimension)
        for name, dimension in plan.space.items()
    }
    others = {str(name): load_recipe(str(name), overrides) for name in tried.pop(RECIPE, ())}
    for base in others or [recipe]:
        for name, values in tried.items():
            for value in values:
                load_recipe(base, [*overrides, f"{name}={json.dumps(value)}"])
    return others


def _ends(drawn: Drawn) -> tuple[Any, ...]:
    return (int(drawn.low), int(drawn.high)) if drawn.integer else (drawn.low, drawn.high)


def open_folder(
    folder: Path, recipe: Recipe, plan: SweepPlan, resume: bool, others: Mapping[str, Recipe] | None = None
) -> None:
    """Begin a sweep in a folder, or go on with the one that is there.

    Args:
        folder: the sweep's.
        recipe: what its trials start from.
        plan: what is tried.
        resume: whether to go on.
        others: recipes that are tried as a whole, by name.

    Raises:
        RunError: the folder holds a sweep and `resume` is off, another sweep, or something else.
    """
    file = folder / PLAN_FILE
    copies = {folder / RECIPE_FILE: recipe_yaml(recipe)}
    copies |= {copied_recipe(folder, name): recipe_yaml(other) for name, other in (others or {}).items()}
    if file.is_file():
        if not resume:
            raise RunError(
                f"{folder}: holds a sweep already. Continue it with --resume, or choose another folder with "
                "output=FOLDER"
            )
        stored = json.loads(file.read_text("utf-8"))
        differing = [name for name, value in plan.written().items() if stored.get(name) != value]
        if any(not path.is_file() or path.read_text("utf-8") != text for path, text in copies.items()):
            differing.append("the recipe")
        if differing:
            raise RunError(
                f"{folder}: holds another sweep: it differs in {', '.join(differing)}. Choose another folder with "
                "output=FOLDER, or repeat the command that began it"
            )
        return
    unstarted = {FolderLock.FILE_NAME, RECIPE_FILE, "recipes"}  # what a sweep that was killed at once leaves behind
    found = sorted(item.name for item in folder.iterdir() if item.name not in unstarted)
    if found:
        raise RunError(f"{folder}: not empty (it holds {found[0]}) and not a sweep: choose another with output=FOLDER")
    for path, text in copies.items():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text)
    write_atomically(file, json.dumps(plan.written(), indent=2) + "\n")
