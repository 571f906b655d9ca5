"""Turn pydantic's findings into messages about the recipe: file and line, field, found, expected."""

from typing import Any

from pydantic import ValidationError

from taskloom.errors import RecipeError, did_you_mean
from taskloom.recipe.fields import field_type, known_keys, recipe_fields
from taskloom.recipe.source import Location, RecipeSource
from taskloom.recipe.wording import describe_value, expected_choice

__all__ = ["recipe_error"]


def recipe_error(error: ValidationError, source: RecipeSource) -> RecipeError:
    """Return one `RecipeError` with a line for each field of `source` that is wrong."""
    # One wrong value of a union type gives a finding for each alternative; they come out as the same line.
    messages = dict.fromkeys(_message(finding, source) for finding in error.errors(include_url=False))
    return RecipeError("\n".join(messages))


def _message(finding: Any, source: RecipeSource) -> str:
    if finding["type"] == "contradiction":
        field = finding["ctx"]["field"]
        return f"{source.where(tuple(field.split('.')))}{field} {finding['ctx']['reason']}"
    location = _location(finding["loc"])
    name = ".".join(location)
    where = source.where(location)
    if finding["type"] == "extra_forbidden":
        return f"{where}unknown key '{name}'.{_nearest_key(location)}"
    if finding["type"] == "missing":
        return f"{where}{_required(name)}"
    if finding["type"] == "refused":
        return f"{where}{name}: {finding['msg']}"
    found = _value_at(source.values, location)
    return f"{where}{name}: found {describe_value(found)}, expected {_expectation(finding, location, found)}"


def _location(parts: tuple[int | str, ...]) -> Location:
    """Return the place in the recipe; pydantic appends which alternative of a union it tried (`tasks.0.str`)."""
    names: list[str] = []
    for part in parts:
        if names and (part in ("str", "int") or (isinstance(part, str) and "[" in part)):
            break
        names.append(str(part))
    return tuple(names)


def _value_at(values: Any, location: Location) -> Any:
    for part in location:
        if not isinstance(values, list | dict):
            break  # a short form, such as the name of a stage that may be a mapping
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


def _required(name: str) -> str:
    """Name the required field; for a section that is missing altogether, its required fields."""
    fields = [
        field for field in recipe_fields() if field.default == "required" and f"{field.name}.".startswith(f"{name}.")
    ]
    return "; ".join(f"{field.name} is required: {field.description}" for field in fields)


def _expectation(finding: Any, location: Location, found: Any) -> str:
    if location == ("tasks",) and found == []:
        return "at least one task, such as glue/rte"
    if location[0] == "tasks" and len(location) > 1:
        return "the name of a preset or of a YAML file, or a mapping of a task's fields"
    if finding["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"):
        bound = finding["msg"].removeprefix("Input should be ")
        return bound if finding["type"] == "finite_number" else f"a value {bound}"
    expected = field_type(location)
    return expected_choice(found, expected) if finding["type"] == "literal_error" else expected


def _nearest_key(location: Location) -> str:
    """Suggest the nearest key of the same section, else a field of that name in another section."""
    *section, key = location
    prefix = "".join(f"{part}." for part in section)
    suggestion = did_you_mean(key, known_keys(tuple(section)))
    if "Did you mean" in suggestion:
        return suggestion.replace("'", f"'{prefix}", 1)
    elsewhere = [field.name for field in recipe_fields() if field.name.rpartition(".")[2] == key]
    return f" Did you mean '{elsewhere[0]}'?" if elsewhere else suggestion
