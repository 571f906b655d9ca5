"""`taskloom train`: one run from a recipe."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from taskloom.cli.fields import print_fields
from taskloom.cli.output import JsonOption, print_json
from taskloom.cli.quiet import hush_libraries
from taskloom.recipe import load_recipe

__all__ = ["DataOption", "OutputOption", "TrainCommand", "overridden", "train"]

OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="The run folder; the same as output=DIR.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="The data; the same as data.dir=DIR.")
]


class TrainCommand(TyperCommand):
    """`train`, whose help ends with the table of recipe fields."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the usual help, then every field."""
        super().format_help(ctx, formatter)
        print_fields()


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe's YAML file or packaged name, or a run folder to resume.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE", help="Recipe fields, e.g. training.epochs=1.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run from its checkpoint.")] = False,
    output: OutputOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one model on many tasks as a recipe says, and write a run folder."""
    checked = load_recipe(recipe, overridden(settings, output, data_dir))

    hush_libraries()
    from taskloom.fit import fit

    try:
        run = fit(checked, resume=resume, quiet=as_json)
    except KeyboardInterrupt:
        if (checked.output / "recipe.yaml").is_file():
            command = shlex.join(["taskloom", "train", str(checked.output), "--resume"])
            typer.echo(f"interrupted. Continue with: {command}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json({"run": str(run.path), **run.read_scores()})


def overridden(settings: list[str] | None, output: Path | None, data_dir: Path | None) -> list[str]:
    """Return the settings of the command line, its path options included, as a recipe's overrides."""
    paths = (("output", output), ("data.dir", data_dir))
    return [*(settings or []), *(_setting(name, value) for name, value in paths if value)]


def _setting(name: str, path: Path) -> str:
    # Quoted, because an override's value is YAML and a path may hold any character.
    return f"{name}={json.dumps(str(path))}"
