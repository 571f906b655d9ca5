"""Types and values in the words that messages and the field table use."""

import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from taskloom.errors import did_you_mean

__all__ = ["describe_value", "expected_choice", "is_section", "type_name"]

_TYPE_NAMES: dict[Any, str] = {
    bool: "true | false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "null",
    Any: "any",
}

_VALUE_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "an integer"),
    (float, "a number"),
    (str, "text"),
    (dict, "a mapping"),
    (list, "a list"),
)


def type_name(annotation: Any) -> str:
    """Say a type in words: ``int | None`` -> ``"integer | null"``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if origin in (list, tuple):
        return f"list of {_grouped(arguments[0])}"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping to {_grouped(arguments[1])}"
    return "mapping" if is_section(annotation) else _TYPE_NAMES[annotation]


def describe_value(value: Any) -> str:
    """Say what was found: ``'abc' (text)``, ``3.5 (a number)``, ``null``."""
    if value is None:
        return "null"
    kind = next((words for kind, words in _VALUE_KINDS if isinstance(value, kind)), type(value).__name__)
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


def expected_choice(found: Any, expected: str) -> str:
    """Return `expected`, a type in words, with the nearest of its alternatives where `found` is like one of them."""
    nearest = did_you_mean(found, expected.split(" | ")) if isinstance(found, str) else ""
    return expected + ("." + nearest if "Did you mean" in nearest else "")


def is_section(annotation: Any) -> bool:
    """Whether a field's type is a section of the recipe."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _grouped(annotation: Any) -> str:
    name = type_name(annotation)
    return f"({name})" if " | " in name else name
