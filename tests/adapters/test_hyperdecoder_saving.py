"""Saving, loading, switching and removing adapters."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from taskloom.adapters import HyperdecoderConfig
from tests.adapters.language_models import (
    DECODERS,
    KINDS,
    adapt,
    generate,
    language_model,
    logits,
    prompts,
    randomise,
    training_batch,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["t5", "bart", "llama", "gpt2"])
def test_save_and_load_is_bit_equal(tmp_path: Path, family: str, kind: str) -> None:
    adapted = adapt(language_model(family), encoder=kind, decoder=kind)
    adapted.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(language_model(family), str(tmp_path)).eval()
    inputs = training_batch(family)
    assert torch.equal(logits(loaded, inputs), logits(adapted, inputs))
    left = prompts(left=family in DECODERS)
    assert torch.equal(generate(loaded, left, num_beams=2), generate(adapted, left, num_beams=2))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    again = PeftModel.from_pretrained(language_model(family), str(tmp_path), is_trainable=True)
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in adapted.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("fields", [{"unfreeze_layer_norms": True}, {"unfreeze_decoder": True}, {"freeze": False}])
def test_what_is_trained_of_the_base_is_saved_too(tmp_path: Path, fields: dict[str, Any]) -> None:
    adapted = adapt(language_model("t5"), **fields)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01
    adapted.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(language_model("t5"), str(tmp_path)).eval()
    assert torch.equal(logits(loaded, training_batch("t5")), logits(adapted, training_batch("t5")))


def test_the_generator_is_saved_once_and_the_base_not(tmp_path: Path) -> None:
    adapted = adapt(language_model("t5"))
    adapted.save_pretrained(str(tmp_path))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == sum(
        p.numel() for p in adapted.parameters() if p.requires_grad
    )
    assert sum(name.endswith("hyperdecoder_generator.down.weight") for name in saved) == 1
    assert not any("base_layer" in name or "default" in name for name in saved)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "HYPERDECODER"
    assert config["decoder"] == "instance_generated"


def test_loading_needs_only_the_import_and_the_card_says_so(tmp_path: Path) -> None:
    language_model("t5").save_pretrained(str(tmp_path / "base"))
    adapt(language_model("t5")).save_pretrained(str(tmp_path / "adapter"))
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "from taskloom.adapters import HyperdecoderConfig" in card
    code = f"""
from taskloom.adapters import HyperdecoderConfig
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM
base = AutoModelForSeq2SeqLM.from_pretrained({str(tmp_path / "base")!r})
print(type(PeftModel.from_pretrained(base, {str(tmp_path / "adapter")!r}).base_model).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "HyperdecoderModel", done.stderr


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_second_adapter_of_another_kind(family: str) -> None:
    inputs = training_batch(family)
    adapted = adapt(language_model(family), decoder="instance_generated")
    first = logits(adapted, inputs)
    fields = {"num_tasks": 3, "adapter_dim": 2, "bottleneck": 5, "adapter_norm_input": True, "prompt_layer": 1}
    adapted.add_adapter("second", HyperdecoderConfig(encoder="task_generated", decoder="task_generated", **fields))
    randomise(adapted)
    adapted.set_adapter("second")
    second = logits(adapted, inputs)
    alone = adapt(language_model(family), encoder="task_generated", decoder="task_generated", **fields)
    own = dict(alone.named_parameters())
    for name, parameter in adapted.named_parameters():
        if ".second." in name:
            parameter.data = own[name.replace(".second.", ".default.")].data
    assert not torch.equal(second, first)
    torch.testing.assert_close(logits(adapted, inputs), logits(alone, inputs))
    adapted.set_adapter("default")
    randomise_first = adapt(language_model(family), decoder="instance_generated")
    own = dict(randomise_first.named_parameters())
    for name, parameter in adapted.named_parameters():
        if ".default." in name:
            parameter.data = own[name].data
    assert torch.equal(logits(adapted, inputs), first)
    adapted.delete_adapter("second")
    assert torch.equal(logits(adapted, inputs), first)


@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
def test_disabled_and_unloaded_it_is_the_base_model(family: str) -> None:
    inputs = {name: tensor for name, tensor in training_batch(family).items() if name != "task"}
    plain = logits(language_model(family), inputs)
    adapted = adapt(language_model(family), encoder="instance_generated")
    assert not torch.allclose(logits(adapted, inputs), plain)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, inputs), plain)
    base = adapted.unload()
    assert torch.equal(logits(base, inputs), plain)
    left = prompts(left=family in DECODERS)
    del left["task"]
    assert torch.equal(generate(base, left), generate(language_model(family), left))
    hooks = [module for module in base.modules() if module._forward_pre_hooks or module._forward_hooks]
    assert not hooks


def test_it_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="Hyperdecoder adapter cannot be merged"):
        adapt(language_model("t5")).merge_and_unload()


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_deep_copy_is_independent(family: str) -> None:
    inputs = training_batch(family)
    left = prompts(left=family in DECODERS)
    adapted = adapt(language_model(family))
    expected, tokens = logits(adapted, inputs), generate(adapted, left)
    copied = copy.deepcopy(adapted)
    for name, parameter in adapted.named_parameters():
        if "hyperdecoder_" in name:
            parameter.data.zero_()
    assert torch.equal(logits(copied, inputs), expected)
    assert torch.equal(generate(copied, left), tokens)
    assert not torch.equal(logits(adapted, inputs), expected)
