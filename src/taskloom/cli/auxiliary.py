"""`taskloom auxiliary`: train tasks beside auxiliary objectives, and learn which of these help."""

import shlex
from typing import Annotated, Any

import typer

from taskloom.cli.arguments import (
    DataOption,
    OutputOption,
    QuietOption,
    RecipeArgument,
    ResumeOption,
    SeedOption,
    SettingsArgument,
    overridden,
)
from taskloom.cli.output import JsonOption, print_json, print_table
from taskloom.cli.quiet import hush_libraries
from taskloom.errors import RecipeError
from taskloom.processes import is_main, launch_command
from taskloom.recipe import Recipe, load_recipe

__all__ = ["auxiliary"]


def auxiliary(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    resume: ResumeOption = False,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs with seeds from `seed` on, and one sheet of their results.")
    ] = 1,
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train tasks beside generated auxiliary objectives, and learn these objectives' weights."""
    overrides = overridden(settings, output, data_dir, seed)
    checked = load_recipe(recipe, overrides)
    if checked.auxiliary.space is None:
        raise RecipeError(
            f"{recipe}: auxiliary.space: names no search space. Set it, for example auxiliary.space=tapt "
            "(denoising of the task's own text) or auxiliary.space=vbasic1"
        )
    hush_libraries()
    try:
        _one(checked, resume, quiet, as_json) if seeds == 1 else _several(checked, seeds, resume, quiet, as_json)
    except KeyboardInterrupt:
        options = [*(["--seeds", str(seeds)] if seeds > 1 else []), "--resume"]
        if is_main():
            command = shlex.join([*launch_command(), "auxiliary", recipe, *overrides, *options])
            typer.echo(f"interrupted. Continue with: {command}", err=True)
        raise typer.Exit(130) from None


def _one(recipe: Recipe, resume: bool, quiet: bool, as_json: bool) -> None:
    from taskloom.fit import fit

    run = fit(recipe, resume=resume, quiet=quiet or as_json)
    if as_json:
        print_json({"run": str(run.path), **run.read_scores()})


def _several(recipe: Recipe, seeds: int, resume: bool, quiet: bool, as_json: bool) -> None:
    from taskloom.auxiliary.seeds import fit_seeds

    path, sheet = fit_seeds(recipe, seeds, resume=resume, quiet=quiet or as_json)
    if not is_main():
        return
    if as_json:
        print_json({"results": str(path), "rows": sheet.rows, "notes": sheet.notes})
        return
    for note in sheet.notes:
        typer.echo(note, err=True)
    print_table(sheet.columns, [[_cell(row.get(column)) for column in sheet.columns] for row in sheet.rows])
    if not quiet:
        typer.echo(f"\nResults: {path}", err=True)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
