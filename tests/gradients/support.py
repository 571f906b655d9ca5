"""Tiny models of each kind, and the plain loop that their per-example gradients are checked against."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

BATCH, TOKENS, VOCABULARY = 5, 7, 23


def loop_gradients(
    model: nn.Module, batch: Any, loss_fn: Callable, forward: Callable | None = None
) -> dict[str, Tensor]:
    """One call of `autograd.grad` an example."""
    forward = forward or (lambda model, batch: model(**batch))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    values = loss_fn(forward(model, batch), batch)
    rows = [
        torch.autograd.grad(v, list(named.values()), retain_graph=True, allow_unused=True, materialize_grads=True)
        for v in values
    ]
    return {name: torch.stack(parts) for name, parts in zip(named, zip(*rows, strict=True), strict=True)}


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], relative: float = 1e-5) -> None:
    """Equal names, and each parameter's gradients within `relative` of its largest entry, unless that is noise."""
    assert list(found) == list(expected)
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        scale = max(float(value.abs().max()), 1e-2 * largest)
        error = float((found[name] - value).abs().max()) / scale
        assert error < relative, f"{name}: {error:.1e}"


def text_batch(seed: int = 0) -> dict[str, Tensor]:
    """Right-padded examples of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([7, 3, 5, 2, 6]).unsqueeze(1)
    mask = (torch.arange(TOKENS) < lengths).long()
    ids = torch.randint(1, VOCABULARY, (BATCH, TOKENS), generator=generator) * mask
    return {"input_ids": ids, "attention_mask": mask}


def pair_batch() -> dict[str, Tensor]:
    """A source and an answer of other lengths, for encoder-decoders."""
    answers = torch.tensor(
        [[3, 4, 5, -100], [6, -100, -100, -100], [7, 8, -100, -100], [3, 3, 3, 3], [9, 1, -100, -100]]
    )
    return text_batch() | {"labels": answers}


def first_logit(outputs: Any, batch: Any) -> Tensor:
    return outputs.logits[:, 1] - outputs.logits[:, 0]


def language_loss(outputs: Any, batch: Any) -> Tensor:
    """The summed loss of each example's next tokens (or of its labels)."""
    if "labels" in batch:
        logits, labels = outputs.logits, batch["labels"]
    else:
        logits = outputs.logits[:, :-1]
        labels = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
    return F.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none").sum(1)


def randomised(model: nn.Module) -> nn.Module:
    """Give norms, biases and adapters values that hide no mistake."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def bert(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **settings,
    )  # fmt: skip
    return randomised(BertForSequenceClassification(config))


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=12, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return randomised(GPT2LMHeadModel(config))


def llama(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, bos_token_id=1, eos_token_id=1, **settings,
    )  # fmt: skip
    return randomised(LlamaForCausalLM(config))


def t5(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=12, d_kv=6, d_ff=16, num_layers=2, num_heads=2, dropout_rate=0.0,
        relative_attention_num_buckets=6, relative_attention_max_distance=8, decoder_start_token_id=0, **settings,
    )  # fmt: skip
    return randomised(T5ForConditionalGeneration(config))


class GraphHead(nn.Module):
    """SIGN's shape: a linear layer, batch norm and PReLU a hop, then a joint linear layer."""

    def __init__(self, hops: int = 2, features: int = 4, width: int = 6, outputs: int = 3) -> None:
        super().__init__()
        self.hops = nn.ModuleList(nn.Linear(features, width) for _ in range(hops))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(hops))
        self.slope = nn.PReLU(width)
        self.joint_slope = nn.PReLU()
        self.joint = nn.Linear(hops * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hops = [
            self.slope(norm(linear(x[:, i])))
            for i, (linear, norm) in enumerate(zip(self.hops, self.norms, strict=True))
        ]
        return self.joint(self.joint_slope(torch.cat(hops, dim=-1)))
