"""Generating text: weights are made once for each sequence and kept, and the tokens are those of making them anew."""

import copy
import gc
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from taskloom.adapters.hyperdecoder.modules import Generator, TaskAdapters
from taskloom.adapters.hyperdecoder.passes import Source, StackContext, attach_source, attached_source
from tests.adapters.language_models import (
    DECODERS,
    ENCODER_DECODERS,
    KINDS,
    LAYERS,
    adapt,
    generate,
    language_model,
    prompts,
    rows,
    training_batch,
)

#: Greedy, beams, several answers of beams and of samples.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"num_beams": 3, "num_return_sequences": 2},
    {"do_sample": True, "num_return_sequences": 2},
]


def adapted_to(family: str, kind: str) -> Any:
    return adapt(language_model(family), encoder=kind, decoder=kind)


def step_by_step(model: Any, family: str, inputs: dict[str, Tensor]) -> Tensor:
    """Return five greedy tokens by whole forward passes without a cache, which keep no weights."""
    if family in ENCODER_DECODERS:
        tokens = torch.full((4, 1), model.config.decoder_start_token_id)
        for _ in range(5):
            scores = model(**inputs, decoder_input_ids=tokens, use_cache=False).logits[:, -1].clone()
            scores[:, 1] = -torch.inf  # no end before the fifth token
            tokens = torch.cat([tokens, scores.argmax(dim=-1, keepdim=True)], dim=1)
        return tokens
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(5):
        scores = (
            model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                task=inputs["task"],
                prompt_length=7,
                use_cache=False,
            )
            .logits[:, -1]
            .clone()
        )
        scores[:, 1] = -torch.inf
        tokens = torch.cat([tokens, scores.argmax(dim=-1, keepdim=True)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*ENCODER_DECODERS, *DECODERS])
def test_greedy_tokens_are_those_of_whole_forward_passes(family: str, kind: str) -> None:
    inputs = prompts(left=family in DECODERS)
    model = adapted_to(family, kind)
    assert torch.equal(generate(model, inputs), step_by_step(model, family, inputs))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["task_generated", "instance_generated"])
@pytest.mark.parametrize("family", ["t5", "bart", "llama", "gpt2"])
def test_kept_weights_give_what_new_ones_give(
    family: str, kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = prompts(left=family in DECODERS)
    model = adapted_to(family, kind)
    torch.manual_seed(0)
    kept = generate(model, inputs, **settings)
    monkeypatch.setattr(Source, "kept", property(lambda self: None, lambda self, weights: None))
    monkeypatch.setattr(StackContext, "kept_for", lambda self, key: None)
    torch.manual_seed(0)
    assert torch.equal(generate(model, inputs, **settings), kept)


@pytest.mark.parametrize("settings", SETTINGS[:2])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_beams_of_a_mixed_batch_are_those_of_each_example_alone(family: str, settings: dict[str, Any]) -> None:
    inputs = prompts(left=family in DECODERS)
    for kind in KINDS:
        model = adapted_to(family, kind)
        together = generate(model, inputs, **settings)
        for row in range(4):
            assert torch.equal(generate(model, rows(inputs, [row]), **settings)[0], together[row])


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["t5", "bart", "llama", "gpt2", "gpt_neox"])
def test_with_and_without_cache(family: str, kind: str, settings: dict[str, Any]) -> None:
    inputs = prompts(left=family in DECODERS)
    model = adapted_to(family, kind)
    found = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        found.append(generate(model, inputs, use_cache=use_cache, **settings))
    assert torch.equal(*found)


class Counts:
    """How often, and for how many sequences, weights were made."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: Counter[int] = Counter()
        for part in model.modules():
            if isinstance(part, Generator | TaskAdapters):
                part.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, args: tuple) -> None:
        self.calls[len(args[0])] += 1


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("kind", ["per_task", "task_generated", "instance_generated"])
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_weights_are_made_once_for_each_example(family: str, kind: str, settings: dict[str, Any]) -> None:
    """Not at every step, and not for every beam or sample."""
    inputs = prompts(left=family in DECODERS)
    model = adapt(language_model(family), encoder="shared", decoder=kind)
    modules = LAYERS if kind == "per_task" else 1  # a generator makes all layers' weights together
    for use_cache in (True, False):
        counts = Counts(model)
        generate(model, inputs, use_cache=use_cache, **settings)
        assert counts.calls == {4: modules}


def test_nothing_is_kept_behind_a_finished_generation() -> None:
    for family in ("t5", "llama"):
        model = adapted_to(family, "instance_generated")
        generate(model, prompts(left=family in DECODERS))
        for watch in model.base_model.watches.values():
            assert watch.context._recent is None
            assert watch.context._state is None
        with pytest.raises(TypeError):
            generate(model, prompts(left=family in DECODERS), max_new_tokens="many")
        assert model.base_model.calls.generation is None


def test_a_loop_of_ones_own_over_a_t5() -> None:
    """As long as the decoder sees the same encoder states, weights are kept; new states, or training, end that."""
    inputs = prompts(left=False)
    model = adapt(language_model("t5"), encoder="shared", decoder="instance_generated")
    counts = Counts(model)
    with torch.no_grad():
        encoded = model.get_base_model().encoder(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    arguments = {"encoder_outputs": encoded, "attention_mask": inputs["attention_mask"]}
    start = torch.zeros(4, 1).long()

    def step() -> Tensor:
        with torch.no_grad():
            return model(decoder_input_ids=start, **arguments).logits

    first = step()
    assert torch.equal(step(), first)
    assert counts.calls == {4: 1}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(decoder_input_ids=start, **arguments).logits.square().mean().backward()
    optimizer.step()
    changed = step()
    assert not torch.allclose(changed, first)
    fresh = {**arguments, "encoder_outputs": (encoded.last_hidden_state.clone(),)}
    with torch.no_grad():
        torch.testing.assert_close(model(decoder_input_ids=start, **fresh).logits, changed)
    arguments.clear()
    fresh.clear()
    del encoded
    sources = [watch.context.running.source for watch in model.base_model.watches.values()]
    assert not any(source.kept for source in sources), "weights outlive the states they were made from"


@pytest.mark.parametrize("kind", ["per_task", "task_generated", "instance_generated"])
def test_kept_weights_of_ones_own_loop_are_never_stale(kind: str) -> None:
    """Other parameters, other masks, other tasks: the same encoder states alone do not bring kept weights back."""
    inputs = prompts(left=False)
    model = adapt(language_model("t5"), encoder="none", decoder=kind)

    def step(states: Tensor, mask: Tensor, task: Tensor) -> Tensor:
        with torch.no_grad():
            start = torch.zeros(4, 1).long()
            return model(encoder_outputs=(states,), attention_mask=mask, task=task, decoder_input_ids=start).logits

    with torch.no_grad():
        states = model.get_base_model().encoder(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state
    mask, task = inputs["attention_mask"], inputs["task"]
    first = step(states, mask, task)
    assert torch.equal(step(states, mask, task), first)
    shorter = mask * (torch.arange(7) < 2)
    assert torch.equal(step(states, shorter, task), step(states.clone(), shorter, task))
    other = (task + 1) % 3
    assert torch.equal(step(states, mask, other), step(states.clone(), mask, other))
    step(states, mask, task)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(2)
    changed = step(states, mask, task)
    assert torch.equal(changed, step(states.clone(), mask, task))
    assert not torch.allclose(changed, first)


def prefilled(model: Any, inputs: dict[str, Tensor]) -> tuple[DynamicCache, Tensor]:
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        cache = model(**inputs, position_ids=positions, use_cache=True).past_key_values
    return cache, inputs["attention_mask"].sum(dim=1)


def continued(model: Any, cache: Any, mask: Tensor, tokens: Tensor, positions: Tensor, **more: Any) -> Tensor:
    with torch.no_grad():
        return model(
            input_ids=tokens[:, None],
            attention_mask=torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1),
            position_ids=positions[:, None],
            past_key_values=cache,
            **more,
        ).logits


@pytest.mark.parametrize("kind", ["per_task", "task_generated", "instance_generated"])
@pytest.mark.parametrize("change", ["nothing", "reorder", "select", "repeat", "copy"])
def test_a_loop_of_ones_own_over_a_llama(kind: str, change: str) -> None:
    """What weights are generated from goes with the cache: through reordering, selecting, repeating and copying."""
    inputs = prompts(left=True)
    model = adapted_to("llama", kind)
    cache, positions = prefilled(model, inputs)
    order = {"reorder": [2, 0, 3, 1], "select": [3, 1], "repeat": [0, 0, 1, 1, 2, 2, 3, 3]}.get(change, [0, 1, 2, 3])
    match change:
        case "reorder":
            cache.reorder_cache(torch.tensor(order))
        case "select":
            cache.batch_select_indices(torch.tensor(order))
        case "repeat":
            cache.batch_repeat_interleave(2)
        case "copy":
            original, cache = cache, copy.deepcopy(cache)
            cache.reorder_cache(torch.tensor([3, 2, 1, 0]))
            order = [3, 2, 1, 0]
            untouched = continued(model, original, inputs["attention_mask"], torch.arange(4) + 5, positions)
            expected = continued(
                model, prefilled(model, inputs)[0], inputs["attention_mask"], torch.arange(4) + 5, positions
            )
            assert torch.equal(untouched, expected)
    tokens = torch.arange(len(order)) + 5
    found = continued(model, cache, inputs["attention_mask"][order], tokens, positions[order])
    for row, example in enumerate(order):
        one = rows(inputs, [example])
        whole = {
            "input_ids": torch.cat([one["input_ids"], tokens[row : row + 1, None]], dim=1),
            "attention_mask": torch.cat([one["attention_mask"], torch.ones(1, 1).long()], dim=1),
        }
        with torch.no_grad():
            expected = model(
                **whole,
                task=one["task"],
                position_ids=(whole["attention_mask"].cumsum(1) - 1).clamp(min=0),
                prompt_length=7,
            ).logits[:, -1:]
        torch.testing.assert_close(found[row : row + 1], expected)


def test_a_cache_goes_when_its_user_lets_go() -> None:
    """At once, without waiting for the garbage collector: its keys and values may fill a device."""
    gc.collect()
    gc.disable()
    try:
        cache, _ = prefilled(adapted_to("llama", "instance_generated"), prompts(left=True))
        assert attached_source(cache) is not None
        gone = weakref.ref(cache)
        del cache
        assert gone() is None
    finally:
        gc.enable()


def test_training_on_answers_behind_a_cached_prompt() -> None:
    """A frozen model's prompts need to be read once only: the answers' gradients are those of the whole pass."""
    batch = training_batch("llama")
    inputs = prompts(left=True)
    model = adapt(language_model("llama"), decoder="instance_generated")

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))

    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    whole = model(**batch, position_ids=positions, use_cache=False).logits[:, 6:]
    expected = gradients(whole.square().mean())
    # Without the prompt's last token, which is adapted: it is read with the answer.
    with torch.no_grad(), model.disable_adapter():
        cache = model(
            inputs["input_ids"][:, :-1],
            attention_mask=inputs["attention_mask"][:, :-1],
            position_ids=positions[:, :6],
            use_cache=True,
        ).past_key_values
    attach_source(cache, Source(pooled=attached_source(prefilled(model, inputs)[0]).pooled))
    behind = model(
        input_ids=batch["input_ids"][:, 6:],
        attention_mask=batch["attention_mask"],
        position_ids=positions[:, 6:],
        past_key_values=cache,
    ).logits
    torch.testing.assert_close(behind, whole)
    for found, gradient in zip(gradients(behind.square().mean()), expected, strict=True):
        torch.testing.assert_close(found, gradient)


def test_a_prompt_that_is_cached_already_is_refused() -> None:
    inputs = prompts(left=True)
    model = adapted_to("llama", "instance_generated")
    with torch.no_grad():
        cache = language_model("llama")(inputs["input_ids"], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="its beginning is in `past_key_values`"):
        continued(model, cache, inputs["attention_mask"], torch.arange(4), torch.full((4,), 7))
    with pytest.raises(ValueError, match="its beginning is in `past_key_values`"):
        generate(model, inputs, prefill_chunk_size=3)


def test_generation_needs_the_task_where_weights_do() -> None:
    inputs = prompts(left=False)
    del inputs["task"]
    for kind in ("per_task", "task_generated"):
        with pytest.raises(ValueError, match="needs `task=`"):
            generate(adapted_to("t5", kind), inputs)
    generate(adapted_to("t5", "instance_generated"), inputs)


def test_static_cache() -> None:
    inputs = prompts(left=True)
    model = adapted_to("llama", "instance_generated")
    expected = generate(model, inputs)
    found = generate(model, inputs, cache_implementation="static", disable_compile=True)
    assert torch.equal(found, expected)


def test_masks_that_do_not_tell_the_prompts_padding_are_refused() -> None:
    model = adapted_to("llama", "instance_generated")
    with pytest.raises(ValueError, match="two dimensions"):
        model(prompts(left=True)["input_ids"], attention_mask=torch.zeros(4, 1, 7, 7).double())
