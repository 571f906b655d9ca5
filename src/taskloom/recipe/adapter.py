"""The settings of taskloom's own methods, which stand in the recipe's `adapter` section beside `method`.

They are checked when the recipe is loaded. The settings of PEFT's methods are checked when the model is built, because
knowing them takes importing PEFT.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from taskloom.adapters.ca_mtl.settings import CAMTLSettings, preset_fields
from taskloom.adapters.hyperdecoder.settings import HyperdecoderSettings
from taskloom.errors import did_you_mean
from taskloom.recipe.wording import describe_value, expected_choice, type_name

if TYPE_CHECKING:
    from taskloom.recipe.sections import AdapterSection

__all__ = ["OWN_METHODS", "ca_mtl_settings", "hyperdecoder_settings", "idle_option", "own_fields", "wrong_option"]

#: The methods that PEFT does not bring, with the class of their settings.
OWN_METHODS: dict[str, type] = {"ca_mtl": CAMTLSettings, "hyperdecoder": HyperdecoderSettings}

#: Settings of Hyperdecoders that only a decoder-only model heeds, and those that only a model with an encoder does.
_DECODER_ONLY = ("prompt_layer", "adapt_prompt")
_ENCODER = ("encoder", "encoder_adapter_dim", "unfreeze_encoder", "unfreeze_encoder_adapters")

#: What the recipe knows by itself, or has in its `adapter` section for every method.
_NOT_OWN = ("num_tasks", "freeze_layers")


def own_fields(method: str) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a method of ours by name: those that a recipe sets beside those of its `adapter` section."""
    return {field.name: field for field in dataclasses.fields(OWN_METHODS[method]) if field.name not in _NOT_OWN}


def wrong_option(method: str, options: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first of `options` that `method` does not know or whose type is wrong, with the reason; or None."""
    fields = own_fields(method)
    for name, value in options.items():
        if name == "num_tasks":
            return name, "is counted from the recipe's tasks: leave it out"
        if name not in fields:
            shared = ("method", "preset", "freeze_layers") if method == "ca_mtl" else ("method",)
            known = [f"adapter.{field}" for field in (*shared, *fields)]
            return name, f"is an unknown key for method {method}.{did_you_mean(f'adapter.{name}', known)}"
        expected: Any = fields[name].type
        try:
            TypeAdapter(expected, config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError:
            published: dict[Any, str] = fields[name].metadata.get("published", {})
            if isinstance(value, str) and value in published:
                return name, f"is {describe_value(value)}, which is called {published[value]} here"
            return name, f"is {describe_value(value)}, expected {expected_choice(value, type_name(expected))}"
    return None


def idle_option(adapter: "AdapterSection", family: Literal["encoder_decoder", "decoder"]) -> str | None:
    """Return the first setting of Hyperdecoders that a model of this family would ignore, or None.

    The default is no such setting, nor is ``encoder: none``: a recipe may be tried on models of both families.
    """
    if adapter.method != "hyperdecoder":
        return None
    fields = own_fields("hyperdecoder")
    idle = _ENCODER if family == "decoder" else _DECODER_ONLY
    given = {name: value for name, value in adapter.options.items() if name in idle}
    return next((name for name, value in given.items() if value not in (fields[name].default, "none")), None)


def ca_mtl_settings(adapter: "AdapterSection", max_length: int) -> CAMTLSettings:
    """Return CA-MTL's settings: the recipe's over its preset's over the defaults.

    `max_length` (tokens) is what conditional attention covers unless preset or recipe say otherwise.

    Raises `UserError` for values that CA-MTL refuses.
    """
    # Without a preset a recipe trains the whole encoder, where PEFT's default would freeze it.
    fields: dict[str, Any] = {"max_length": max_length, "freeze_layers": None}
    if adapter.preset is not None:
        fields |= preset_fields(adapter.preset)
    if adapter.freeze_layers is not None:
        fields["freeze_layers"] = adapter.freeze_layers
    return CAMTLSettings(**fields | adapter.options)


def hyperdecoder_settings(adapter: "AdapterSection", num_tasks: int | None = None) -> HyperdecoderSettings:
    """Return the settings of Hyperdecoders: the recipe's over the defaults, which are the published ones.

    Raises `UserError` for values that Hyperdecoders refuse.
    """
    return HyperdecoderSettings(num_tasks=num_tasks, **adapter.options)
