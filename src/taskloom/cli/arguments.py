"""The arguments and options that several verbs share, so that they are called and explained alike."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from taskloom.cli.completion import complete_recipe, complete_run, complete_setting
from taskloom.cli.fields import print_fields

__all__ = [
    "DataOption",
    "FieldsCommand",
    "OutputOption",
    "QuietOption",
    "RecipeArgument",
    "ResumeOption",
    "RunArgument",
    "SeedOption",
    "SettingsArgument",
    "overridden",
]

RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's YAML file or packaged name, or a run folder to go on with.",
        autocompletion=complete_recipe,
    ),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=complete_run)]
SettingsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FIELD=VALUE",
        help="Recipe fields, e.g. training.epochs=1 (`taskloom recipes --fields` lists them).",
        autocompletion=complete_setting,
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run from its checkpoint.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="DIR", help="The run folder; the same as output=DIR.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="The data; the same as data.dir=DIR.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="The seed; the same as seed=N.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only.")]


class FieldsCommand(TyperCommand):
    """A verb that takes a recipe: its help ends with the table of recipe fields."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the usual help, then every field."""
        super().format_help(ctx, formatter)
        print_fields()


def overridden(
    settings: list[str] | None, output: Path | None, data_dir: Path | None, seed: int | None = None
) -> list[str]:
    """Return the settings of the command line, those given as options included, as a recipe's overrides."""
    paths = (("output", output), ("data.dir", data_dir))
    further = [_setting(name, value) for name, value in paths if value] + ([f"seed={seed}"] if seed is not None else [])
    return [*(settings or []), *further]


def _setting(name: str, path: Path) -> str:
    # Quoted, because an override's value is YAML and a path may hold any character.
    return f"{name}={json.dumps(str(path))}"
