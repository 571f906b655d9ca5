"""What differs between two recipes: a run may only be resumed by the recipe that started it."""

from collections.abc import Mapping
from typing import Any

from taskloom.recipe.sections import Recipe

__all__ = ["differences"]

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


def differences(stored: Recipe, present: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the fields that change the training, by dotted name, with the stored and the present value."""
    before, now = _flat(stored.resolved()), _flat(present.resolved())
    return {
        name: (before.get(name), now.get(name))
        for name in before | now
        if name not in _HARMLESS and not name.startswith(("affinity.", "sweep.")) and before.get(name) != now.get(name)
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections' fields under dotted names; the task list stays whole."""
    flat: dict[str, Any] = {}
    for section, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{section}.{name}": item for name, item in value.items()})
        else:
            flat[section] = value
    return flat
