"""The same training under several seeds: a run folder each, and one sheet of results over them."""

from functools import partial
from pathlib import Path

from rich.console import Console

from taskloom.auxiliary.results import ResultsSheet, results_sheet
from taskloom.errors import RunError
from taskloom.fit import fit
from taskloom.processes import is_main, on_main
from taskloom.recipe import Recipe
from taskloom.runs import RunFolder

__all__ = ["SHEET_FILE", "fit_seeds", "seed_recipes"]

SHEET_FILE = "results.csv"


def seed_recipes(recipe: Recipe, seeds: int) -> list[Recipe]:
    """Return the recipe under as many seeds, from its own on, each with a folder ``seed-N`` in the recipe's output."""
    return [
        recipe.model_copy(
            update={"seed": seed, "name": f"{recipe.name}/seed-{seed}", "output": recipe.output / f"seed-{seed}"}
        )
        for seed in range(recipe.seed, recipe.seed + seeds)
    ]


def fit_seeds(recipe: Recipe, seeds: int, resume: bool = False, quiet: bool = False) -> tuple[Path, ResultsSheet]:
    """Train under several seeds, one after the other, and write `results.csv` into the recipe's output folder.

    Args:
        recipe: all settings.
        seeds: how many.
        resume: leave finished seeds as they are, and go on with the others.
        quiet: print nothing.

    Returns:
        The file, and what is in it.

    Raises:
        UserError: a mistake in the recipe, the data or the folders.
        KeyboardInterrupt: interrupted; what is finished stays, and a checkpoint has been written.
    """
    console = Console(quiet=quiet or not is_main(), stderr=True)
    if (recipe.output / "recipe.yaml").is_file():
        raise RunError(f"{recipe.output}: holds a single run; choose another folder with output=FOLDER")
    recipes = seed_recipes(recipe, seeds)
    for each in recipes:
        on_main(partial(RunFolder.refuse_unusable, each.output, resume))
    for number, each in enumerate(recipes, start=1):
        console.print(f"Seed {each.seed} ({number} of {seeds})", style="bold")
        fit(each, resume=resume and (each.output / "recipe.yaml").is_file(), quiet=quiet)
    path = recipe.output / SHEET_FILE

    def gathered() -> ResultsSheet:
        sheet = results_sheet([each.output for each in recipes])
        sheet.write(path)
        return sheet

    return path, on_main(gathered)
