"""Ready recipes: the folder `recipes/` of a checkout, or its copy inside an installed package."""

from pathlib import Path

import taskloom
from taskloom.errors import RecipeError, did_you_mean

__all__ = ["find_recipe", "packaged_recipes", "recipe_name", "recipes_folder"]


def recipes_folder() -> Path:
    """Return the folder of ready recipes (one subfolder a method)."""
    package = Path(taskloom.__file__).resolve().parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """Return the ready recipes by name (``"ca-mtl/base"``), sorted."""
    folder = recipes_folder()
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def recipe_name(path: Path) -> str:
    """Return the default name of a run: the packaged recipe's name, or the file's without its ending."""
    names = {file: name for name, file in packaged_recipes().items()}
    return names.get(path.resolve(), path.stem)


def find_recipe(path_or_name: str | Path) -> Path:
    """Return the file that `path_or_name` means: a file, the recipe of a run or pipeline, or a packaged one.

    Raises `RecipeError` that names the nearest file or packaged recipe when there is none.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    for name in ("recipe.yaml", "pipeline.yaml"):
        if (path / name).is_file():
            return path / name
    packaged = packaged_recipes()
    name = str(path_or_name)
    if name in packaged:
        return packaged[name]
    if path.suffix in (".yaml", ".yml"):
        folder = path.parent
        neighbours = sorted(file.name for file in folder.glob("*.y*ml")) if folder.is_dir() else []
        problem = "no such file" if folder.is_dir() else f"there is no folder '{folder}'"
        raise RecipeError(f"recipe '{name}': {problem}.{did_you_mean(path.name, neighbours)}")
    if path.is_dir():
        raise RecipeError(f"recipe '{name}': a folder without recipe.yaml, so no run. Name a recipe's file, or a run")
    neighbours = [str(folder) for folder in path.parent.iterdir() if folder.is_dir()] if path.parent.is_dir() else []
    nearest = did_you_mean(name, [*packaged, *neighbours])
    known = nearest if "Did you mean" in nearest else " `taskloom recipes` lists the packaged ones"
    raise RecipeError(f"recipe '{name}': neither a file, a run folder nor a packaged recipe.{known}")
