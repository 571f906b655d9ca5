"""Tiny T5s with our adapters and with the published construction's, both with the same random weights."""

import copy
import functools
import re
from typing import Any

import torch
from benchmarks.reference.hyperdecoder import PublishedHyperdecoder
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from taskloom.adapters import HyperdecoderConfig

VOCABULARY, NUM_TASKS = 30, 3
ADAPTER_DIM = 5
PUBLISHED_NAMES = {
    "none": "none",
    "shared": "manual",
    "per_task": "manual_specific",
    "task_generated": "task",
    "instance_generated": "generated",
}
KINDS = list(PUBLISHED_NAMES)

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "initializer_factor": 2.0,  # with it a random model's answers differ between inputs
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
FAMILIES = ("t5", "t5-v1_1", "mt5")


@functools.cache
def _base(family: str) -> T5ForConditionalGeneration | MT5ForConditionalGeneration:
    torch.manual_seed(0)
    if family == "mt5":
        model = MT5ForConditionalGeneration(MT5Config(**_SIZES, **_GATED))
    else:
        model = T5ForConditionalGeneration(T5Config(**_SIZES, **(_GATED if family == "t5-v1_1" else {})))
    return model.double()


def adapted_t5(family: str = "t5", seed: int = 3, task_type: str | None = "SEQ_2_SEQ_LM", **fields: Any) -> PeftModel:
    """Return a T5 with adapters whose weights are random and large, so that each of them has an effect."""
    config = HyperdecoderConfig(
        adapter_dim=ADAPTER_DIM, bottleneck=6, num_tasks=NUM_TASKS, task_type=task_type, **fields
    )
    adapted = get_peft_model(copy.deepcopy(_base(family)), config).double()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in published_names(adapted).items():
        weight = as_published(name, parameter.data)
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return adapted


_OURS = re.compile(r"base_model\.model\.(\w+)\.block\.(\d+)\.layer\.(\d)\.hyperdecoder_(\w+)\.default\.(.+)")


def published_names(adapted: PeftModel) -> dict[str, nn.Parameter]:
    """Return the adapters' parameters by the names that they have in the published construction."""
    parameters = {}
    for name, parameter in adapted.named_parameters():
        if "hyperdecoder_" not in name:
            continue
        side, block, layer, part, rest = _OURS.fullmatch(name).groups()
        match part:
            case "shared":
                published = f"{side}.block.{block}.layer.{layer}.adapter.{rest}"
            case "tasks":
                published = f"{side}.task_adapters.{block}.{rest.removesuffix('.weight')}"
            case _ if rest.startswith(("mlp", "task_embedding")):
                published = f"{side}.{rest}"
            case _:
                published = f"{side}.generator.{rest.replace('input', 'bottleneck')}"
        assert published not in parameters
        parameters[published] = parameter
    return parameters


def as_published(name: str, tensor: Tensor) -> Tensor:
    """Return a parameter, or its gradient, in the published shape.

    Our generators' large maps are transposed, and the matrices of tasks are the rows of a table.
    """
    if "task_adapters" in name:
        sizes = {"down": (NUM_TASKS, -1, ADAPTER_DIM), "up": (NUM_TASKS, ADAPTER_DIM, -1)}
        return tensor.view(sizes.get(name.rpartition(".")[2], tensor.shape))
    return tensor.T if re.search(r"generator\.(down|up)(_bias)?\.weight", name) else tensor


def published_t5(adapted: PeftModel, family: str = "t5") -> PublishedHyperdecoder:
    """Return the published construction with the weights of `adapted`, strictly all of them."""
    ours: HyperdecoderConfig = adapted.peft_config["default"]
    base = _base(family)
    config = T5Config.from_dict({**base.config.to_dict(), "model_type": "t5"})
    config.scale_decoder_outputs = getattr(base.config, "scale_decoder_outputs", False)  # mT5 never does
    published = PublishedHyperdecoder(
        config,
        encoder=PUBLISHED_NAMES[ours.encoder],
        decoder=PUBLISHED_NAMES[ours.decoder],
        encoder_adapter_dim=ours.width("encoder"),
        decoder_adapter_dim=ours.width("decoder"),
        bottleneck=ours.bottleneck,
        num_tasks=NUM_TASKS,
        adapter_norm_input=ours.adapter_norm_input,
        process_encoder_output=ours.process_encoder_output,
    ).double()
    added = published_names(adapted)
    assert set(published.added_parameters()) == set(added)
    published.load_state_dict(base.state_dict() | {name: as_published(name, p.detach()) for name, p in added.items()})
    published.requires_grad_(False)
    for parameter in published.added_parameters().values():
        parameter.requires_grad_()
    return published


def pair(family: str = "t5", **fields: Any) -> tuple[PeftModel, PublishedHyperdecoder]:
    adapted = adapted_t5(family, **fields)
    return adapted, published_t5(adapted, family)


def batch(rows: int = 4, seed: int = 1) -> dict[str, Tensor]:
    """Return padded sources of several tasks, and targets."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(2, VOCABULARY, (rows, 7), generator=generator)
    lengths = torch.randint(2, 8, (rows, 1), generator=generator)
    attention_mask = (torch.arange(7) < lengths).long()
    return {
        "input_ids": input_ids * attention_mask,
        "attention_mask": attention_mask,
        "task": torch.arange(rows) * 2 % NUM_TASKS,
        "labels": torch.randint(2, VOCABULARY, (rows, 3), generator=generator),
    }


def of_rows(inputs: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor[rows] for name, tensor in inputs.items()}
