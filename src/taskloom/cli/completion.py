"""What the shell offers at TAB: packaged recipes, recipe and run folders, recipe fields with their values.

Nothing here imports torch: a completion that takes seconds is none.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from taskloom.recipe import RecipeField, packaged_recipes, recipe_fields

__all__ = [
    "complete_packaged",
    "complete_recipe",
    "complete_run",
    "complete_scored",
    "complete_setting",
    "complete_shown",
]

#: Words of `type_name` that stand for a kind of value, and not for the value itself.
_KINDS = frozenset({"integer", "number", "text", "path", "mapping", "any"})


def complete_packaged(incomplete: str) -> list[str]:
    """Offer the packaged recipes and their folders."""
    return [name for name in packaged_recipes() if name.startswith(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Offer packaged recipes, recipe files and run folders."""
    return [*_paths(incomplete, _is_recipe), *complete_packaged(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Offer run folders."""
    return _paths(incomplete, _is_run)


def complete_shown(incomplete: str) -> list[str]:
    """Offer what `taskloom report` takes: run folders, sweeps and pipelines."""
    return _paths(incomplete, _is_shown)


def complete_scored(incomplete: str) -> list[str]:
    """Offer what `taskloom evaluate` takes first: a run folder, or the form of two files."""
    return [*complete_run(incomplete), *(form for form in ("mrqa", "squad") if form.startswith(incomplete))]


def complete_setting(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offer recipe fields as ``name=``, and beside it with the values that it can have.

    With a value at least there is more than one offer, so that no shell puts a space behind the ``=``.
    """
    fields = {field.name: field for field in recipe_fields()}
    # bash breaks words at "=": the name and the sign are words before the one that is completed.
    before = [word for word in ctx.params.get("settings") or () if word != "="]
    if before and before[-1] in fields:
        return [(value, "") for value in _values(fields[before[-1]]) if value.startswith(incomplete)]
    offers = [
        (offer, field.description)
        for field in fields.values()
        for offer in _offers(field, incomplete.partition("=")[1])
    ]
    return [(offer, description) for offer, description in offers if offer.startswith(incomplete)]


def _offers(field: RecipeField, has_value: str) -> Iterator[str]:
    if not has_value:
        yield f"{field.name}="
    yield from (f"{field.name}={value}" for value in _values(field))


def _values(field: RecipeField) -> list[str]:
    """Return the alternatives of a field's type and its default."""
    alternatives = [word for word in field.type.split(" | ") if word not in _KINDS and " " not in word]
    default = [] if " " in field.default or not field.default else [field.default]
    return list(dict.fromkeys([*default, *alternatives]))


def _is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file()


def _is_shown(path: Path) -> bool:
    return any((path / name).is_file() for name in ("recipe.yaml", "sweep.json", "pipeline.json"))


def _is_recipe(path: Path) -> bool:
    return _is_run(path) or (path.suffix in (".yaml", ".yml") and path.is_file())


def _paths(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Return the wanted paths that begin like that, and folders; instead of a lone folder what is in it."""
    begun = incomplete.rpartition("/")[2]
    typed = incomplete.removesuffix(begun)  # offered as it was typed: the shell compares
    found: list[str] = []
    try:
        entries = sorted(Path(typed or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # no such folder, or no such user's home
        return found
    for entry in entries:
        if not entry.name.startswith(begun) or (entry.name.startswith(".") and not begun):
            continue
        if wanted(entry):
            found.append(typed + entry.name)
        elif entry.is_dir():
            found.append(f"{typed}{entry.name}/")
    if len(found) == 1 and found[0].endswith("/"):
        return _paths(found[0], wanted) or found
    return found
