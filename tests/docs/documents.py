"""What a YAML or JSON block may be: a recipe or part of one, a task, a file of templates, a search space."""

import json
from pathlib import Path
from typing import Any

import yaml

from taskloom.auxiliary import SearchSpace
from taskloom.recipe import Recipe, load_recipe
from taskloom.tasks.presets import resolve_tasks
from taskloom.tasks.task import Task, task_from_mapping

__all__ = ["check_json", "check_yaml"]

STAGES = {"data", "transforms", "representations", "outputs", "illegal"}
TEMPLATES = {"source", "columns", "answers", "templates"}


def check_yaml(text: str, folder: Path) -> str:
    """Validate what a YAML block holds, and return what it was taken for.

    Args:
        text: of the block.
        folder: where relative paths start; files are written there.
    """
    value: Any = yaml.safe_load(text)
    assert isinstance(value, dict), "expected a mapping"
    if {"name", "inputs"} <= set(value) or {"name", "template"} <= set(value):
        task_from_mapping(value, "the block")
        return "task"
    if set(value) <= STAGES:
        SearchSpace.from_mapping(value, [word for word in value["outputs"] if word == "stance"])
        return "search space"
    if set(value) <= TEMPLATES and "templates" in value:
        (folder / "templates-of-the-page.yaml").write_text(text)
        resolve_tasks([{"templates": "templates-of-the-page.yaml"}], folder, False)
        return "templates"
    unknown = set(value) - set(Recipe.model_fields)
    assert not unknown, f"neither a recipe, a task, templates nor a search space: {sorted(unknown)}"
    rest = {"model": {"path": "any"}, "tasks": [{"name": "any", "inputs": ["text"], "labels": ["a", "b"]}]}
    if value.get("questions") or value.get("weighter"):
        rest.pop("tasks")
    path = folder / "block-of-the-page.yaml"
    path.write_text(yaml.safe_dump({**rest, **value}, sort_keys=False))
    recipe = load_recipe(path)
    resolve_tasks([task for task in recipe.tasks if _is_declared(task)], folder, recipe.data.dir is not None)
    return "recipe"


def _is_declared(task: Any) -> bool:
    """Whether a task stands in the recipe itself, not in a file that the block only names."""
    if isinstance(task, Task):
        return True
    if isinstance(task, str):
        return not task.endswith((".yaml", ".yml"))
    return "natural_instructions" not in task and "templates" not in task


def check_json(text: str) -> None:
    """Parse one JSON value, or one a line."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        for line in text.splitlines():
            json.loads(line)
