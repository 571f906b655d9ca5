"""What can be set about Hyperdecoders (Ivison and Peters, 2022, arXiv 2203.08304). Needs no torch."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from taskloom.errors import UserError, did_you_mean

__all__ = ["ADAPTER_KINDS", "AdapterKind", "HyperdecoderSettings"]

#: Where a layer's adapter weights come from.
AdapterKind = Literal["none", "shared", "per_task", "task_generated", "instance_generated"]
ADAPTER_KINDS: tuple[str, ...] = get_args(AdapterKind)
#: What the published code calls them, and the name here.
PUBLISHED_NAMES = {
    "manual": "shared",
    "manual_specific": "per_task",
    "task": "task_generated",
    "generated": "instance_generated",
}

_KIND_HELP = (
    "none; shared by all examples; per_task: one for each task; task_generated: generated from a task embedding; "
    "instance_generated: generated for each example"
)


@dataclass
class HyperdecoderSettings:
    """The fields of Hyperdecoders, shared by the recipe and by the PEFT configuration."""

    encoder: AdapterKind = field(
        default="shared",
        metadata={
            "help": f"Adapters of the encoder: {_KIND_HELP}, by a first pass. Decoder-only models ignore it.",
            "published": PUBLISHED_NAMES,
        },
    )
    decoder: AdapterKind = field(
        default="instance_generated",
        metadata={
            "help": f"Adapters of the decoder: {_KIND_HELP}, from the encoder's states or the prompt's.",
            "published": PUBLISHED_NAMES,
        },
    )
    num_tasks: int | None = field(
        default=None,
        metadata={"help": "Number of tasks, for per_task and task_generated; `task` counts from 0 to num_tasks - 1."},
    )
    adapter_dim: int = field(default=64, metadata={"help": "Width of the adapters (units)."})
    encoder_adapter_dim: int | None = field(
        default=None, metadata={"help": "Width of the encoder's adapters (units). Default: adapter_dim."}
    )
    decoder_adapter_dim: int | None = field(
        default=None, metadata={"help": "Width of the decoder's adapters (units). Default: adapter_dim."}
    )
    bottleneck: int = field(default=128, metadata={"help": "Width of the generators' hidden layer (units)."})
    layer_embedding_dim: int = field(
        default=10, metadata={"help": "Width of the layer embedding that a generator sees beside its input (units)."}
    )
    adapter_norm_input: bool = field(
        default=False,
        metadata={"help": "Feed adapters with the normed states that the feed-forward block sees, not those before."},
    )
    process_encoder_output: bool = field(
        default=True, metadata={"help": "instance_generated: put the pooled states through Linear-ReLU-Linear first."}
    )
    prompt_layer: int | None = field(
        default=None,
        metadata={
            "help": "Decoder-only models: layers (count) below the adapters; instance_generated pools the prompt's "
            "normed states there. Default: half of the layers for instance_generated, 0 for the others."
        },
    )
    adapt_prompt: bool = field(
        default=False,
        metadata={
            "help": "Decoder-only models: adapt the prompt's positions too, not only the last one, which predicts "
            "the answer's first token, and those of the answer."
        },
    )
    recompute: bool = field(
        default=True,
        metadata={
            "help": "Generate a layer's weights again in the backward pass, so that training holds those of one "
            "layer at a time."
        },
    )
    freeze: bool = field(default=True, metadata={"help": "Keep the base model as pretrained."})
    unfreeze_layer_norms: bool = field(default=False, metadata={"help": "Train the base model's layer norms too."})
    unfreeze_encoder: bool = field(default=False, metadata={"help": "Train the base model's encoder too."})
    unfreeze_decoder: bool = field(default=False, metadata={"help": "Train the base model's decoder too."})
    unfreeze_encoder_adapters: bool = field(
        default=True, metadata={"help": "Train the encoder's adapters and their generator."}
    )
    unfreeze_decoder_adapters: bool = field(
        default=True, metadata={"help": "Train the decoder's adapters and their generator."}
    )

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            value = getattr(self, name)
            if value not in ADAPTER_KINDS:
                here = PUBLISHED_NAMES.get(str(value))
                advice = f" It is called '{here}' here." if here else did_you_mean(str(value), ADAPTER_KINDS)
                raise UserError(f"`{name}` is {value!r}.{advice}")
        optional = ("num_tasks", "encoder_adapter_dim", "decoder_adapter_dim", "prompt_layer")
        for name in (*optional, "adapter_dim", "bottleneck", "layer_embedding_dim"):
            value = getattr(self, name)
            least = 0 if name == "prompt_layer" else 1
            if not (value is None and name in optional) and (type(value) is not int or value < least):
                raise UserError(f"`{name}` must be a whole number of at least {least}, found {value!r}.")

    def width(self, side: Literal["encoder", "decoder"]) -> int:
        """Return the width (units) of the adapters of one side."""
        own: int | None = getattr(self, f"{side}_adapter_dim")
        return self.adapter_dim if own is None else own

    def require_tasks(self, side: Literal["encoder", "decoder"]) -> int:
        """Return the number of tasks; raises UserError where `side` needs it and it is not given."""
        if self.num_tasks is None:
            raise UserError(f"`{side}` is '{getattr(self, side)}', which needs the number of tasks: give `num_tasks`.")
        return self.num_tasks
