"""What a sweep tries: recipe fields and their values, listed or drawn.

training.learning_rate=1e-5,3e-5        the values, each as YAML
training.epochs=range(1,10,3)           1, 4, 7 (Python's range)
training.learning_rate=loguniform(1e-6,1e-4)     drawn, as likely in each order of magnitude
training.warmup=uniform(0,0.2)          drawn
training.batch_size=randint(8,64)       a drawn integer, both ends included
recipe=ca-mtl/base,ca-mtl/large         whole recipes
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml

from taskloom.errors import RecipeError

__all__ = ["RECIPE", "Choice", "Dimension", "Drawn", "Settings", "grid", "parse_dimension", "slug"]

#: In the place of a field: whole recipes that are tried.
RECIPE = "recipe"

#: A trial's values by dotted field.
Settings = dict[str, Any]

_CALL = re.compile(r"(range|uniform|loguniform|randint)\((.*)\)", re.DOTALL)
#: YAML reads 1e-5 as text, unlike OmegaConf, which reads recipes.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


@dataclass(frozen=True)
class Choice:
    """Listed values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Drawn:
    """Numbers from an interval, both ends included.

    Attributes:
        low, high: its ends.
        log: whether each order of magnitude is as likely as another.
        integer: whether numbers are whole.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False


Dimension = Choice | Drawn


def parse_dimension(text: str) -> tuple[str, Dimension]:
    """Return the field and the values that ``field=values`` stands for.

    Raises:
        RecipeError: it is not of this form, holds no value, or an interval that is none.
    """
    field, equals, given = text.partition("=")
    if not equals or not field.strip() or not given.strip():
        raise RecipeError(
            f"'{text}': expected a field and its values, such as training.learning_rate=1e-5,3e-5 or "
            "training.warmup=uniform(0,0.2)"
        )
    call = _CALL.fullmatch(given.strip())
    if call is None:
        return field.strip(), Choice(tuple(_value(text, part) for part in _split(given)))
    name, arguments = call.group(1), [_value(text, part) for part in _split(call.group(2))]
    return field.strip(), _range(text, arguments) if name == "range" else _interval(text, name, arguments)


def _range(text: str, arguments: Sequence[Any]) -> Choice:
    if not 1 <= len(arguments) <= 3 or not all(type(each) is int for each in arguments) or arguments[2:] == [0]:
        raise RecipeError(f"'{text}': range takes one to three integers, such as range(1,10,3)")
    values = tuple(range(*arguments))
    if not values:
        raise RecipeError(f"'{text}': this range is empty")
    return Choice(values)


def _interval(text: str, name: str, arguments: Sequence[Any]) -> Drawn:
    numbers = [each for each in arguments if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(arguments) != 2 or len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise RecipeError(f"'{text}': {name} takes two numbers, the lower first, such as {name}(1,10)")
    if name == "loguniform" and numbers[0] <= 0:
        raise RecipeError(f"'{text}': loguniform takes numbers above 0")
    if name == "randint" and not all(isinstance(each, int) for each in numbers):
        raise RecipeError(f"'{text}': randint takes integers")
    return Drawn(numbers[0], numbers[1], log=name == "loguniform", integer=name == "randint")


def _split(text: str) -> list[str]:
    """Split at commas that are not within brackets or quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += (sign in "[{(") - (sign in "]})") if not quote else 0
        if sign == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def _value(text: str, part: str) -> Any:
    if not part:
        raise RecipeError(f"'{text}': a value between two commas is missing")
    try:
        value = yaml.safe_load(part)
    except yaml.YAMLError as error:
        raise RecipeError(f"'{text}': '{part}' is no YAML value") from error
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def grid(space: Mapping[str, Dimension]) -> list[Settings]:
    """Return all combinations of listed values, the last field's changing fastest.

    Raises:
        RecipeError: a field is drawn, and has no list.
    """
    for field, dimension in space.items():
        if isinstance(dimension, Drawn):
            raise RecipeError(
                f"{field}: is drawn from an interval, which a grid cannot list: use --search random or tpe"
            )
    lists = [dimension.values for dimension in space.values() if isinstance(dimension, Choice)]
    return [dict(zip(space, values, strict=True)) for values in product(*lists)]


def slug(settings: Settings) -> str:
    """Return a readable folder name, the same for equal settings alone: ``learning_rate=1e-05,epochs=3``."""
    short = {field: field.rpartition(".")[2] for field in settings}
    names = list(short.values())
    texts = {field: _unquoted(value) for field, value in settings.items()}
    plain = {field: re.sub(r"[^\w.+-]+", "_", text).strip("_") for field, text in texts.items()}
    name = ",".join(f"{field if names.count(short[field]) > 1 else short[field]}={plain[field]}" for field in settings)
    if plain == texts and len(name) <= 100:
        return name or "as-it-is"
    exact = json.dumps(settings, sort_keys=True).encode()
    return f"{name[:80]}-{hashlib.blake2b(exact, digest_size=4).hexdigest()}"


def _unquoted(value: Any) -> str:
    """Return a value as JSON, text that cannot be taken for anything else without quotes."""
    written = json.dumps(value)
    if not isinstance(value, str):
        return written
    try:
        return value if yaml.safe_load(value) == value and not _NUMBER.fullmatch(value) else written
    except yaml.YAMLError:
        return written
