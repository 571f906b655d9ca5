"""Adaptation: each update against one by hand, stopping and going on, layers, and what must not change a model."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.optimization import Adafactor

from taskloom.online.adaptation import Adaptation, adapt
from taskloom.online.trained_parameters import trained_parameters
from taskloom.online.weighters import UniformWeighter
from tests.tiny_language import WORDS, tiny_language_model, tiny_tokenizer


def documents(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (count,), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator)) for n in lengths]


def encoded(texts, tokenizer):
    return [dict(tokenizer(text, return_tensors="pt", return_token_type_ids=False)) for text in texts]


class Positions(torch.nn.Module):
    """Weights by position: 1, 2, 3, ..."""

    def forward(self, input_ids, attention_mask):
        return torch.arange(1.0, input_ids.shape[1] + 1).expand_as(input_ids) * attention_mask


def by_hand(model, batches, optimizer, limit, length=None):
    """The published loop, written plainly."""
    for batch in batches:
        ids = batch["input_ids"]
        logs = model(**batch).logits.log_softmax(-1)
        losses = [-(t + 1) * logs[0, t - 1, ids[0, t]] for t in range(1, ids.shape[1])]
        optimizer.zero_grad()
        (torch.stack(losses).sum() / (length or len(losses))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "adafactor": lambda p, lr: Adafactor(p, lr=lr, scale_parameter=False, relative_step=False),
}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_the_plain_loop(family, name):
    tokenizer, texts = tiny_tokenizer(family), documents(4)
    ours, plain = tiny_language_model(family, dropout=0.1), tiny_language_model(family, dropout=0.1).eval()
    ours.train()  # and yet nothing is dropped out
    adapt(ours, tokenizer, texts, Positions(), learning_rate=1e-2, optimizer=name, max_grad_norm=0.5)
    by_hand(plain, encoded(texts, tokenizer), OPTIMIZERS[name](plain.parameters(), 1e-2), 0.5)
    for (label, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), label


def test_the_published_length_scales_the_loss():
    tokenizer, texts = tiny_tokenizer("gpt2"), documents(3)
    ours, plain = tiny_language_model("gpt2"), tiny_language_model("gpt2")
    updates = adapt(ours, tokenizer, texts, Positions(), learning_rate=1e-2, optimizer="sgd", loss_length=1023)
    by_hand(plain.eval(), encoded(texts, tokenizer), torch.optim.SGD(plain.parameters(), lr=1e-2), 1e9, 1023)
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert updates[0].tokens == len(texts[0].split())


def test_documents_of_an_update_are_averaged():
    tokenizer, texts = tiny_tokenizer("gpt2"), documents(5)
    ours, plain = tiny_language_model("gpt2"), tiny_language_model("gpt2").eval()
    updates = adapt(
        ours, tokenizer, texts, UniformWeighter(), learning_rate=0.1, optimizer="sgd", documents_per_update=2
    )
    assert [update.grad_norm is not None for update in updates] == [False, True, False, True, False]
    for group in (texts[:2], texts[2:4], texts[4:]):
        losses = [plain(**batch, labels=batch["input_ids"]).loss for batch in encoded(group, tokenizer)]
        gradients = torch.autograd.grad(sum(losses) / 2, list(plain.parameters()))
        for parameter, gradient in zip(plain.parameters(), gradients, strict=True):
            parameter.data -= 0.1 * gradient
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("at", [2, 3])
def test_going_on_is_not_having_stopped(name, at):
    tokenizer, settings = tiny_tokenizer("llama"), {"learning_rate": 1e-2, "optimizer": name, "documents_per_update": 2}
    parts = encoded(documents(6), tokenizer)
    whole, model = tiny_language_model("llama"), tiny_language_model("llama")
    run = Adaptation(whole, Positions(), **settings)
    for part in parts:
        run.update(part)
    first = Adaptation(model, Positions(), **settings)
    for part in parts[:at]:
        first.update(part)
    state = {key: value.clone() for key, value in first.state_dict().items()}
    other = tiny_language_model("llama")
    second = Adaptation(other, Positions(), **settings)
    second.load_state_dict(state)
    for part in parts[at:]:
        second.update(part)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


def test_the_state_of_another_model_is_refused():
    state = Adaptation(tiny_language_model("gpt2"), UniformWeighter()).state_dict()
    with pytest.raises(ValueError, match="`state` is of another model"):
        Adaptation(tiny_language_model("llama"), UniformWeighter()).load_state_dict(state)


def test_last_blocks_only():
    model = tiny_language_model("llama")
    before = copy.deepcopy(model.state_dict())
    adapt(model, tiny_tokenizer("llama"), documents(2), UniformWeighter(), learning_rate=0.1, layers=1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    last = model.config.num_hidden_layers - 1
    assert changed
    assert changed <= {
        name for name in before if f"layers.{last}." in name or name in ("model.norm.weight", "lm_head.weight")
    }


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_head_that_is_used_below_is_left_out(family):
    model = tiny_language_model(family)
    names = trained_parameters(model, 1)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert any(parameter is model.get_output_embeddings().weight for parameter in names.values()) is not tied
    assert all(parameter is not model.get_input_embeddings().weight for parameter in names.values())


def test_more_blocks_than_there_are():
    with pytest.raises(ValueError, match="`layers` must be from 1 to 2"):
        trained_parameters(tiny_language_model("gpt2"), 3)


def test_what_is_not_finite_changes_nothing():
    model, tokenizer = tiny_language_model("gpt2"), tiny_tokenizer("gpt2")
    before = copy.deepcopy(model.state_dict())
    (update,) = adapt(model, tokenizer, documents(1), UniformWeighter(float("inf")))
    assert not update.applied
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_text_of_one_token_teaches_nothing():
    model, tokenizer = tiny_language_model("gpt2"), tiny_tokenizer("gpt2")
    before = copy.deepcopy(model.state_dict())
    updates = adapt(model, tokenizer, ["film", "", "the"], UniformWeighter(), learning_rate=0.1, optimizer="sgd")
    assert [(update.tokens, update.loss) for update in updates] == [(1, 0.0), (1, 0.0)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_on_padding_count_nothing():
    tokenizer = tiny_tokenizer("gpt2")
    (part,) = encoded(["the film was good"], tokenizer)
    padded = {"input_ids": torch.tensor([[*part["input_ids"][0], 9, 9]]), "attention_mask": torch.ones(1, 6).long()}
    padded["attention_mask"][0, 4:] = 0
    models = [tiny_language_model("gpt2") for _ in range(2)]
    for model, document in zip(models, (part, padded), strict=True):
        weights = torch.arange(1.0, 1 + document["input_ids"].shape[1])[None]
        Adaptation(model, lambda *_, w=weights: w, learning_rate=0.1, optimizer="sgd").update(document)
    first, second = (model.state_dict() for model in models)
    assert all(torch.allclose(first[name], second[name], atol=1e-7) for name in first)


def test_a_gradient_is_clipped_to_the_limit_or_never():
    tokenizer, texts = tiny_tokenizer("gpt2"), documents(1)
    moved = {}
    for limit in (0, 0.5, 1e9):
        model = tiny_language_model("gpt2")
        start = [p.detach().clone() for p in model.parameters()]
        (update,) = adapt(
            model, tokenizer, texts, UniformWeighter(5), learning_rate=0.1, optimizer="sgd", max_grad_norm=limit
        )
        steps = [(p - s).detach().flatten() for p, s in zip(model.parameters(), start, strict=True)]
        moved[limit] = torch.cat(steps).norm().item() / 0.1
        assert update.grad_norm == pytest.approx(moved[0], rel=1e-3)
    assert moved[0] == pytest.approx(moved[1e9])
    assert moved[0] > 1
    assert moved[0.5] == pytest.approx(0.5, rel=1e-3)


def test_one_that_is_not_finite_is_not_part_of_its_step():
    class Sometimes(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return attention_mask * (float("nan") if input_ids[0, 0] == 4 else 1.0)

    tokenizer, texts = tiny_tokenizer("gpt2"), ["a film is good", "the film", "a bad meal"]
    ours, plain = tiny_language_model("gpt2"), tiny_language_model("gpt2")
    settings = {"learning_rate": 0.1, "optimizer": "sgd", "documents_per_update": 2}
    updates = adapt(ours, tokenizer, texts, Sometimes(), **settings)
    assert tokenizer("the").input_ids == [4]
    assert [update.applied for update in updates] == [True, False, True]
    adapt(plain, tokenizer, [texts[0], texts[2]], UniformWeighter(), **settings)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_activations_that_are_recomputed_change_nothing(family):
    tokenizer, texts = tiny_tokenizer(family), documents(3)
    saved, recomputed = (tiny_language_model(family, dropout=0.3) for _ in range(2))
    recomputed.gradient_checkpointing_enable()
    blocks = recomputed.transformer.h if family == "gpt2" else recomputed.model.layers
    calls = []
    blocks[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for model in (saved, recomputed):
        adapt(model, tokenizer, texts, Positions(), learning_rate=0.1, optimizer="sgd")
    assert len(calls) == 2 * len(texts)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), recomputed.parameters(), strict=True))


def test_an_adapter_is_updated_alone():
    model = get_peft_model(tiny_language_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    before = copy.deepcopy(model.state_dict())
    adapt(model, tiny_tokenizer("llama"), documents(3), UniformWeighter(), learning_rate=0.1, optimizer="sgd")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert {name for name, p in model.named_parameters() if p.requires_grad} >= changed
