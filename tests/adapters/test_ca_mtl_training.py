"""What is trained, in which precision, and gradients through checkpointing and functional transforms."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from taskloom.adapters import CAMTLConfig
from taskloom.errors import UserError

from .support import (
    FAMILIES,
    MODES,
    adapt,
    batch,
    encoder,
    rows,
    states,
    trained_names,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_freezing(family: str) -> None:
    base = set(dict(encoder(family).named_parameters()))

    def trained(freeze: Any) -> set[str]:
        names = trained_names(adapt(encoder(family), freeze_layers=freeze))
        assert {name for name in names if "camtl_" in name} == {
            name for name, _ in adapt(encoder(family)).named_parameters() if "camtl_" in name
        }
        names = {name.removeprefix("base_model.model.").replace(".base_layer", "") for name in names}
        return {name for name in names if "camtl_" not in name}

    frozen = {name for name in base if "embeddings" in name or ".0." in name or ".1." in name}
    assert trained("all") == set()
    assert trained("none") == trained(None) == base
    assert trained("0-1") == trained([0, 1]) == trained("auto") == base - frozen


@pytest.mark.parametrize("freeze", ["all", "0-1", None])
def test_a_classifier_is_trained_and_saved_as_peft_does(tmp_path: Path, freeze: str | None) -> None:
    auto = "AutoModelForSequenceClassification"
    base = encoder(auto=auto, dtype=torch.float32)
    adapted = get_peft_model(
        base, CAMTLConfig(num_tasks=3, max_length=8, task_type=TaskType.SEQ_CLS, freeze_layers=freeze)
    ).train()
    labels = torch.tensor([0, 1, 1, 0])
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    assert any("classifier.modules_to_save" in name for name in trained_names(adapted))
    assert not any("original_module" in name for name in trained_names(adapted))
    for _ in range(2):
        adapted(**batch(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(encoder(auto=auto, dtype=torch.float32), tmp_path)
    assert torch.equal(loaded(**batch()).logits, adapted(**batch()).logits)


def test_tied_output_embeddings_stay_frozen_with_the_embeddings() -> None:
    adapted = adapt(encoder(auto="AutoModelForCausalLM", is_decoder=True), freeze_layers="0-1")
    assert not any("word_embeddings" in name or "decoder.weight" in name for name in trained_names(adapted))


def test_reinitialised_top_layer(tmp_path: Path) -> None:
    fields = {"num_tasks": 3, "freeze_layers": "0-1", "reinit_top_layer": True}
    adapted = get_peft_model(encoder(dtype=torch.float32), CAMTLConfig(**fields))
    layers, original = adapted.get_base_model().encoder.layer, encoder(dtype=torch.float32).encoder.layer
    assert torch.equal(layers[2].intermediate.dense.weight, original[2].intermediate.dense.weight)
    assert not torch.equal(layers[3].intermediate.dense.weight, original[3].intermediate.dense.weight)
    adapted.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(encoder(dtype=torch.float32), tmp_path)
    assert torch.equal(states(loaded, batch()), states(adapted, batch()))
    with pytest.raises(UserError, match="keeps that layer from being trained"):
        get_peft_model(encoder(), CAMTLConfig(num_tasks=3, reinit_top_layer=True))


@pytest.mark.parametrize("mode", MODES)
def test_every_part_learns(mode: str) -> None:
    adapted = adapt(encoder(), bottleneck_mode=mode, norm_layers="all", bottleneck_layers="all", freeze_layers=None)
    adapted.train()(**batch()).last_hidden_state[:, 0].square().sum().backward()
    idle = {
        name for name, parameter in adapted.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    unused = {"pooler.dense.weight", "pooler.dense.bias"}  # the loss above does not use the pooler
    assert {name.removeprefix("base_model.model.") for name in idle if not name.endswith("key.bias")} == unused


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_base_with_float32_adapter(tmp_path: Path, mode: str) -> None:
    adapted = adapt(encoder(dtype=torch.bfloat16), bottleneck_mode=mode, bottleneck_layers="all")
    assert {p.dtype for name, p in adapted.named_parameters() if "camtl_" in name} == {torch.float32}
    output = states(adapted, batch())
    assert output.dtype == torch.bfloat16
    output.float().square().mean().backward()
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(encoder(dtype=torch.bfloat16), tmp_path)
    assert torch.equal(states(loaded, batch()), output)


def test_autocast() -> None:
    adapted = adapt(encoder(dtype=torch.float32)).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = states(adapted, batch()).float().square().mean()
    loss.backward()
    assert all(adapted.get_parameter(name).grad is not None for name in trained_names(adapted))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_gradient_checkpointing(mode: str, reentrant: bool) -> None:
    """Two forwards of other tasks, and an evaluation, before the backward: each is recomputed for its own tasks."""

    def make() -> PeftModel:
        return adapt(encoder(), bottleneck_mode=mode, bottleneck_layers="all", freeze_layers="0-1").train()

    def run(adapted: PeftModel) -> dict[str, Tensor]:
        inputs = batch()
        first = states(adapted, inputs).square().mean()
        second = states(adapted, {**inputs, "task": torch.tensor([0, 1, 2, 1])}).square().mean()
        with torch.no_grad():
            states(adapted, {**rows(inputs, [0, 1]), "task": torch.tensor([1, 1])})
        (first + 2 * second).backward()
        states(adapted, rows(inputs, [2])).square().mean().backward()
        return gradients(adapted)

    expected = run(make())
    adapted = make()
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    adapted.get_base_model().enable_input_require_grads()
    assert_same_gradients(run(adapted), expected)


def test_checkpointing_that_cannot_tell_the_tasks_says_so() -> None:
    adapted = adapt(encoder()).train()
    adapted.gradient_checkpointing_enable()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x):
        loss = states(adapted, batch()).square().mean()
    with pytest.raises(RuntimeError, match="cannot be told"):
        loss.backward()


def test_finished_forwards_are_forgotten() -> None:
    adapted = adapt(encoder()).train()
    for _ in range(5):
        states(adapted, batch()).square().mean().backward()
    adapted.base_model.context.start(None)
    assert len(adapted.base_model.context._state_of_input) == 0


def test_functional_transforms_give_each_examples_gradient() -> None:
    adapted = adapt(encoder())
    inputs = batch()
    # As for plain transformers, the mask must come in its additive form for vmap.
    allowed = inputs["attention_mask"].bool()[:, None, None, :]
    inputs["attention_mask"] = torch.zeros(4, 1, 11, 11).double().masked_fill(~allowed, torch.finfo(torch.float64).min)
    parameters = {name: parameter.detach() for name, parameter in adapted.named_parameters()}

    def loss(parameters: dict[str, Tensor], example: dict[str, Tensor]) -> Tensor:
        one = {name: tensor.unsqueeze(0) for name, tensor in example.items()}
        return functional_call(adapted, parameters, (), one).last_hidden_state[:, 0].square().mean()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, inputs)
    for i in range(4):
        alone = grad(loss)(parameters, rows(inputs, i))
        assert_same_gradients({name: gradient[i] for name, gradient in together.items()}, alone)
