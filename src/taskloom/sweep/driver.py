"""A whole sweep: from a recipe and what is varied to results, a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from taskloom.errors import RecipeError, RunError
from taskloom.locks import FolderLock
from taskloom.progress import counted
from taskloom.recipe import load_recipe
from taskloom.report.parallel import parallel_coordinates
from taskloom.sweep.plan import SweepPlan, checked_recipes, open_folder
from taskloom.sweep.results import Row, gather, write_results
from taskloom.sweep.space import RECIPE, Choice, Dimension, Settings, grid, parse_dimension, slug
from taskloom.sweep.trial import Outcome

__all__ = ["collect", "divide", "planned", "refuse_verb", "sweep", "table"]

Backend = Literal["local", "ray"]


def divide(recipe: str | Path, given: Sequence[str]) -> tuple[list[str], dict[str, Dimension]]:
    """Divide ``field=values`` into single values, which every trial has, and what is varied.

    The recipe's own `sweep.grid` and `sweep.recipes` are varied too, but for fields that are given here.

    Raises:
        RecipeError: a mistake in the recipe or in what is given.
    """
    fixed: list[str] = []
    varied: dict[str, Dimension] = {}
    for text in given:
        field, values = parse_dimension(text)
        if isinstance(values, Choice) and len(values.values) == 1:
            # As it was given, for the recipe to read; but a recipe knows no range.
            fixed.append(f"{field}={values.values[0]}" if "=range(" in text else text)
        else:
            varied[field] = values
    own = load_recipe(recipe, fixed).sweep
    set_here = {text.partition("=")[0].strip() for text in given}
    listed = ({RECIPE: own.recipes} if own.recipes else {}) | own.grid
    space: dict[str, Dimension] = {field: Choice(tuple(values)) for field, values in listed.items()}
    return fixed, {field: values for field, values in space.items() if field not in set_here} | varied


def sweep(
    recipe: str | Path,
    overrides: Sequence[str],
    plan: SweepPlan,
    *,
    backend: Backend = "local",
    jobs: int = 1,
    retries: int = 1,
    address: str | None = None,
    resources: dict[str, float] | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> tuple[Path, list[Row]]:
    """Run a sweep, or go on with it, and gather its results.

    Args:
        recipe: a recipe's file or packaged name.
        overrides: fields that every trial has.
        plan: what is tried.
        backend: ``local``, or ``ray``, a cluster's nodes.
        jobs: trainings at the same time, on this machine.
        retries: how often a training that failed is taken up again.
        address: of a Ray cluster; None starts Ray on this machine.
        resources: of a training under Ray, such as ``{"cpu": 2, "gpu": 1}``.
        resume: go on with the sweep in the folder; finished trainings are only read.
        quiet: print nothing.

    Returns:
        The sweep's folder, and a row a setting, the best first.

    Raises:
        UserError: a mistake in the recipe, the plan or the folder, or a backend that is not there.
        KeyboardInterrupt: interrupted; trainings have written checkpoints.
    """
    console = Console(quiet=quiet, stderr=True)
    base = load_recipe(recipe, overrides)
    others = checked_recipes(plan, recipe, list(overrides))
    folder = base.output
    folder.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(folder)
    try:
        open_folder(folder, base, plan, resume, others)
        title = f"{plan.size} settings x {plan.seeds} seeds" if plan.seeds > 1 else f"{plan.size} settings"
        with counted(console, title, plan.size * plan.seeds, "trials") as advance:

            def note(settings: Settings, outcome: Outcome) -> None:
                advance(1)
                if outcome.status == "failed":
                    console.print(f"{slug(settings)}: failed: {outcome.reason}", style="yellow", markup=False)

            if backend == "ray":
                from taskloom.sweep.ray_tune import run_ray

                run_ray(plan, folder, base.seed, address=address, resources=resources, retries=retries, on_done=note)
            else:
                from taskloom.sweep.local import run_local

                run_local(plan, folder, base.seed, jobs=jobs, retries=retries, on_done=note)
        return folder, collect(folder, plan.metric, plan.minimize)
    finally:
        lock.release()


def planned(recipe: str | Path, overrides: Sequence[str], plan: SweepPlan) -> list[Settings]:
    """Return the settings that a sweep would try, and run nothing; of a grid and of random ones all.

    Raises:
        RecipeError: a mistake in the recipe, or what TPE tries is asked for, which follows from its results.
    """
    checked_recipes(plan, recipe, list(overrides))
    if plan.search == "grid":
        return grid(plan.space)
    if plan.search == "tpe":
        raise RecipeError("--dry-run: what TPE tries depends on the results; use --search random to see draws")
    from taskloom.sweep.local import drawn

    return drawn(plan)


def collect(folder: Path, metric: str = "mean", minimize: bool = False) -> list[Row]:
    """Gather the results of a sweep's trials that came to an end, without running any.

    Raises:
        RunError: there are none.
    """
    rows = gather(folder, minimize)
    if not rows:
        raise RunError(f"{folder}: no trial has come to an end yet")
    write_results(rows, folder)
    parallel_coordinates(
        [(row.settings, row.mean) for row in rows if row.mean is not None], metric, folder / "sweep.png", minimize
    )
    return rows


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the headers and rows of a table of results."""
    fields = list(dict.fromkeys(field for row in rows for field in row.settings))
    several = any(len(row.values) > 1 for row in rows)
    headers = [*fields, "value", *(["spread"] if several else []), "seeds", "status"]
    return headers, [
        [
            *(_text(row.settings.get(field)) for field in fields),
            "" if row.mean is None else f"{row.mean:.4f}",
            *(["" if row.std is None else f"{row.std:.4f}"] if several else []),
            str(len(row.values)),
            row.status,
        ]
        for row in rows
    ]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def refuse_verb(verb: str) -> None:
    """Refuse a command that trains nothing.

    Raises:
        RecipeError: the message names those that do.
    """
    known = ("train", "auxiliary", "affinity", "online tune-qa", "online meta-train", "online adapt")
    if verb not in known:
        raise RecipeError(f"--verb {verb}: expected one of {', '.join(known)}")
