"""Tiny random language models of each family that Hyperdecoders know, adapters with random weights, and batches."""

from typing import Any

import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from taskloom.adapters import HyperdecoderConfig

VOCABULARY, HIDDEN, LAYERS, HEADS, TASKS = 40, 16, 3, 2, 3
ENDS: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1}

_T5 = {
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "num_heads": HEADS,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
_GATED = {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART = {
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "bos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
_LLAMA = {
    "hidden_size": HIDDEN,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "head_dim": 8,
    "attention_dropout": 0.0,
}
_GPT2 = {
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.3,
}
_NEOX = {name: value for name, value in _LLAMA.items() if name not in ("num_key_value_heads", "head_dim")}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", _T5),
    "t5-gated": ("T5", _GATED),
    "mt5": ("MT5", _GATED),
    "bart": ("Bart", _BART),
    "llama": ("Llama", _LLAMA),
    "mistral": ("Mistral", _LLAMA),
    "qwen2": ("Qwen2", _LLAMA),
    "qwen3": ("Qwen3", _LLAMA),
    "smollm3": ("SmolLM3", _LLAMA),
    "gpt2": ("GPT2", _GPT2),
    "gpt_neox": ("GPTNeoX", _NEOX),
}
ENCODER_DECODERS = ["t5", "t5-gated", "mt5", "bart"]
DECODERS = ["llama", "mistral", "qwen2", "qwen3", "smollm3", "gpt2", "gpt_neox"]
KINDS = ["shared", "per_task", "task_generated", "instance_generated"]


def language_model(family: str, attention: str = "sdpa", dtype: torch.dtype = torch.float64, **fields: Any) -> Any:
    """Return a tiny model, the same one whenever it is called with the same arguments; exact to many digits."""
    name, sizes = _CONFIGS[family]
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, **ENDS, **{**sizes, **fields})
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation=attention).to(dtype).eval()
    if family in ("t5", "t5-gated", "mt5"):  # whose own start is too even for beams to differ
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    return model


def adapt(model: nn.Module, **fields: Any) -> PeftModel:
    """Return the adapted model with random weights, so that every part matters; the weights are always the same."""
    settings = {"num_tasks": TASKS, "adapter_dim": 4, "bottleneck": 6, "layer_embedding_dim": 3, **fields}
    adapted = get_peft_model(model, HyperdecoderConfig(**settings))
    randomise(adapted)
    return adapted.eval()


def randomise(model: nn.Module, seed: int = 3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "hyperdecoder_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter) * 0.4


def prompts(left: bool) -> dict[str, Tensor]:
    """Return four prompts of several tasks and lengths, padded on the left or on the right."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, VOCABULARY, (4, 7), generator=generator)
    lengths = torch.tensor([7, 4, 6, 2])
    columns = torch.arange(7)
    mask = columns >= 7 - lengths[:, None] if left else columns < lengths[:, None]
    return {
        "input_ids": input_ids * mask,
        "attention_mask": mask.long(),
        "task": torch.tensor([0, 2, 1, 2]),
    }


def training_batch(family: str) -> dict[str, Tensor]:
    """Return prompts with answers: of a decoder-only model behind the prompts, with labels on the answers alone."""
    generator = torch.Generator().manual_seed(2)
    answers = torch.randint(3, VOCABULARY, (4, 3), generator=generator)
    if family in ENCODER_DECODERS:
        return {**prompts(left=False), "labels": answers}
    batch = prompts(left=True)
    return {
        "input_ids": torch.cat([batch["input_ids"], answers], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.ones_like(answers)], dim=1),
        "task": batch["task"],
        "labels": torch.cat([torch.full_like(batch["input_ids"], -100), answers], dim=1),
    }


def rows(inputs: dict[str, Tensor], chosen: Any) -> dict[str, Tensor]:
    return {name: tensor[chosen] for name, tensor in inputs.items()}


def logits(model: nn.Module, inputs: dict[str, Any], **more: Any) -> Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False, **more).logits


def generate(model: Any, inputs: dict[str, Tensor], **settings: Any) -> Tensor:
    """Generate five tokens; what comes out is padded to the same width whatever is generated."""
    settings = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **settings}
    return model.generate(**inputs, **settings)
