"""Relative paths in a recipe become absolute, so that a run folder can be resumed and read from anywhere."""

from pathlib import Path
from typing import Any

from taskloom.errors import RecipeError
from taskloom.recipe.online import ROLES, TUNED
from taskloom.recipe.source import Location, RecipeSource

__all__ = ["make_paths_absolute"]


def make_paths_absolute(source: RecipeSource) -> None:
    """Rewrite the paths among `source.values` in place. The values must have been checked for their types.

    What is read is relative to the recipe's file (or to the working folder when an override gave it);
    what is written (`output`, `data.cache`) is relative to the working folder. Split files stay relative when
    `data.dir` is set: they are looked up there.
    """
    values = source.values
    values["output"] = str(_absolute(values.get("output", Path("runs", values["name"])), Path.cwd()))
    data = values.get("data", {})
    if data.get("cache") is not None:
        data["cache"] = str(_absolute(data["cache"], Path.cwd()))
    if data.get("dir") is not None:
        data["dir"] = str(_absolute(data["dir"], _base(source, ("data", "dir"))))
    if values.get("groups") is not None:
        values["groups"] = str(_absolute(values["groups"], _base(source, ("groups",))))
    if values.get("training", {}).get("deepspeed") is not None:
        own = values["training"]["deepspeed"]
        values["training"]["deepspeed"] = str(_absolute(own, _base(source, ("training", "deepspeed"))))
    own_model = values["model"]["path"]
    values["model"]["path"] = _model_path(own_model, source, ("model", "path"))
    has_data_dir = data.get("dir") is not None
    _tasks_paths(values.get("tasks", []), ("tasks",), source, has_data_dir)
    _auxiliary_paths(values.get("auxiliary", {}), source, has_data_dir)
    neural_lm = values.get("neural_lm", {})
    if neural_lm.get("model") is not None:
        neural_lm["model"] = _model_path(neural_lm["model"], source, ("neural_lm", "model"))
    _questions_paths(values.get("questions", {}), source, has_data_dir)
    for section, name in (("weighter", "path"), ("weighter", "corpus")):
        if values.get(section, {}).get(name) is not None:
            values[section][name] = str(_absolute(values[section][name], _base(source, (section, name))))
    for section, name in (("weighter", "model"), ("meta_train", "base"), ("adapt", "base")):
        given = values.get(section, {}).get(name)
        if given == own_model:  # such as by ${model.path}: the same place, wherever it was said
            values[section][name] = values["model"]["path"]
        elif given not in (None, TUNED):
            values[section][name] = _model_path(given, source, (section, name))


def _questions_paths(section: dict[str, Any], source: RecipeSource, has_data_dir: bool) -> None:
    for name in ("web_text", "web_text_dev"):
        if section.get(name) is not None:
            section[name] = str(_absolute(section[name], _base(source, ("questions", name))))
    if has_data_dir:
        return
    for role in ROLES:
        base = _base(source, ("questions", role))
        if isinstance(given := section.get(role), str):
            section[role] = str(_absolute(given, base))
        elif given is not None and given.get("format") != "squad_hub":
            given["path"] = str(_absolute(given["path"], base))


def _auxiliary_paths(section: dict[str, Any], source: RecipeSource, has_data_dir: bool) -> None:
    for name in ("in_domain", "out_domain", "warm_start"):
        given, base = section.get(name), _base(source, ("auxiliary", name))
        if isinstance(given, list):
            section[name] = [str(_absolute(path, base)) for path in given]
        elif given is not None:
            section[name] = str(_absolute(given, base))
    space = section.get("space")
    if isinstance(space, str) and space.endswith((".yaml", ".yml")):
        section["space"] = str(_absolute(space, _base(source, ("auxiliary", "space"))))
    _tasks_paths(section.get("tasks", []), ("auxiliary", "tasks"), source, has_data_dir)


def _tasks_paths(tasks: list[Any], location: Location, source: RecipeSource, has_data_dir: bool) -> None:
    for index, task in enumerate(tasks):
        place = (*location, str(index))
        if not isinstance(task, str):
            _task_paths(task, place, source, has_data_dir)
        elif task.endswith((".yaml", ".yml")):
            tasks[index] = str(_absolute(task, _base(source, place)))


def _task_paths(task: dict[str, Any], location: Location, source: RecipeSource, has_data_dir: bool) -> None:
    dataset, path, splits = task.get("dataset"), task.get("path"), task.get("splits")
    if isinstance(templates := task.get("templates"), str) and templates.endswith((".yaml", ".yml")):
        task["templates"] = str(_absolute(templates, _base(source, (*location, "templates"))))
    if isinstance(task.get("source"), dict):
        _task_paths(task["source"], (*location, "source"), source, has_data_dir)
    if isinstance(dataset, str):
        folder = _absolute(dataset, _base(source, (*location, "dataset")))
        task["dataset"] = str(folder) if folder.is_dir() else dataset
    if has_data_dir:
        return
    if isinstance(pattern := task.get("natural_instructions"), str):
        base = _base(source, (*location, "natural_instructions"))
        task["natural_instructions"] = str(base / Path(pattern).expanduser())
    if isinstance(path, str):
        task["path"] = str(_absolute(path, _base(source, (*location, "path"))))
    if dataset is None and isinstance(splits, dict):
        for name, file in splits.items():
            if isinstance(file, str):
                splits[name] = str(_absolute(file, _base(source, (*location, "splits", name))))


def _model_path(path: str, source: RecipeSource, location: Location) -> str:
    """Return an existing folder as an absolute path; hub ids and ``package:`` names as they are."""
    if path.startswith("package:"):
        return path
    folder = _absolute(path, _base(source, location))
    if folder.is_dir():
        return str(folder)
    if path.startswith((".", "/", "~")) or Path(path).is_absolute():
        raise RecipeError(f"{source.where(location)}{'.'.join(location)}: there is no folder '{folder}'")
    return path


def _base(source: RecipeSource, location: Location) -> Path:
    return Path.cwd() if source.is_override(location) else source.path.resolve().parent


def _absolute(path: str | Path, base: Path) -> Path:
    return (base / Path(path).expanduser()).resolve()
