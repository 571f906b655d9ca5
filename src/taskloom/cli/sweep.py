"""`taskloom sweep`: many trainings of one recipe, and which settings are best."""

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from taskloom.cli.arguments import DataOption, OutputOption, QuietOption, RecipeArgument, SeedOption, overridden
from taskloom.cli.completion import complete_setting
from taskloom.cli.output import JsonOption, print_json, print_table
from taskloom.errors import UserError
from taskloom.processes import world_size
from taskloom.recipe import load_recipe

if TYPE_CHECKING:
    from taskloom.sweep.plan import SweepPlan
    from taskloom.sweep.space import Settings

__all__ = ["sweep"]


class Search(StrEnum):
    """How settings are chosen."""

    grid = "grid"
    random = "random"
    tpe = "tpe"


class Backend(StrEnum):
    """Where trainings run."""

    local = "local"
    ray = "ray"


class Stop(StrEnum):
    """Which trainings are stopped early."""

    none = "none"
    asha = "asha"


def sweep(
    recipe: RecipeArgument,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIELD=VALUES",
            help="What is varied: training.learning_rate=1e-5,3e-5, training.epochs=range(1,10,3), "
            "training.warmup=uniform(0,0.2), loguniform(..), randint(..); a single value is every trial's.",
            autocompletion=complete_setting,
        ),
    ] = None,
    search: Annotated[Search, typer.Option("--search", help="All combinations, at random, or by TPE.")] = Search.grid,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Settings tried by random and tpe; a grid has its own number.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="Trainings of each setting; else the recipe's sweep.seeds.")
    ] = None,
    stop: Annotated[
        Stop, typer.Option("--stop", help="asha: stop early what scores among the worse (successive halving).")
    ] = Stop.none,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="What is compared: a dotted path into scores.json, e.g. after.stream.f1; else the recipe's "
            "sweep.metric.",
        ),
    ] = None,
    minimize: Annotated[
        bool | None,
        typer.Option("--minimize/--maximize", help="Less of the metric is better; else the recipe's sweep.minimize."),
    ] = None,
    verb: Annotated[
        str | None,
        typer.Option("--verb", help='The command that trains, e.g. "online adapt"; else the recipe\'s sweep.verb.'),
    ] = None,
    backend: Annotated[Backend, typer.Option("--backend", help="This machine, or a Ray cluster.")] = Backend.local,
    address: Annotated[
        str | None,
        typer.Option("--address", help="ray: the cluster's address (host:port, or auto); else started here."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="local: trainings at the same time.")] = 1,
    cpus: Annotated[float, typer.Option("--cpus", min=0, help="ray: processor cores of a training.")] = 1,
    gpus: Annotated[float, typer.Option("--gpus", min=0, help="ray: GPUs of a training.")] = 0,
    retries: Annotated[int, typer.Option("--retries", min=0, help="How often a failed training is tried again.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep in the output folder.")] = False,
    only_collect: Annotated[
        bool, typer.Option("--collect", help="Gather the results of what is finished, and run nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the settings that are tried, and run nothing.")] = (
        False
    ),
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one recipe with many settings and seeds, and compare them."""
    if world_size() > 1:
        raise UserError(
            f"sweep starts its trainings itself, each in one process; this is one of {world_size()}. Start it without "
            "a launcher: --jobs 4 trains four at a time, --backend ray on several machines"
        )
    from taskloom.sweep.driver import collect, divide, planned, refuse_verb, table
    from taskloom.sweep.driver import sweep as run_sweep
    from taskloom.sweep.plan import SweepPlan

    fixed, space = divide(recipe, overridden(settings, output, data_dir, seed))
    checked = load_recipe(recipe, fixed)
    verb, metric = verb or checked.sweep.verb, metric or checked.sweep.metric
    minimize = checked.sweep.minimize if minimize is None else minimize
    refuse_verb(verb)
    if only_collect:
        folder, rows = checked.output, collect(checked.output, metric, minimize)
    else:
        plan = SweepPlan(
            space,
            search=search.value,
            trials=trials,
            seeds=seeds or checked.sweep.seeds,
            stop=stop.value,
            verb=verb,
            metric=metric,
            minimize=minimize,
            seed=checked.seed,
        )
        if dry_run:
            _list(planned(recipe, fixed, plan), plan, as_json)
            return
        try:
            folder, rows = run_sweep(
                recipe,
                fixed,
                plan,
                backend=backend.value,
                jobs=jobs,
                retries=retries,
                address=address,
                resources={"cpu": cpus, "gpu": gpus},
                resume=resume,
                quiet=quiet or as_json,
            )
        except KeyboardInterrupt:
            given = shlex.join(["taskloom", "sweep", recipe, *(settings or [])])
            typer.echo(f"interrupted. Continue with the same command and --resume: {given} ... --resume", err=True)
            raise typer.Exit(130) from None
    if as_json:
        found = [
            {"settings": r.settings, "status": r.status, "mean": r.mean, "std": r.std, "values": r.values} for r in rows
        ]
        print_json({"sweep": str(folder), "metric": metric, "settings": found})
        return
    headers, lines = table(rows)
    print_table([metric if header == "value" else header for header in headers], lines)
    if not quiet:
        typer.echo(f"\nResults: {folder / 'results.csv'}\nPicture: {folder / 'sweep.png'}", err=True)


def _list(settings: "list[Settings]", plan: "SweepPlan", as_json: bool) -> None:
    """Print what a sweep would try."""
    if as_json:
        print_json({"verb": plan.verb, "metric": plan.metric, "seeds": plan.seeds, "settings": settings})
        return
    fields = list(plan.space)
    lines = [[str(number), *(str(each[field]) for field in fields)] for number, each in enumerate(settings, start=1)]
    print_table(["", *fields], lines)
    seeds = f"{plan.seeds} seeds" if plan.seeds > 1 else "1 seed"
    typer.echo(f"\n{len(settings)} settings x {seeds} of `taskloom {plan.verb}`, compared by {plan.metric}", err=True)
