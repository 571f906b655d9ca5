"""From what a user may write for a task to a `Task`: preset ids, YAML files, mappings.

Presets are declared in ``families/*.yaml``, one file a benchmark, and in folders beside them, one a kind of task:
``families/text2text/nli.yaml`` declares ``text2text/snli``. Fields of all tasks of a file stand under ``all``. What
differs between the benchmark's copy on the hub and its own folder layout stands under the keys ``hub`` and ``folder``,
for the family and for each task.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from taskloom.errors import DataError, did_you_mean
from taskloom.tasks.files import require_file
from taskloom.tasks.instructions import (
    is_suite,
    list_suites,
    suite_of_preset,
    template_source,
    templated_tasks,
)
from taskloom.tasks.natural_instructions import natural_instructions
from taskloom.tasks.task import Task, task_from_mapping

__all__ = ["TaskSpec", "list_presets", "resolve_tasks"]

#: A preset id ("glue/rte"), the path of a YAML file, ``{"preset": id, field: value, ...}``, all fields, or a `Task`;
#: or a suite of instructions (see `taskloom.tasks.instructions`).
TaskSpec = str | Mapping[str, Any] | Task

Layout = Literal["hub", "folder"]
LAYOUTS: tuple[Layout, ...] = ("hub", "folder")


def list_presets() -> list[tuple[str, str]]:
    """Return the id and the one-line description of every preset task."""
    return [(preset, fields["description"]) for preset, fields in _presets().items()]


def resolve_tasks(
    specs: Iterable[TaskSpec], base_dir: Path, has_data_dir: bool, data_dir: Path | None = None
) -> list[tuple[Task, Path]]:
    """Return each task that `specs` name, with the folder that its relative paths start from.

    Args:
        specs: What the user wrote.
        base_dir: Folder that relative paths in `specs` start from; the tasks of a YAML file start from its folder.
        has_data_dir: Whether presets are to be read from a data folder in the benchmark's layout, not the hub.
        data_dir: That folder, where the files of instruction suites are looked up.

    Raises:
        DataError: A preset or file does not exist, or a task is not declared rightly.
    """
    if isinstance(specs, (str, Mapping)):
        raise DataError(f"tasks: expected a list, found {specs!r}; put it in brackets")
    resolved: list[tuple[Task, Path]] = []
    for number, spec in enumerate(specs, start=1):
        if isinstance(spec, Task):
            resolved.append((spec, base_dir))
        elif isinstance(spec, str) and spec.endswith((".yaml", ".yml")):
            resolved.extend(_resolve_file(base_dir / spec, has_data_dir, data_dir))
        elif isinstance(spec, (str, Mapping)) and (suite := _as_suite(spec)) is not None:
            resolved.extend(_resolve_suite(suite, base_dir, has_data_dir, data_dir, f"task {number}"))
        elif isinstance(spec, str):
            resolved.append((_resolve_preset({"preset": spec}, has_data_dir, f"task {number}"), base_dir))
        elif isinstance(spec, Mapping) and "preset" in spec:
            resolved.append((_resolve_preset(spec, has_data_dir, f"task {number}"), base_dir))
        elif isinstance(spec, Mapping):
            resolved.append((task_from_mapping(spec, f"task {number}"), base_dir))
        else:
            raise DataError(
                f"task {number}: found {spec!r}, expected a preset such as glue/rte, a .yaml file or a task's fields"
            )
    return resolved


def _as_suite(spec: str | Mapping[str, Any]) -> Mapping[str, Any] | None:
    return spec if isinstance(spec, Mapping) and is_suite(spec) else suite_of_preset(spec)


def _resolve_suite(
    suite: Mapping[str, Any], base_dir: Path, has_data_dir: bool, data_dir: Path | None, where: str
) -> list[tuple[Task, Path]]:
    if "natural_instructions" in suite:
        return [(task, base_dir) for task in natural_instructions(suite, base_dir, data_dir, where)]
    given, source_dir = template_source(suite, base_dir)
    sources = resolve_tasks([given], source_dir, has_data_dir, data_dir)
    if len(sources) != 1:
        raise DataError(f"{where}: `source` must be one task, found {len(sources)}")
    ((source, source_base),) = sources
    return [(task, source_base) for task in templated_tasks(suite, source, base_dir)]


def _resolve_file(path: Path, has_data_dir: bool, data_dir: Path | None) -> list[tuple[Task, Path]]:
    require_file(path)
    content = _read_yaml(path.read_text("utf-8"), str(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the fields of a task or a list under the key `tasks`")
    if "tasks" in content:
        return resolve_tasks(content["tasks"] or [], path.parent, has_data_dir, data_dir)
    return resolve_tasks([content], path.parent, has_data_dir, data_dir)


def _resolve_preset(spec: Mapping[str, Any], has_data_dir: bool, where: str) -> Task:
    """Merge the preset, its layout and the user's fields, the later over the earlier."""
    overrides = dict(spec)
    preset = overrides.pop("preset")
    presets = _presets()
    if preset not in presets:
        raise DataError(
            f"{where}: unknown task '{preset}'.{_meant(str(preset))} "
            "`taskloom tasks` lists the presets; own tasks are given as a .yaml file or by their fields"
        )
    if "dataset" in overrides:
        layout: Layout = "hub"
    else:
        layout = "folder" if has_data_dir or overrides.keys() & {"path", "splits"} else "hub"
    fields = dict(presets[preset])
    layouts: dict[Layout, dict[str, Any]] = {name: fields.pop(name) for name in LAYOUTS}
    fields |= layouts[layout]
    if "splits" in overrides:
        fields.pop("optional_splits", None)  # splits that the user names must exist
    elif "path" in overrides:
        folder = PurePosixPath(overrides.pop("path"))
        fields["splits"] = _moved(fields["splits"], folder)
    return task_from_mapping(fields | overrides, f"{where} (preset {preset})")


def _meant(preset: str) -> str:
    """Return a sentence that names the presets of this name in other groups, else what is spelled nearly so."""
    known = [*_presets(), *(suite for suite, _ in list_suites())]
    name = preset.rpartition("/")[2].lower()
    same = [other for other in known if other.lower().endswith((f"/{name}", f"-{name}"))]
    if name and same:
        return f" Did you mean {' or '.join(repr(other) for other in same)}?"
    return did_you_mean(preset, known)


@cache
def _presets() -> dict[str, dict[str, Any]]:
    """Return preset id to task fields, with the keys "hub" and "folder" for the fields of each layout."""
    presets: dict[str, dict[str, Any]] = {}
    for group, file in _family_files():
        content = _read_yaml(file.read_text("utf-8"), file.name)
        for name, fields in content["tasks"].items():
            layouts = {layout: content.get(layout, {}) | fields.get(layout, {}) for layout in LAYOUTS}
            presets[f"{group}/{name}"] = {"name": name, **content.get("all", {}), **fields, **layouts}
    return presets


def _family_files() -> Iterator[tuple[str, Any]]:
    """Yield the first part of the ids that each file of presets declares, and the file."""
    for entry in sorted(files("taskloom.tasks").joinpath("families").iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            for file in sorted(entry.iterdir(), key=lambda file: file.name):
                yield entry.name, file
        else:
            yield entry.name.removesuffix(".yaml"), entry


def _moved(splits: Mapping[str, str], folder: PurePosixPath) -> dict[str, str]:
    """Return the files of splits as they lie in the user's own folder, with folders where these tell them apart."""
    names = [PurePosixPath(files).name for files in splits.values()]
    if len(set(names)) == len(names) and not any("+" in files for files in splits.values()):
        return {split: str(folder / name) for split, name in zip(splits, names, strict=True)}
    return {split: "+".join(str(folder / file.strip()) for file in files.split("+")) for split, files in splits.items()}


def _read_yaml(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as failure:
        line = failure.problem_mark.line + 1 if failure.problem_mark else 1
        raise DataError(f"{source}:{line}: malformed YAML ({failure.problem})") from None
