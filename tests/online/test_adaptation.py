"""Adaptation: each update against one by hand, stopping and going on, layers, and what must not change a model."""

import copy

import pytest
import torch
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
