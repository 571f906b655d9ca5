"""Per-example gradients against the plain loop, architecture by architecture."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from taskloom.gradients import per_example_gradients
from tests.gradients.support import (
    GraphHead,
    assert_same,
    bert,
    first_logit,
    gpt2,
    language_loss,
    llama,
    loop_gradients,
    pair_batch,
    randomised,
    t5,
    text_batch,
)

CASES = {
    "bert": (bert, text_batch, first_logit),
    "gpt2 with tied head": (gpt2, text_batch, language_loss),
    "llama": (llama, text_batch, language_loss),
    "llama with tied head": (lambda: llama(tie_word_embeddings=True), text_batch, language_loss),
    "t5": (t5, pair_batch, language_loss),
    "t5 gated, untied": (
        lambda: t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        pair_batch,
        language_loss,
    ),
}
TARGETS = {
    "bert": ["query", "value", "word_embeddings"],
    "gpt2": ["c_attn", "wte"],
    "llama": ["q_proj", "down_proj"],
    "t5": ["q", "wo"],
}


@pytest.mark.parametrize("case", CASES)
def test_whole_models(case: str) -> None:
    make, batch, loss = CASES[case]
    model = make()
    assert_same(per_example_gradients(model, batch(), loss), loop_gradients(model, batch(), loss))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("family", TARGETS)
def test_lora(family: str) -> None:
    make, batch, loss = next(case for name, case in CASES.items() if name.startswith(family))
    model = get_peft_model(make(), LoraConfig(r=3, target_modules=TARGETS[family], lora_dropout=0.1))
    randomised(model)
    assert_same(per_example_gradients(model, batch(), loss), loop_gradients(model, batch(), loss))


def test_graph_head() -> None:
    model = GraphHead()
    model(torch.randn(20, 2, 4))  # running statistics of some data
    randomised(model)
    batch = (torch.randn(6, 2, 4), torch.randint(3, (6,)))

    def loss(outputs: torch.Tensor, batch: tuple) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, batch[1], reduction="none")

    expected = loop_gradients(model, batch, loss, lambda model, batch: model(batch[0]))
    assert_same(per_example_gradients(model, batch, loss), expected)
