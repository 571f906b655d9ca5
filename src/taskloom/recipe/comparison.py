"""What differs between two recipes: a run may only be resumed by the recipe that started it."""

from collections.abc import Mapping
from typing import Any

from taskloom.recipe.sections import Recipe

__all__ = ["differences", "flat_settings"]

#: Fields that do not change what is trained, so that a resumed run may have others than the stored recipe.
_HARMLESS = frozenset(
    {
        "output",
        "description",
        "data.cache",
        "data.workers",
        "training.eval_batch_size",
        "training.keep_checkpoints",
        "training.report_to",
    }
)

#: Sections that a training does not follow.
_OTHER_VERBS = ("affinity.", "sweep.", "pipeline.")


def differences(stored: Recipe, present: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the fields that change the training, by dotted name, with the stored and the present value."""
    before, now = flat_settings(stored), flat_settings(present)
    return {
        name: (before.get(name), now.get(name))
        for name in before | now
        if not name.startswith(_OTHER_VERBS) and before.get(name) != now.get(name)
    }


def flat_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that have a say in a result under dotted names; the task list stays whole."""
    flat: dict[str, Any] = {}
    for section, value in recipe.resolved().items():
        if isinstance(value, Mapping):
            flat.update({f"{section}.{name}": item for name, item in value.items()})
        else:
            flat[section] = value
    return {name: value for name, value in flat.items() if name not in _HARMLESS}
