"""`taskloom run`: a recipe's stages one after the other."""

import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from taskloom.cli.arguments import (
    DataOption,
    OutputOption,
    QuietOption,
    RecipeArgument,
    SeedOption,
    SettingsArgument,
    overridden,
)
from taskloom.cli.output import JsonOption, print_json, print_table
from taskloom.cli.quiet import hush_libraries
from taskloom.processes import is_main, launch_command
from taskloom.recipe import load_recipe

__all__ = ["run"]

_WORDS = {
    "finished": "up to date",
    "unfinished": "goes on",
    "changed": "runs again",
    "new": "runs",
    "stored": "taken back from set-aside",
    "always": "made each time",
    "waits": "after the stages that it needs",
}


def run(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="STAGE", help="Run this stage alone; may be given several times."),
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option("--again", metavar="STAGE", help="Run this stage anew although it is up to date."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the stages, what would run and why; change nothing.")
    ] = False,
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe's stages, those that are not up to date, and write a report.

    Without `pipeline.stages` these are what the recipe calls for: affinity, groups and a model for each group of
    several tasks; auxiliary objectives and a second training with their weights; tuning, meta-training and
    adaptation to a stream. The same command goes on after an interruption.
    """
    overrides = overridden(settings, output, data_dir, seed)
    checked = load_recipe(recipe, overrides)
    hush_libraries()
    from taskloom.pipeline import driver

    if dry_run:
        steps = driver.dry_run(checked)
        if not is_main():
            return
        if as_json:
            print_json({"pipeline": str(checked.output), "stages": [asdict(step) for step in steps]})
            return
        rows = [(step.name, _WORDS[step.state], "; ".join(step.changes)) for step in steps]
        print_table(("stage", "what would happen", "changed since its last run"), rows)
        return
    try:
        stages = driver.run_pipeline(checked, only or (), again or (), quiet=quiet or as_json)
    except KeyboardInterrupt:
        if is_main():
            options = [f"--only={name}" for name in only or ()]
            command = shlex.join([*launch_command(), "run", recipe, *overrides, *options])
            typer.echo(f"interrupted. Continue with: {command}", err=True)
        raise typer.Exit(130) from None
    if not is_main():
        return
    if as_json:
        print_json({"pipeline": str(checked.output), "stages": [asdict(stage) for stage in stages]})
        return
    made = [stage for stage in stages if stage.status == "done" and (not only or stage.name in only)]
    reports = [checked.output / stage.result for stage in made if stage.kind == "report"]
    for place in reports or [checked.output]:
        typer.echo(f"{'Report' if reports else 'Pipeline'}: {place}")
