"""Which parameters the last blocks have, in each kind of model, by their names and by what depends on them."""

import pytest
from peft import LoraConfig, get_peft_model

from taskloom.errors import RecipeError
from taskloom.online.trained_parameters import train_only, trained_parameters
from tests.gradients.meta_support import gpt2, llama, neox, qwen2

#: Of each kind: a block's name, and what follows the blocks but for the head.
KINDS = {
    "gpt2": (gpt2, "transformer.h.{}.", ("transformer.ln_f.",)),
    "llama": (llama, "model.layers.{}.", ("model.norm.",)),
    "neox": (neox, "gpt_neox.layers.{}.", ("gpt_neox.final_layer_norm.",)),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_blocks_and_what_follows_them(kind, tied):
    make, block, behind = KINDS[kind]
    model = make(tie_word_embeddings=tied)
    head = model.get_output_embeddings().weight
    assert (head is model.get_input_embeddings().weight) == tied
    found = trained_parameters(model, 1)
    expected = {name for name, _ in model.named_parameters() if name.startswith((block.format(1), *behind))}
    expected |= {name for name, p in model.named_parameters() if p is head and not tied}
    assert found.keys() == expected
    every = trained_parameters(model)
    assert every.keys() == dict(model.named_parameters()).keys()
    both = trained_parameters(model, 2).keys()
    below = {name for name, p in model.named_parameters() if p is model.get_input_embeddings().weight}
    assert both == every.keys() - below - {"transformer.wpe.weight"}


def test_qwen_shares_its_embeddings():
    names = trained_parameters(qwen2(), 1).keys()
    assert "model.norm.weight" in names
    assert all(name.startswith(("model.layers.1.", "model.norm.")) for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_of_an_adapter_what_the_last_blocks_have(kind):
    make, block, _ = KINDS[kind]
    model = get_peft_model(make(), LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out=kind == "gpt2"))
    model.enable_input_require_grads()
    names = trained_parameters(model, 1).keys()
    assert names
    assert names == {name for name, _ in model.named_parameters() if "lora_" in name and block.format(1) in name}
    assert len(trained_parameters(model)) == 2 * len(names)


def test_blocks_that_recompute_their_activations():
    model = llama()
    expected = trained_parameters(model, 1).keys()
    model.train()
    model.gradient_checkpointing_enable()
    assert trained_parameters(model, 1).keys() == expected


def test_frozen_parameters_stay_so():
    model = llama()
    model.model.norm.weight.requires_grad_(False)
    assert "model.norm.weight" not in trained_parameters(model, 1)
    train_only(model, 1, "adapt.layers")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == trained_parameters(model, 1).keys() == trained_parameters(model).keys()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="there is nothing to update"):
        trained_parameters(model, 1)
    with pytest.raises(RecipeError, match=r"adapt\.layers: `layers` must be from 1 to 2, the blocks of the model"):
        train_only(model, 3, "adapt.layers")


def test_no_gradient_and_no_mode_is_left_behind():
    model = gpt2(resid_pdrop=0.5).train()
    trained_parameters(model, 1)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
