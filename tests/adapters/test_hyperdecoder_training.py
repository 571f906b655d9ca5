"""What is trained, what it costs in memory, and that every way of saving memory gives the same gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from taskloom.adapters.hyperdecoder.modules import Generator
from taskloom.errors import UserError
from taskloom.gradients import per_example_gradients
from tests.adapters.language_models import (
    DECODERS,
    ENCODER_DECODERS,
    KINDS,
    LAYERS,
    TASKS,
    adapt,
    language_model,
    logits,
    rows,
    training_batch,
)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def backward(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    model(**inputs, use_cache=False).loss.backward()
    return gradients(model)


def exact_loss(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return a loss in the type of the logits: transformers' own is computed in float32."""
    return model(**inputs, use_cache=False).logits.square().mean()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*ENCODER_DECODERS, *DECODERS])
def test_every_part_learns_and_the_base_stays(family: str, kind: str) -> None:
    adapted = adapt(language_model(family), encoder=kind, decoder=kind).train()
    found = backward(adapted, training_batch(family))
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert found.keys() == trained
    assert all("hyperdecoder_" in name for name in trained)
    assert all(gradient.any() for name, gradient in found.items())


@pytest.mark.parametrize("kind", ["task_generated", "instance_generated"])
@pytest.mark.parametrize("family", ["bart", "gpt2"])  # whose own parts compute in float64 all the way
def test_gradients_by_finite_differences(family: str, kind: str) -> None:
    adapted = adapt(language_model(family), encoder=kind, decoder=kind).train()
    inputs = training_batch(family)
    exact_loss(adapted, inputs).backward()
    found = gradients(adapted)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if not parameter.requires_grad:
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        losses = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                losses.append(exact_loss(adapted, inputs))
                parameter.sub_(step * direction)
        difference = (losses[0] - losses[1]) / 2e-6
        torch.testing.assert_close((found[name] * direction).sum(), difference, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["task_generated", "instance_generated"])
@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
def test_recomputed_weights_give_the_same_gradients(family: str, kind: str) -> None:
    inputs = training_batch(family)
    expected = backward(adapt(language_model(family), encoder=kind, decoder=kind, recompute=False).train(), inputs)
    found = backward(adapt(language_model(family), encoder=kind, decoder=kind, recompute=True).train(), inputs)
    assert_same(found, expected)


@pytest.mark.parametrize("recompute", [True, False])
def test_generated_weights_wait_for_the_backward_pass_only_if_asked_to(recompute: bool) -> None:
    adapted = adapt(language_model("t5"), encoder="shared", decoder="instance_generated", recompute=recompute)
    generated: set[StorageWeakRef] = set()
    kept: set[StorageWeakRef] = set()

    def note(module: nn.Module, args: tuple, weights: Any) -> None:
        generated.update(StorageWeakRef(part.untyped_storage()) for part in (weights.down, weights.up))

    def pack(tensor: Tensor) -> Tensor:
        kept.add(StorageWeakRef(tensor.untyped_storage()))
        return tensor

    [generator] = [part for part in adapted.modules() if isinstance(part, Generator)]
    generator.register_forward_hook(note)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = adapted.train()(**training_batch("t5"), use_cache=False).loss
    assert bool(generated & kept) != recompute
    loss.backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["t5", "bart", "llama", "gpt2"])
def test_gradient_checkpointing(family: str, kind: str) -> None:
    """Two forwards of other tasks, and an evaluation, before the backward: each is recomputed for its own."""

    def run(adapted: Any) -> dict[str, Tensor]:
        inputs = training_batch(family)
        other = {**rows(inputs, [2, 1, 0]), "task": torch.tensor([0, 1, 2])}
        first = adapted(**inputs, use_cache=False).loss
        second = adapted(**other, use_cache=False).loss
        with torch.no_grad():
            adapted(**rows(inputs, [0, 1]), use_cache=False)
        (first + 2 * second).backward()
        adapted(**rows(inputs, [2]), use_cache=False).loss.backward()
        return gradients(adapted)

    expected = run(adapt(language_model(family), encoder=kind, decoder=kind).train())
    adapted = adapt(language_model(family), encoder=kind, decoder=kind).train()
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(run(adapted), expected)


@pytest.mark.parametrize("family", ["t5", "bart", "llama"])
@pytest.mark.parametrize("kind", ["task_generated", "instance_generated"])
def test_gradient_checkpointing_of_the_same_embeddings_twice(family: str, kind: str) -> None:
    """Two passes over one tensor of embeddings, as with soft prompts: told apart although their input is the same."""

    def run(checkpointing: bool) -> dict[str, Tensor]:
        adapted = adapt(language_model(family), encoder=kind, decoder=kind).train()
        if checkpointing:
            adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inputs = training_batch(family)
        embeddings = adapted.get_base_model().get_input_embeddings()(inputs.pop("input_ids")).detach()
        inputs["inputs_embeds"] = embeddings.requires_grad_()
        other = {**inputs, "task": (inputs["task"] + 1) % TASKS}
        (exact_loss(adapted, inputs) + 2 * exact_loss(adapted, other)).backward()
        return gradients(adapted)

    assert_same(run(checkpointing=True), run(checkpointing=False))


def test_reentrant_checkpointing_is_refused_where_it_would_lose_gradients() -> None:
    adapted = adapt(language_model("t5")).train()
    adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    adapted.get_base_model().enable_input_require_grads()
    with pytest.raises(RuntimeError, match="use_reentrant"):
        adapted(**training_batch("t5"), use_cache=False)


@pytest.mark.parametrize("family", ["bart", "llama"])
def test_bfloat16_base_with_float32_adapters(family: str) -> None:
    for kind in KINDS:
        adapted = adapt(language_model(family, dtype=torch.bfloat16), encoder=kind, decoder=kind).train()
        found = backward(adapted, training_batch(family))
        assert all(gradient.dtype == torch.float32 for gradient in found.values())
        exact = backward(adapt(language_model(family), encoder=kind, decoder=kind).train(), training_batch(family))
        both = [torch.cat([every[name].double().flatten() for name in exact]) for every in (found, exact)]
        assert torch.cosine_similarity(*both, dim=0) > 0.9


def test_autocast() -> None:
    for family in ("t5", "llama"):
        adapted = adapt(language_model(family, dtype=torch.float32)).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = adapted(**training_batch(family), use_cache=False).loss
        loss.backward()
        assert all(torch.isfinite(gradient).all() for gradient in gradients(adapted).values())


def trained(**fields: Any) -> set[str]:
    adapted = adapt(language_model(fields.pop("family", "t5")), **fields)
    return {name for name, p in adapted.named_parameters() if p.requires_grad}


def test_what_is_trained() -> None:
    usual = trained()
    assert any(".encoder." in name for name in usual)
    assert any(".decoder." in name for name in usual)
    assert trained(unfreeze_encoder_adapters=False) == {n for n in usual if ".decoder." in n}
    assert trained(unfreeze_decoder_adapters=False) == {n for n in usual if ".encoder." in n}
    norms = trained(unfreeze_layer_norms=True) - usual
    assert all("layer_norm" in name for name in norms)
    assert len(norms) == LAYERS * 2 + LAYERS * 3 + 2
    encoder = trained(unfreeze_encoder=True) - usual
    assert all(".encoder.block." in name or ".encoder.final" in name for name in encoder)
    assert any("SelfAttention" in name for name in encoder)
    decoder = trained(unfreeze_decoder=True) - usual
    assert all(".decoder." in name for name in decoder)
    everything = trained(freeze=False)
    assert usual | norms | encoder | decoder < everything
    assert any("shared.weight" in name for name in everything)
    llama = trained(family="llama", unfreeze_layer_norms=True) - trained(family="llama")
    assert len(llama) == LAYERS * 2 + 1


def test_trained_parameters_by_hand() -> None:
    """The published T5-large model of GLUE: about 3% of the parameters (section 4.1)."""
    hidden, adapter, width, layer, layers = 16, 4, 6, 3, LAYERS
    generator = (hidden + layer) * width + width + layers * layer
    generator += 2 * (width + 1) * hidden * adapter + (width + 1) * (hidden + adapter)
    mlp = 2 * (hidden * hidden + hidden)
    shared = 2 * hidden * adapter + hidden + adapter

    def count(**fields: Any) -> int:
        adapted = adapt(language_model("t5"), **fields)
        return sum(p.numel() for p in adapted.parameters() if p.requires_grad)

    assert count(encoder="none", decoder="shared") == layers * shared
    assert count(encoder="none", decoder="per_task") == layers * shared * TASKS
    assert count(encoder="none", decoder="task_generated") == generator + TASKS * hidden
    assert count(encoder="none", decoder="instance_generated") == generator + mlp
    assert count(encoder="none", decoder="instance_generated", process_encoder_output=False) == generator
    assert count(encoder="instance_generated", decoder="none") == generator + mlp + layers * shared
    assert count(decoder="none", encoder_adapter_dim=2) == layers * (2 * hidden * 2 + hidden + 2)


@pytest.mark.parametrize("recompute", [True, False])
def test_per_example_gradients(recompute: bool) -> None:
    """The rules of `taskloom.gradients` see through generated weights: each example's gradient is its own."""
    inputs = training_batch("llama")
    adapted = adapt(language_model("llama", dtype=torch.float32), decoder="instance_generated", recompute=recompute)

    def loss(outputs: Any, batch: dict[str, Tensor]) -> Tensor:
        return outputs.logits.square().mean(dim=(1, 2))

    together = per_example_gradients(adapted, inputs, loss)
    for row in range(4):
        adapted.zero_grad()
        loss(adapted(**rows(inputs, [row])), inputs).sum().backward()
        for name, gradient in gradients(adapted).items():
            torch.testing.assert_close(together[name][row], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("t5", {"decoder": "generated"}, "`decoder` is 'generated'. It is called 'instance_generated' here"),
        ("t5", {"adapter_dim": 0}, "`adapter_dim` must be a whole number of at least 1"),
        ("t5", {"decoder_adapter_dim": 2.5}, "`decoder_adapter_dim` must be a whole number"),
        ("t5", {"decoder": "per_task", "num_tasks": None}, "`decoder` is 'per_task', which needs the number of tasks"),
        ("t5", {"encoder": "task_generated", "num_tasks": None}, "`encoder` is 'task_generated'"),
        ("t5", {"encoder": "none", "decoder": "none"}, "Nothing would be adapted"),
        ("llama", {"prompt_layer": LAYERS}, f"`prompt_layer` is {LAYERS}, but the model has {LAYERS} layers"),
    ],
)
def test_settings_that_do_not_fit(family: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        adapt(language_model(family), **fields)


def test_models_without_the_needed_modules() -> None:
    from transformers import BertConfig, BertModel, OPTConfig, OPTForCausalLM, T5Config, T5EncoderModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    bert = BertModel(BertConfig(**sizes, intermediate_size=8))
    with pytest.raises(UserError, match=r"modules of BertModel \(model type 'bert'\). Known model types: bart, gpt2"):
        adapt(bert)
    opt = OPTForCausalLM(OPTConfig(**sizes, ffn_dim=8, word_embed_proj_dim=8))
    with pytest.raises(UserError, match="modules of OPTForCausalLM"):
        adapt(opt)
    encoder = T5EncoderModel(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1, vocab_size=9))
    with pytest.raises(UserError, match=r"decoder's layers at '.*block', which T5EncoderModel does not have"):
        adapt(encoder)


@pytest.mark.parametrize("kind", ["per_task", "task_generated"])
@pytest.mark.parametrize(
    ("task", "message"),
    [
        (None, "needs `task=`"),
        (torch.tensor([0, 1, TASKS, 0]), f"`task` has numbers from 0 to {TASKS}, but the adapter has {TASKS} tasks"),
        (torch.tensor([0, -1, 1, 0]), "`task` has numbers from -1"),
        (torch.tensor([0, 1, 2]), "`task` has 3 entries, but the batch has 4 examples"),
        (torch.tensor([0.0, 1.0, 2.0, 0.0]), "must be a LongTensor"),
        ([0, 1, 2, 0], "must be a LongTensor"),
    ],
)
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_wrong_task_ids(family: str, kind: str, task: Any, message: str) -> None:
    adapted = adapt(language_model(family), encoder="none", decoder=kind)
    inputs = {**training_batch(family), "task": task}
    with pytest.raises(ValueError, match=message):
        adapted(**inputs)


def test_wrong_prompt_lengths() -> None:
    adapted = adapt(language_model("llama"))
    for length in (0, -1, 2.5, "7", torch.tensor([[7]]), torch.tensor([7.0] * 4)):
        with pytest.raises(ValueError, match="`prompt_length` must be"):
            adapted(**training_batch("llama"), prompt_length=length)


def test_one_task_needs_no_ids() -> None:
    adapted = adapt(language_model("t5"), encoder="per_task", decoder="task_generated", num_tasks=1)
    inputs = training_batch("t5")
    with_ids = logits(adapted, {**inputs, "task": torch.zeros(4).long()})
    del inputs["task"]
    torch.testing.assert_close(logits(adapted, inputs), with_ids)
