"""The recipe's fields as a flat table (dotted name, type, default, description), made from the models."""

import dataclasses
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from taskloom.recipe.adapter import OWN_METHODS, own_fields
from taskloom.recipe.sections import Recipe
from taskloom.recipe.wording import is_section, type_name

__all__ = ["RecipeField", "field_type", "known_keys", "recipe_fields"]


@dataclass(frozen=True)
class RecipeField:
    """One settable field. `section` is empty for the recipe's own fields."""

    section: str
    name: str
    type: str
    default: str
    description: str


def recipe_fields() -> list[RecipeField]:
    """Return every field that a recipe can set, the recipe's own first, then section by section."""
    own, nested = [], []
    for name, info in Recipe.model_fields.items():
        section: Any = info.annotation
        if is_section(section):
            nested.extend(_describe(name, key, field) for key, field in section.model_fields.items())
            if name == "adapter":
                for method in OWN_METHODS:
                    nested.extend(_describe_own(method, field) for field in own_fields(method).values())
        else:
            own.append(_describe("", name, info))
    return own + nested


def known_keys(location: tuple[str, ...]) -> list[str]:
    """Return the keys of the section at `location` (none where a mapping has no fixed keys)."""
    annotation = _annotation_at(location)
    return list(annotation.model_fields) if is_section(annotation) else []


def field_type(location: tuple[str, ...]) -> str:
    """Say the type of the field at `location` in words."""
    return type_name(_annotation_at(location))


def _annotation_at(location: tuple[str, ...]) -> Any:
    annotation: Any = Recipe
    for part in location:
        if get_origin(annotation) in (Union, UnionType):  # an optional list or mapping
            annotation = next((each for each in get_args(annotation) if get_origin(each) in (list, dict)), Any)
        if is_section(annotation) and part in annotation.model_fields:
            annotation = annotation.model_fields[part].annotation
        elif get_origin(annotation) in (list, dict):
            annotation = get_args(annotation)[-1]
        else:
            return Any
    return annotation


def _describe(section: str, name: str, info: FieldInfo) -> RecipeField:
    dotted = f"{section}.{name}" if section else name
    return RecipeField(section, dotted, type_name(info.annotation), _default(info), info.description or "")


def _describe_own(method: str, field: dataclasses.Field[Any]) -> RecipeField:
    return RecipeField(
        f"adapter ({method})",
        f"adapter.{field.name}",
        type_name(field.type),
        "data.max_length" if field.name == "max_length" else _as_yaml(field.default),
        field.metadata["help"],
    )


def _default(info: FieldInfo) -> str:
    if isinstance(info.json_schema_extra, dict) and "default" in info.json_schema_extra:
        return str(info.json_schema_extra["default"])
    if info.is_required():
        return "required"
    return _as_yaml(info.get_default(call_default_factory=True, validated_data={}))


def _as_yaml(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return '""' if value == "" else str(value)
