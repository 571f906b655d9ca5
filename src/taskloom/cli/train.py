"""`taskloom train`: one run from a recipe."""

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
from taskloom.cli.output import JsonOption, print_json
from taskloom.cli.quiet import hush_libraries
from taskloom.processes import is_main, resume_command
from taskloom.recipe import load_recipe

__all__ = ["train"]


def train(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    resume: ResumeOption = False,
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one model on many tasks as a recipe says, and write a run folder."""
    checked = load_recipe(recipe, overridden(settings, output, data_dir, seed))

    hush_libraries()
    from taskloom.fit import fit

    try:
        run = fit(checked, resume=resume, quiet=quiet or as_json)
    except KeyboardInterrupt:
        if is_main() and (checked.output / "recipe.yaml").is_file():
            typer.echo(f"interrupted. Continue with: {resume_command(checked.output)}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json({"run": str(run.path), **run.read_scores()})
