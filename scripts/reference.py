"""The tables of reference that the code itself writes: the command line, fields of recipes and tasks, ready recipes.

`make docs` puts them into pages of docs/reference (scripts/docs_site.py), so that they are never older than the code.
"""

import enum
import inspect
import types
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
import yaml
from pydantic.fields import FieldInfo

from taskloom.cli.app import app
from taskloom.recipe import Recipe, recipe_fields
from taskloom.recipe.packaged import packaged_recipes
from taskloom.recipe.wording import type_name
from taskloom.tasks.presets import list_presets
from taskloom.tasks.task import Task

__all__ = ["MARK", "reference_pages"]

#: Where the tables stand in their pages.
MARK = "<!-- made by scripts/reference.py -->"

CLI, RECIPE, TASK, READY = ("reference/cli.md", "reference/recipe.md", "reference/task.md", "reference/recipes.md")

#: Options that every command takes from Typer itself.
_COMMON = ("--help", "--install-completion", "--show-completion")


def reference_pages() -> dict[str, str]:
    """Return the Markdown that each page of the site gets in the place of `MARK`."""
    return {CLI: cli_tables(), RECIPE: recipe_tables(), TASK: task_tables(), READY: ready_table()}


# --- the command line


def cli_tables() -> str:
    """Return every verb with its arguments and options."""
    root: Any = typer.main.get_command(app)
    parts: list[str] = []
    for name, command in _commands(root, "taskloom"):
        parts.append(f"## `{name}`" if name != "taskloom" else "## Global options")
        parts.append(inspect.cleandoc(command.help or "").replace("\n\n", "\n\n").strip())
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        if name != "taskloom":
            parts.append(f"```text\n{name} {' '.join(_usage(each) for each in arguments)} [OPTIONS]\n```")
        hints = get_type_hints(command.callback, include_extras=True) if command.callback else {}
        rows = [_parameter(each, hints.get(each.name)) for each in command.params if not _is_common(each)]
        if rows:
            parts.append(_table(("argument or option", "value", "default", ""), rows))
    return "\n\n".join(parts) + "\n"


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None or command.callback:
        yield name, command
    for key, each in (inner or {}).items():
        yield from _commands(each, f"{name} {key}")


def _is_common(parameter: Any) -> bool:
    return any(option in _COMMON for option in parameter.opts)


def _usage(argument: Any) -> str:
    word = (argument.metavar or argument.name.upper()).strip("[]")
    word += "..." if argument.nargs == -1 else ""
    return word if argument.required else f"[{word}]"


def _parameter(parameter: Any, hint: Any) -> tuple[str, str, str, str]:
    if parameter.param_type_name == "argument":
        name, value = f"`{_usage(parameter)}`", _words(hint)
    else:
        options = ", ".join(f"`{option}`" for option in sorted(parameter.opts, key=len, reverse=True))
        off = ", ".join(f"`{option}`" for option in parameter.secondary_opts)
        name, value = options + (f" / {off}" if off else ""), _words(hint)
    if value == "flag":
        default = "" if not parameter.secondary_opts else ("on" if parameter.default else "off")
    elif parameter.required:
        default = "required"
    else:
        default = _default(parameter.default)
    return name, value, default, parameter.help or ""


def _default(value: Any) -> str:
    if value is None or value == () or value == [] or callable(value):
        return ""
    return f"`{value.value if isinstance(value, enum.Enum) else value}`"


def _words(hint: Any) -> str:
    """Say the type of an argument or option in words."""
    if get_origin(hint) is Annotated:
        return _words(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return ", ".join(_words(each) for each in get_args(hint) if each is not type(None))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(hint))
    if get_origin(hint) is list:
        return f"{_words(get_args(hint)[0])}, any number"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return ", ".join(f"`{each.value}`" for each in hint)
    return {bool: "flag", int: "integer", float: "number", str: "text", Path: "path"}.get(hint, "")


# --- recipes


def recipe_tables() -> str:
    """Return every field of a recipe, section by section."""
    parts: list[str] = []
    for section, fields in groupby(recipe_fields(), key=lambda field: field.section):
        parts.extend(_section(section))
        rows = [
            (
                f"`{field.name}`",
                field.type,
                field.default if field.default == "required" else f"`{field.default}`",
                field.description,
            )
            for field in fields
        ]
        parts.append(_table(("field", "type", "default", "what, and its unit"), rows))
    return "\n\n".join(parts) + "\n"


def _section(section: str) -> list[str]:
    if not section:
        return ["## The run"]
    name, _, method = section.partition(" ")
    if method:
        return [f"## `{name}` with `method: {method.strip('()')}`"]
    model: Any = Recipe.model_fields[name].annotation
    return [f"## `{name}`", (model.__doc__ or "").splitlines()[0]]


def task_tables() -> str:
    """Return every field of a task."""
    rows = [
        (f"`{name}`", type_name(field.annotation), _field_default(field), field.description or "")
        for name, field in Task.model_fields.items()
    ]
    presets = [(f"`{name}`", description) for name, description in list_presets()]
    return (
        "\n\n".join(
            [
                "## Fields",
                _table(("field", "type", "default", "what, and its unit"), rows),
                "## Presets",
                "`taskloom tasks` prints them.",
                _table(("id", "what"), presets),
            ]
        )
        + "\n"
    )


def ready_table() -> str:
    """Return the ready recipes."""
    rows = []
    for name, path in packaged_recipes().items():
        description = yaml.safe_load(path.read_text("utf-8")).get("description", "")
        rows.append((f"[`{name}`](../../recipes/{name}.yaml)", description))
    return _table(("name", "what"), rows) + "\n"


def _field_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value in (None, "", (), {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    pieces = " ".join(str(text).split()).replace("|", "\\|").split("`")
    plain = (piece.replace("<", "&lt;").replace("*", "\\*") for piece in pieces[::2])
    pieces[::2] = list(plain)
    return "`".join(pieces)
