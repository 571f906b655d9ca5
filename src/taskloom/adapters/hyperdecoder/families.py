"""Which modules of a language model the adapters stand beside, by family."""

from dataclasses import dataclass
from typing import Literal

from peft import PeftModel
from torch import nn

from taskloom.adapters.wrapping import outermost_names
from taskloom.errors import UserError

__all__ = ["Place", "Side", "Stack", "find_stacks"]

Side = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class _Tap:
    """A tensor in a layer: the input or the output of one of its modules."""

    module: str
    of: Literal["input", "output"] = "input"


@dataclass(frozen=True)
class _Names:
    """What a family calls its modules: the list of layers within a stack, the others within a layer."""

    layers: str
    #: The first module that sees a layer's input: what gradient checkpointing keeps.
    entry: str
    #: The states before and after the norm in front of the feed-forward block.
    hidden: _Tap
    normed: _Tap
    #: Where the adapter's output is added.
    sum: _Tap


# T5's feed-forward module holds its norm and its residual connection.
_T5 = _Names("block", "layer.0", _Tap("layer.-1"), _Tap("layer.-1.layer_norm", "output"), _Tap("layer.-1", "output"))
# BART's norm comes behind the block: the states that enter the block are normed already.
_BART = _Names("layers", "self_attn", _Tap("fc1"), _Tap("fc1"), _Tap("final_layer_norm"))
_LLAMA = _Names("layers", "input_layernorm", _Tap("post_attention_layernorm"), _Tap("mlp"), _Tap("mlp", "output"))
_GPT2 = _Names("h", "ln_1", _Tap("ln_2"), _Tap("mlp"), _Tap("mlp", "output"))

_FAMILIES: dict[str, _Names] = {
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "bart": _BART,
    "gpt2": _GPT2,
    "gpt_neox": _LLAMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
}


@dataclass(frozen=True)
class Place:
    """Where one layer's adapter goes; names are full names in the model as it is.

    Attributes:
        side: the stack that the layer belongs to.
        layer: the layer's number in its stack, or among those of a stack that are adapted.
        wrapped: the module that is wrapped.
        at: whether the adapter's output is added to that module's input or output.
        tap: the module at which the adapter's input is read.
        tap_at: whether it is that module's input or output.
        entry: the module that sees the layer's own input.
    """

    side: Side
    layer: int
    wrapped: str
    at: Literal["input", "output"]
    tap: str
    tap_at: Literal["input", "output"]
    entry: str


@dataclass(frozen=True)
class Stack:
    """The encoder or the decoder of a model: its name in the model and the places of its layers, in order."""

    name: str
    places: tuple[Place, ...]


def find_stacks(model: nn.Module, norm_input: bool) -> dict[Side, Stack]:
    """Return the stacks of a model: encoder and decoder, or, of a decoder-only model, the decoder alone.

    Args:
        model: a transformers model, which may be wrapped by adapters already, or the `PeftModel` around it.
        norm_input: whether adapters read the states behind the feed-forward block's norm.

    Raises UserError if the model's type is unknown or a module is missing.
    """
    config = getattr(model, "config", None)
    names = _FAMILIES.get(getattr(config, "model_type", ""))
    if names is None:
        raise UserError(
            f"Hyperdecoders do not know the modules of {type(model).__name__} (model type "
            f"'{getattr(config, 'model_type', None)}'). Known model types: {', '.join(sorted(_FAMILIES))}."
        )
    full_names = outermost_names(model)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    inner = getattr(base, "base_model", base)
    prefix = next((f"{name}." for name, module in model.named_modules() if module is inner and name), "")
    sides: tuple[Side, ...] = ("encoder", "decoder") if getattr(config, "is_encoder_decoder", False) else ("decoder",)
    stacks: dict[Side, Stack] = {}
    for side in sides:
        stack = f"{prefix}{side}" if len(sides) == 2 else prefix.removesuffix(".")
        stacks[side] = _stack(model, full_names, stack, side, names, norm_input)
    return stacks


def _stack(
    model: nn.Module, full_names: dict[str, str], name: str, side: Side, names: _Names, norm_input: bool
) -> Stack:
    path = f"{name}.{names.layers}".removeprefix(".")
    if path not in full_names:
        raise UserError(
            f"Hyperdecoders look for the {side}'s layers at '{path}', which {type(model).__name__} does not have."
        )
    tap = names.normed if norm_input else names.hidden

    def find(layer: str, module: str) -> str:
        plain = f"{layer}.{module}"
        if ".-1" in plain:  # the last of a list
            before, _, after = plain.partition(".-1")
            plain = f"{before}.{len(model.get_submodule(before)) - 1}{after}"  # type: ignore[arg-type]
        if plain not in full_names:
            raise UserError(f"Hyperdecoders look for the module '{plain}', which {type(model).__name__} does not have.")
        return full_names[plain]

    places = []
    for number in range(len(model.get_submodule(full_names[path]))):  # type: ignore[arg-type]
        layer = f"{path}.{number}"
        modules = [find(layer, module) for module in (names.sum.module, tap.module, names.entry)]
        places.append(Place(side, number, modules[0], names.sum.of, modules[1], tap.of, modules[2]))
    return Stack(name, tuple(places))
