"""Hyperdecoders against the published construction: the same logits, gradients and generated tokens."""

from typing import Any

import pytest
import torch
from benchmarks.reference.hyperdecoder import PublishedHyperdecoder
from peft import PeftModel
from torch import Tensor
from transformers import T5ForConditionalGeneration

from .hyperdecoder_pairs import (
    FAMILIES,
    KINDS,
    NUM_TASKS,
    adapted_t5,
    as_published,
    batch,
    of_rows,
    pair,
    published_names,
)

#: Without any adapter there is nothing for PEFT to add; the published construction is plain T5 then, as tested below.
COMBINATIONS = [(encoder, decoder) for encoder in KINDS for decoder in KINDS if {encoder, decoder} != {"none"}]
GENERATED = [
    ("shared", "instance_generated"),
    ("instance_generated", "instance_generated"),
    ("task_generated", "task_generated"),
    ("per_task", "per_task"),
    ("instance_generated", "shared"),
    ("none", "task_generated"),
]
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}


def variants(encoder: str, decoder: str) -> list[dict[str, Any]]:
    """Return the settings that matter for a combination."""
    processed = (True, False) if "instance_generated" in (encoder, decoder) else (True,)
    return [
        {"adapter_norm_input": norm, "process_encoder_output": process}
        for norm in (False, True)
        for process in processed
    ]


def assert_same(adapted: PeftModel, published: PublishedHyperdecoder, inputs: dict[str, Tensor]) -> None:
    """Compare logits and the gradient of every parameter of the adapters."""
    ours, theirs = adapted(**inputs), published(**inputs)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-6, atol=1e-6)
    parameters = published_names(adapted)
    expected = torch.autograd.grad(theirs.loss, list(published.added_parameters().values()))
    adapted.zero_grad()
    ours.loss.backward()
    for (name, gradient), parameter in zip(
        zip(published.added_parameters(), expected, strict=True),
        [parameters[name] for name in published.added_parameters()],
        strict=True,
    ):
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        found = as_published(name, parameter.grad)
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("encoder", "decoder"), COMBINATIONS)
def test_same_logits_and_gradients(encoder: str, decoder: str) -> None:
    for fields in variants(encoder, decoder):
        adapted, published = pair(encoder=encoder, decoder=decoder, **fields)
        for training in (False, True):
            assert_same(adapted.train(training), published.train(training), batch())


@pytest.mark.parametrize("family", FAMILIES[1:])
@pytest.mark.parametrize("fields", [{}, {"adapter_norm_input": True, "recompute": False}], ids=["plain", "norm"])
@pytest.mark.parametrize(("encoder", "decoder"), [("shared", "instance_generated"), ("instance_generated", "per_task")])
def test_gated_and_untied_families(family: str, fields: dict[str, Any], encoder: str, decoder: str) -> None:
    adapted, published = pair(family, encoder=encoder, decoder=decoder, **fields)
    assert_same(adapted.train(), published.train(), batch())


@pytest.mark.parametrize("recompute", [True, False])
def test_sizes_of_their_own(recompute: bool) -> None:
    fields = {"encoder_adapter_dim": 3, "decoder_adapter_dim": 7, "recompute": recompute}
    adapted, published = pair(encoder="instance_generated", decoder="instance_generated", **fields)
    assert_same(adapted.train(), published.train(), batch())


@pytest.mark.parametrize(("encoder", "decoder"), GENERATED)
def test_batches_of_one(encoder: str, decoder: str) -> None:
    adapted, published = pair(encoder=encoder, decoder=decoder)
    whole = adapted.eval()(**batch()).logits
    for i in range(4):
        inputs = of_rows(batch(), slice(i, i + 1))
        assert_same(adapted, published.eval(), inputs)
        torch.testing.assert_close(adapted(**inputs).logits, whole[i : i + 1])


def test_without_a_mask_every_token_counts() -> None:
    adapted, published = pair(encoder="instance_generated")
    inputs = {name: tensor for name, tensor in batch().items() if name != "attention_mask"}
    expected = published(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits
    torch.testing.assert_close(adapted(**inputs).logits, expected, rtol=1e-6, atol=1e-6)


def test_published_without_adapters_is_plain_t5() -> None:
    _, adapted = pair(decoder="none")
    published = PublishedHyperdecoder(adapted.config, encoder="none", decoder="none").double()
    plain = T5ForConditionalGeneration(published.config).double()
    plain.load_state_dict(published.state_dict())
    inputs = batch()
    task = inputs.pop("task")
    torch.testing.assert_close(published(**inputs, task=task).logits, plain(**inputs).logits, rtol=0, atol=0)


def generated(model: Any, rows: int = 4, seed: int = 1, **options: Any) -> Tensor:
    inputs = batch(rows, seed)
    del inputs["labels"]
    torch.manual_seed(5)
    return model.generate(**inputs, **{"max_new_tokens": 8, **options})


@pytest.mark.parametrize(("encoder", "decoder"), GENERATED)
@pytest.mark.parametrize("mode", MODES)
def test_same_tokens(encoder: str, decoder: str, mode: str) -> None:
    adapted, published = (model.eval() for model in pair(encoder=encoder, decoder=decoder))
    expected = generated(published, **MODES[mode])
    assert torch.equal(generated(adapted, **MODES[mode]), expected)
    assert len(expected.unique(dim=0)) > 1
    # Texts of another length and number follow, then the first again.
    assert torch.equal(generated(adapted, 3, 2, **MODES[mode]), generated(published, 3, 2, **MODES[mode]))
    assert torch.equal(generated(adapted, **MODES[mode]), expected)


@pytest.mark.parametrize("fields", [{"task_type": None}, {"adapter_norm_input": True}, {"family": "t5-v1_1"}])
@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_same_tokens_with_other_settings(fields: dict[str, Any], mode: str) -> None:
    adapted, published = (model.eval() for model in pair(decoder="instance_generated", **fields))
    assert torch.equal(generated(adapted, **MODES[mode]), generated(published, **MODES[mode]))


@pytest.mark.parametrize("mode", ["greedy", "beams"])
@pytest.mark.parametrize("options", [{"use_cache": False}, {"min_new_tokens": 8}, {"repetition_penalty": 1.5}])
def test_same_tokens_with_other_options(options: dict[str, Any], mode: str) -> None:
    adapted, published = (model.eval() for model in pair(decoder="instance_generated"))
    options = {**options, **MODES[mode]}
    assert torch.equal(generated(adapted, **options), generated(published, **options))


@pytest.mark.parametrize("mode", MODES)
def test_same_tokens_where_some_texts_end_early(mode: str) -> None:
    adapted, published = (model.eval() for model in pair(encoder="shared", decoder="instance_generated"))
    options = {"eos_token_id": int(generated(published)[0, 3]), **MODES[mode]}
    expected = generated(published, **options)
    assert torch.equal(generated(adapted, **options), expected)
    ended = (expected == options["eos_token_id"]).any(dim=1)
    assert ended.any()
    assert not ended.all()


@pytest.mark.parametrize(("encoder", "decoder"), GENERATED[:3])
def test_tokens_follow_the_weights(encoder: str, decoder: str) -> None:
    """What one generation kept is not used after the parameters change, nor in training."""
    adapted, published = pair(encoder=encoder, decoder=decoder)
    before = generated(adapted.eval())
    assert_same(adapted.train(), published.train(), batch())
    other = adapted_t5(seed=4, encoder=encoder, decoder=decoder)
    changed = {name: parameter.detach() for name, parameter in published_names(other).items()}
    for name, parameter in published_names(adapted).items():
        parameter.data.copy_(changed[name])
        published.added_parameters()[name].data.copy_(as_published(name, changed[name]))
    after = generated(adapted.eval())
    assert torch.equal(after, generated(published.eval()))
    assert not torch.equal(after, before)


def test_a_generation_step_by_step_without_a_cache() -> None:
    """Decode by hand from the encoder's states, each step a forward pass over all tokens so far."""
    adapted, published = (model.eval() for model in pair(encoder="instance_generated"))
    inputs = batch()
    del inputs["labels"]
    tokens = torch.zeros(4, 1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(8):
            logits = published(**inputs, decoder_input_ids=tokens).logits[:, -1]
            tokens = torch.cat([tokens, logits.argmax(dim=-1, keepdim=True)], dim=1)
    assert torch.equal(generated(adapted, min_new_tokens=8, eos_token_id=NUM_TASKS * 100), tokens)
