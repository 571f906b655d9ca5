"""From a recipe's adapter section to an adapted encoder."""

from dataclasses import asdict, fields
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import PreTrainedModel

from taskloom.adapters.ca_mtl.config import CAMTLConfig
from taskloom.adapters.ca_mtl.encoders import find_encoder
from taskloom.adapters.ca_mtl.settings import resolve_layers
from taskloom.adapters.hyperdecoder.config import HyperdecoderConfig
from taskloom.errors import RecipeError, UserError, did_you_mean
from taskloom.recipe import AdapterSection
from taskloom.recipe.adapter import OWN_METHODS, ca_mtl_settings, hyperdecoder_settings

__all__ = ["adapt"]


def adapt(
    encoder: PreTrainedModel,
    adapter: AdapterSection,
    num_tasks: int,
    max_length: int,
    task_type: str | None = None,
) -> PreTrainedModel | PeftModel:
    """Wrap the encoder as the recipe says, or freeze some of its layers if it names no method.

    Args:
        encoder: the pretrained encoder; it is changed in place.
        adapter: the recipe's section.
        num_tasks: number of tasks of the suite.
        max_length: longest input in tokens, the default extent of CA-MTL's conditional attention.
        task_type: PEFT's name of what the model is for, unless the recipe gives one; None for encoders.

    Raises:
        UserError: an unknown method, setting or layer, or an encoder that the method does not fit.
    """
    if adapter.method == "none":
        _freeze(encoder, adapter.freeze_layers)
        return encoder
    if adapter.method == "ca_mtl":
        config = CAMTLConfig(**{**asdict(ca_mtl_settings(adapter, max_length)), "num_tasks": num_tasks})
    elif adapter.method == "hyperdecoder":
        config = _hyperdecoder_config(encoder, adapter, num_tasks, task_type)
    else:
        config = _peft_config(adapter.method, adapter.options, task_type)
    try:
        return get_peft_model(encoder, config)
    except UserError as error:
        raise RecipeError(f"adapter: {error}") from error
    except ValueError as error:
        raise RecipeError(f"adapter: {adapter.method} does not fit {type(encoder).__name__}: {error}") from error


def _hyperdecoder_config(
    model: PreTrainedModel, adapter: AdapterSection, num_tasks: int, task_type: str | None
) -> PeftConfig:
    if task_type is None:
        raise RecipeError(
            f"adapter.method: hyperdecoder adapts models that generate text (T5, BART, GPT-2, Llama); "
            f"{type(model).__name__} is an encoder with heads. Use ca_mtl or a method of PEFT, or another model."
        )
    return HyperdecoderConfig(task_type=task_type, **asdict(hyperdecoder_settings(adapter, num_tasks)))


def _peft_config(method: str, options: dict[str, Any], task_type: str | None) -> PeftConfig:
    classes = {name.value.lower(): found for name, found in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if method not in classes:
        known = ["none", *OWN_METHODS, *classes]
        raise RecipeError(f"adapter.method: unknown '{method}'.{did_you_mean(method, known)}")
    known = [field.name for field in fields(classes[method])]
    for option in options:
        if option not in known:
            raise RecipeError(f"adapter.{option}: {method} has no such setting.{did_you_mean(option, known)}")
    try:
        return classes[method](**{"task_type": task_type, **options})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"adapter: settings of {method} are wrong: {error}") from error


def _freeze(encoder: PreTrainedModel, layers: Any) -> None:
    if layers in (None, "none"):
        return
    modules = find_encoder(encoder)
    depth = len(modules.layers)
    chosen = resolve_layers(layers, depth, name="adapter.freeze_layers", auto=range(depth // 2))
    for name in (*modules.embeddings, *(modules.layers[index].layer for index in chosen)):
        encoder.get_submodule(name).requires_grad_(False)
