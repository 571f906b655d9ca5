"""The published search spaces by name, and those of any labelled task: ``<task>.supervised``, ``.all``, ``.ext``."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from taskloom.auxiliary.stages import same_task
from taskloom.errors import RecipeError, did_you_mean

__all__ = ["named_space", "published_spaces"]

#: What stands in for the name of a task in the file of spaces.
_PLACEHOLDER = "TASK"


def published_spaces() -> tuple[str, ...]:
    """Return the names of the published search spaces."""
    return tuple(_file()["spaces"])


def named_space(name: str, labelled: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the stages of the search space `name`, as lists of words.

    Args:
        name: of a published space, or ``<task>.supervised``, ``<task>.all`` or ``<task>.ext``; in any case.
        labelled: the labelled tasks that there are; None: those that the published space needs.

    Raises:
        RecipeError: there is no such space, or a task that it needs is not among `labelled`.
    """
    spaces = _file()["spaces"]
    published = next((known for known in spaces if known.lower() == name.lower()), None)
    prefix, _, form = name.rpartition(".")
    task = same_task(prefix, labelled or ())
    # `semeval.all` is the published space, unless the user has a task `semeval`: then it is that task's.
    if published is not None and (task is None or same_task(task, _labelled(spaces[published]))):
        return _with_tasks(published, spaces[published], labelled)
    forms = _file()["of_a_task"]
    if task is not None and form in forms:
        return _replaced(forms[form], {_PLACEHOLDER: task})
    if prefix and form in forms:
        raise RecipeError(
            f"search space '{name}': there is no labelled task '{prefix}'."
            f"{did_you_mean(prefix, labelled or ()) or ' There are no labelled tasks.'}"
        )
    known = [*spaces, *(f"{task}.{form}" for task in labelled or () for form in forms)]
    raise RecipeError(f"auxiliary.space: there is no search space '{name}'.{did_you_mean(name, known)}")


def _with_tasks(name: str, space: Mapping[str, Any], labelled: Sequence[str] | None) -> dict[str, Any]:
    """Write a published space with the user's names of its labelled sets."""
    names: dict[str, str] = {}
    for needed in _labelled(space):
        found = needed if labelled is None else same_task(needed, labelled)
        if found is None:
            raise RecipeError(
                f"search space '{name}' needs the labelled task '{needed}', and the tasks are "
                f"{', '.join(labelled or ()) or 'none'}: add it under this name, or take another space"
            )
        names[needed] = found
    return _replaced(space, names)


def _labelled(space: Mapping[str, Any]) -> list[str]:
    return space.get("labelled", [])


def _replaced(space: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: values if key == "illegal" else [names.get(value, value) for value in values]
        for key, values in space.items()
    }


@cache
def _file() -> dict[str, Any]:
    return yaml.safe_load(files("taskloom.auxiliary").joinpath("spaces.yaml").read_text("utf-8"))
