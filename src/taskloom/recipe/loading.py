"""From a file or a name to a checked `Recipe`: read, override, make paths absolute, validate."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import ValidationError

from taskloom.recipe.messages import recipe_error
from taskloom.recipe.packaged import find_recipe, recipe_name
from taskloom.recipe.paths import make_paths_absolute
from taskloom.recipe.sections import Recipe
from taskloom.recipe.source import read_source

__all__ = ["load_recipe", "recipe_yaml"]


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe and check every field of it.

    Args:
        path_or_name: a YAML file, a run folder (its stored recipe), or the name of a packaged recipe such as
            ``"ca-mtl/base"``.
        overrides: ``"dotted.name=value"`` settings that win over the file; values are YAML.

    Paths that are read (data, task files, model folder) are relative to the recipe's file, or to the working
    folder when an override sets them; paths that are written (output, cache) to the working folder.

    Raises:
        RecipeError: naming file and line, field, what was found and what was expected.

    """
    path = find_recipe(path_or_name)
    source = read_source(path, overrides)
    source.values.setdefault("name", recipe_name(path))
    if Path(path_or_name).is_dir() and not any(override.startswith("output=") for override in overrides):
        # A run folder may have been moved since its recipe was written.
        source.values["output"] = str(path_or_name)
    try:
        # Twice: the first pass only checks, so that paths are made of values known to have the right types.
        Recipe.model_validate(source.values)
        make_paths_absolute(source)
        return Recipe.model_validate(source.values)
    except ValidationError as error:
        raise recipe_error(error, source) from error


def recipe_yaml(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that `load_recipe` reads back to an equal recipe."""
    return OmegaConf.to_yaml(OmegaConf.create(_escape(recipe.resolved())))


def _escape(value: Any) -> Any:
    """Protect text that OmegaConf would take for an interpolation."""
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escape(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
