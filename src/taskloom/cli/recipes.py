"""`taskloom recipes`: the recipes that come with taskloom, and what a recipe can say."""

from dataclasses import asdict
from typing import Annotated

import typer
import yaml

from taskloom.cli.completion import complete_packaged
from taskloom.cli.fields import print_fields
from taskloom.cli.output import JsonOption, print_json, print_table
from taskloom.errors import RecipeError, did_you_mean
from taskloom.recipe import packaged_recipes, recipe_fields

__all__ = ["recipes"]


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Print this recipe, e.g. to copy and change it; of a folder: list them.",
            autocompletion=complete_packaged,
        ),
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Print every field that a recipe can set.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the packaged recipes, one line each, or print one."""
    packaged = packaged_recipes()
    listed = {key: path for key, path in packaged.items() if name is None or key.startswith(f"{name.rstrip('/')}/")}
    if fields:
        if as_json:
            print_json({"fields": [asdict(field) for field in recipe_fields()]})
        else:
            print_fields()
    elif name in packaged:
        text = packaged[name].read_text(encoding="utf-8")
        print_json(yaml.safe_load(text)) if as_json else typer.echo(text, nl=False)
    elif listed:
        described = {key: yaml.safe_load(path.read_text(encoding="utf-8")) for key, path in listed.items()}
        rows = [(key, recipe["description"]) for key, recipe in described.items()]
        if as_json:
            print_json({"recipes": [{"name": key, "description": description} for key, description in rows]})
        else:
            print_table(("recipe", "description"), rows)
    else:
        raise RecipeError(f"there is no packaged recipe '{name}'.{did_you_mean(str(name), packaged)}")
