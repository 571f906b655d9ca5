"""Relative paths in a recipe become absolute, so that a run folder can be resumed and read from anywhere."""

from pathlib import Path
from typing import Any

from taskloom.errors import RecipeError
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
    values["model"]["path"] = _model_path(values["model"]["path"], source)
    for index, task in enumerate(values["tasks"]):
        location = ("tasks", str(index))
        if isinstance(task, str):
            if task.endswith((".yaml", ".yml")):
                values["tasks"][index] = str(_absolute(task, _base(source, location)))
        else:
            _task_paths(task, location, source, has_data_dir=data.get("dir") is not None)


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


def _model_path(path: str, source: RecipeSource) -> str:
    """Return an existing folder as an absolute path; hub ids and ``package:`` names as they are."""
    if path.startswith("package:"):
        return path
    folder = _absolute(path, _base(source, ("model", "path")))
    if folder.is_dir():
        return str(folder)
    if path.startswith((".", "/", "~")):
        raise RecipeError(f"{source.where(('model', 'path'))}model.path: there is no folder '{folder}'")
    return path


def _base(source: RecipeSource, location: Location) -> Path:
    return Path.cwd() if source.is_override(location) else source.path.resolve().parent


def _absolute(path: str | Path, base: Path) -> Path:
    return (base / Path(path).expanduser()).resolve()
