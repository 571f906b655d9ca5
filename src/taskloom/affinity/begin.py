"""Beginning a store of gradients, or going on with one, which must then be of the same model, tasks and settings."""

from pathlib import Path

from taskloom.affinity.store import Plan, read_manifest, write_manifest
from taskloom.errors import RunError, listed

__all__ = ["begin_store"]


def begin_store(folder: Path, plan: Plan) -> None:
    """Begin a store in a folder, or make sure that the one that is there is of the same plan.

    Raises:
        RunError: it is of another one.
    """
    begun = read_manifest(folder)
    if begun is None:
        write_manifest(folder, plan, {})
    else:
        _refuse_another(folder, begun[0], plan)


def _refuse_another(folder: Path, stored: Plan, wanted: Plan) -> None:
    """Raise the `RunError` that says in what a store on disk differs from the one that is asked for."""
    advice = "Use another folder, or delete this one."
    for field, title in (("model", "base model"), ("parameters", "set of trainable parameters"), ("output", "output")):
        if getattr(stored, field) != getattr(wanted, field):
            raise RunError(f"{folder}: was collected from another {title}. {advice}")
    for name, value in wanted.projection.items():
        if stored.projection.get(name) != value:
            raise RunError(
                f"{folder}: was collected with another projection ({name}={stored.projection.get(name)}, now {value}). "
                f"{advice}"
            )
    if stored.tasks != wanted.tasks:
        before, now = ({task.name: task for task in plan.tasks} for plan in (stored, wanted))
        differing = [name for name in {**before, **now} if before.get(name) != now.get(name)] or ["their order"]
        raise RunError(f"{folder}: was collected from other tasks or examples ({listed(differing)}). {advice}")
    if stored.shard_size != wanted.shard_size:
        raise RunError(f"{folder}: has {stored.shard_size} examples a shard, now {wanted.shard_size}. {advice}")
