"""CA-MTL as a PEFT adapter: saved, loaded, one of several, disabled, removed, copied."""

import copy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from taskloom.adapters import CAMTLConfig

from .support import (
    MODES,
    WITHOUT_TASK,
    adapt,
    batch,
    encoder,
    randomise,
    states,
    trained_names,
)


@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("freeze", ["all", "0-1", None])
def test_save_and_load_is_bit_equal(tmp_path: Path, mode: str, freeze: str | None, with_gradients: bool) -> None:
    fields = {"bottleneck_mode": mode, "bottleneck_layers": "all", "freeze_layers": freeze}
    adapted = adapt(encoder(dtype=torch.float32), **fields)
    for name in trained_names(adapted):
        adapted.get_parameter(name).data.add_(0.01)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(encoder(dtype=torch.float32), tmp_path)
    assert isinstance(loaded.peft_config["default"], CAMTLConfig)
    assert loaded.peft_config["default"].bottleneck_mode == mode
    assert not trained_names(loaded)
    with torch.set_grad_enabled(with_gradients):
        assert torch.equal(states(loaded, batch()), states(adapted, batch()))
    again = PeftModel.from_pretrained(encoder(dtype=torch.float32), tmp_path, is_trainable=True)
    assert trained_names(again) == trained_names(adapted)


def test_only_the_adapter_is_saved_and_by_the_base_models_names(tmp_path: Path) -> None:
    from safetensors import safe_open

    for freeze, layers in (("all", set()), ("0-2", {"encoder.layer.3"})):
        adapt(encoder(), freeze_layers=freeze, bottleneck_mode="chain", bottleneck_layers="all").save_pretrained(
            tmp_path
        )
        with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
            names = [name.removeprefix("base_model.model.") for name in file.keys()]  # noqa: SIM118
        base = {name for name in names if "camtl_" not in name}
        assert base <= set(encoder().state_dict())
        assert {".".join(name.split(".")[:3]) for name in base if name.startswith("encoder")} == layers
        assert any(name.startswith("pooler") for name in base) == (freeze != "all")


def test_the_model_card_says_how_to_load(tmp_path: Path) -> None:
    adapted = adapt(encoder())
    adapted.save_pretrained(tmp_path)
    adapted.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.count("from taskloom.adapters import CAMTLConfig") == 1
    assert "library_name: peft" in card
    assert "0 to 2" in card


def test_loading_needs_only_the_import_even_before_peft(tmp_path: Path) -> None:
    adapt(encoder(dtype=torch.float32)).save_pretrained(tmp_path / "adapter")
    encoder(dtype=torch.float32).save_pretrained(tmp_path / "base")
    code = (
        "from taskloom.adapters import CAMTLConfig\nimport peft\nfrom transformers import AutoModel\n"
        f"base = AutoModel.from_pretrained({str(tmp_path / 'base')!r})\n"
        f"print(type(peft.PeftModel.from_pretrained(base, {str(tmp_path / 'adapter')!r}).base_model).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "CAMTLModel", done.stderr


@pytest.mark.parametrize("second_mode", MODES)
def test_a_second_adapter(tmp_path: Path, second_mode: str) -> None:
    second = {"bottleneck_mode": second_mode, "bottleneck_layers": "all", "num_tasks": 5, "norm_layers": None}
    alone = states(adapt(encoder(), seed=8, **second), batch())
    adapted = adapt(encoder())
    first = states(adapted, batch())
    adapted.add_adapter("second", CAMTLConfig(max_length=8, **second))
    assert torch.equal(states(adapted, batch()), first)
    assert all(".default." in name for name in trained_names(adapted))
    weights = dict(adapt(encoder(), seed=8, **second).named_parameters())
    for name, parameter in adapted.named_parameters():
        if ".second." in name:
            plain = name.replace(".second.", ".default.")
            parameter.data.copy_(weights[plain] if plain in weights else weights[plain.replace(".base_layer", "")])
    adapted.set_adapter("second")
    torch.testing.assert_close(states(adapted, batch()), alone)
    assert all(".second." in name for name in trained_names(adapted))
    adapted.save_pretrained(tmp_path)
    for folder, expected in ((tmp_path, first), (tmp_path / "second", alone)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PEFT warns of missing weights
            loaded = PeftModel.from_pretrained(encoder(), folder)
        torch.testing.assert_close(states(loaded, batch()), expected)
    adapted.delete_adapter("second")
    adapted.set_adapter("default")
    assert torch.equal(states(adapted, batch()), first)


def test_loading_a_second_adapter(tmp_path: Path) -> None:
    one, two = adapt(encoder(), seed=1), adapt(encoder(), seed=2, bottleneck_mode="chain")
    expected = states(two, batch())
    two.save_pretrained(tmp_path)
    one.load_adapter(tmp_path, "two")
    one.set_adapter("two")
    torch.testing.assert_close(states(one, batch()), expected)


def test_one_adapter_at_a_time_and_only_one_that_trains_the_base() -> None:
    adapted = adapt(encoder())
    adapted.add_adapter("second", CAMTLConfig(num_tasks=3))
    with pytest.raises(ValueError, match="one adapter at a time"):
        adapted.base_model.set_adapter(["default", "second"])
    with pytest.raises(ValueError, match="base model of its own"):
        adapted.add_adapter("third", CAMTLConfig(num_tasks=3, freeze_layers="0-1"))
    assert set(adapted.peft_config) == {"default", "second"}


@pytest.mark.parametrize("mode", MODES)
def test_disabled_and_unloaded_it_is_the_base_model(mode: str) -> None:
    expected = encoder()(**WITHOUT_TASK).last_hidden_state
    adapted = adapt(encoder(), bottleneck_mode=mode, bottleneck_layers="all")
    with adapted.disable_adapter():
        assert torch.equal(adapted(**WITHOUT_TASK).last_hidden_state, expected)
        assert torch.equal(adapted(**batch()).last_hidden_state, expected)
    assert not torch.equal(adapted(**batch()).last_hidden_state, expected)
    unloaded = adapted.unload()
    assert list(unloaded.state_dict()) == list(encoder().state_dict())
    assert torch.equal(unloaded(**WITHOUT_TASK).last_hidden_state, expected)
    assert not unloaded._forward_pre_hooks


def test_disabling_warns_where_the_base_was_trained() -> None:
    adapted = adapt(encoder(), freeze_layers="0-1")
    with pytest.warns(UserWarning, match="trained parameters of the base model"), adapted.disable_adapter():
        pass


def test_it_cannot_be_merged() -> None:
    adapted = adapt(encoder())
    for merge in (adapted.merge_and_unload, adapted.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()
    states(adapted, batch())


def test_a_deep_copy_is_independent() -> None:
    adapted = adapt(encoder(auto="AutoModelForCausalLM", is_decoder=True))
    expected = adapted(**batch()).logits
    copied = copy.deepcopy(adapted)
    randomise(copied, seed=11)
    assert torch.equal(adapted(**batch()).logits, expected)
    assert not torch.equal(copied(**batch()).logits, expected)
    copied.base_model.context.start(None)
    assert adapted.base_model.context._state is not None
    assert copied.get_base_model().generate.model is copied.get_base_model()
