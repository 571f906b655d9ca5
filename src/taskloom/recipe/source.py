"""Where a recipe's values come from: lines of a YAML file and `dotted.name=value` overrides.

The values are read by OmegaConf (interpolations such as ``${oc.env:GLUE}``, `???` for "must be given"). A
second pass over the YAML nodes remembers the line of each key: a mistake is reported as ``file:line``.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from taskloom.errors import RecipeError

__all__ = ["Location", "RecipeSource", "read_source"]

#: Keys and list positions from the top of the recipe, all as text: ("tasks", "0", "name").
Location = tuple[str, ...]


@dataclass
class RecipeSource:
    """The merged values of a recipe and where each came from."""

    path: Path
    values: dict[str, Any]
    lines: dict[Location, int] = field(default_factory=dict)
    overrides: set[Location] = field(default_factory=set)

    def is_override(self, location: Location) -> bool:
        """Whether an override set the value at `location` or a section around it."""
        return any(location[: len(key)] == key for key in self.overrides)

    def where(self, location: Location) -> str:
        """Return ``"recipe.yaml:12: "`` for the nearest known place, or "" if an override had a part in it."""
        if any(location[: len(key)] == key[: len(location)] for key in self.overrides):
            return ""
        for end in range(len(location), 0, -1):
            if location[:end] in self.lines:
                return f"{self.path}:{self.lines[location[:end]]}: "
        return f"{self.path}: "


def read_source(path: Path, overrides: Sequence[str] = ()) -> RecipeSource:
    """Read the YAML file `path`, then set `overrides` (``"a.b=c"``, values in YAML) on top.

    Raises `RecipeError` for a file that cannot be read as a UTF-8 YAML mapping, an override without ``=``, a
    required value (`???`) that was not set, and an interpolation that cannot be resolved.
    """
    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise RecipeError(
                f"{path}: a recipe is a mapping of fields such as 'model:' and 'tasks:', found {_kind(root)}"
            )
        config = OmegaConf.create(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}{_yaml_problem(error)}") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"{path}: {_first_line(error)}") from error
    source = RecipeSource(path, {}, dict(_key_lines(root)))
    assert isinstance(config, DictConfig)
    for override in overrides:
        source.overrides.add(_apply_override(config, override))
    _refuse_missing(source, OmegaConf.to_container(config, resolve=False))
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        location = _split_key(str(getattr(error, "full_key", None) or ""))
        raise RecipeError(f"{source.where(location)}{'.'.join(location)}: {_first_line(error)}") from error
    assert isinstance(values, dict)
    # A section whose lines are all commented out reads as null: it keeps its defaults.
    source.values = {str(key): value for key, value in values.items() if value is not None}
    return source


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}): save the recipe as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error


def _key_lines(node: yaml.Node | None, prefix: Location = ()) -> Iterator[tuple[Location, int]]:
    """Yield the line (from 1) of each key and list item below `node`."""
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key.start_mark.line, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(index), item.start_mark.line, item) for index, item in enumerate(node.value)]
    else:
        return
    for name, line, child in children:
        yield (*prefix, name), line + 1
        yield from _key_lines(child, (*prefix, name))


def _apply_override(config: DictConfig, override: str) -> Location:
    name, equals, _ = override.partition("=")
    location = _split_key(name)
    if not equals or not location:
        raise RecipeError(f"'{override}': expected a field and its value, such as training.epochs=3")
    if len(location) > 2 and location[0] == "tasks":
        _open_preset(config, location[1])
    try:
        config.merge_with_dotlist([override])
    except (yaml.YAMLError, OmegaConfBaseException, IndexError, AssertionError) as error:
        problem = getattr(error, "problem", None) or _first_line(error)
        raise RecipeError(f"'{override}': cannot be set: {problem}") from error
    return location


def _open_preset(config: DictConfig, position: str) -> None:
    """Make a task that is given by its preset's name a mapping, for a field of it to be set."""
    tasks = config.get("tasks")
    if isinstance(tasks, ListConfig) and position.isdecimal() and int(position) < len(tasks):
        task = tasks[int(position)]
        if isinstance(task, str) and not task.endswith((".yaml", ".yml")):
            tasks[int(position)] = {"preset": task}


def _split_key(name: str) -> Location:
    return tuple(part for part in re.split(r"[.\[\]]", name) if part)


def _refuse_missing(source: RecipeSource, values: Any) -> None:
    missing = [
        f"{source.where(location)}{'.'.join(location)} is required: set it with "
        f"{'.'.join(location)}={'FOLDER' if location[-1] == 'dir' else 'VALUE'}"
        for location in _missing(values)
    ]
    if missing:
        raise RecipeError("\n".join(missing))


def _missing(values: Any, prefix: Location = ()) -> Iterator[Location]:
    """Yield the places that hold `???`, OmegaConf's mark of a value that must be given."""
    if values == "???":
        yield prefix
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from _missing(value, (*prefix, str(key)))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from _missing(value, (*prefix, str(index)))


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Return ``":12: what is wrong"`` for a YAML error that knows its line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        context = f" ({error.context})" if error.context else ""
        return f":{error.problem_mark.line + 1}: not valid YAML: {error.problem}{context}"
    return f": not valid YAML: {_first_line(error)}"


def _kind(node: yaml.Node | None) -> str:
    if node is None:
        return "an empty file"
    return "a list" if isinstance(node, yaml.SequenceNode) else f"'{node.value}'"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
