"""The outer loss against plain loops and torch's distributions: answers, and what an update shall not change."""

import copy

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from taskloom.online.encode import QACollator
from taskloom.online.outer_loss import Locality, OuterLoss, answer_nll
from taskloom.online.questions import Question
from tests.tiny_language import tiny_language_model, tiny_tokenizer

QUESTIONS = [
    Question("is the film good ?", ("not bad",)),
    Question("the meal ?", ("yes",)),
    Question("was it so very bad ?", ("no it was not",)),
]


@pytest.fixture(params=["gpt2", "llama"])
def family(request):
    return request.param


def moved(model, seed=5):
    """Return a model that an update has changed."""
    torch.manual_seed(seed)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return other


def texts(left=False):
    """Rows of 6 and 3 tokens."""
    ids, mask = torch.tensor([[4, 9, 7, 12, 5, 6], [11, 8, 15, 0, 0, 0]]), torch.ones(2, 6, dtype=torch.long)
    mask[1, 3:] = 0
    return {"input_ids": ids.flip(1) if left else ids, "attention_mask": mask.flip(1) if left else mask}


def logits_at(model, ids, position):
    return model(input_ids=ids[None, : position + 1]).logits[0, position]


def test_the_nll_is_the_mean_over_all_answer_tokens(family):
    model, tokenizer = tiny_language_model(family).eval(), tiny_tokenizer(family)
    batch = QACollator(tokenizer)(QUESTIONS)
    losses = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        places = (labels != -100).nonzero()[:, 0].tolist()
        losses += [-logits_at(model, ids, place - 1).log_softmax(-1)[ids[place]] for place in places]
    assert len(losses) == 2 + 1 + 4 + 3  # and an end token each
    assert answer_nll(model, batch).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


@pytest.mark.parametrize("left", [False, True])
def test_the_divergence_is_that_of_torch_s_distributions(left):
    model = tiny_language_model("gpt2").eval()
    now, batch = moved(model), texts(left)
    # GPT-2 counts positions from the row's first column, padding or not: so do both sides here.
    before, after = (each(**batch).logits for each in (model, now))
    real = batch["attention_mask"].bool()
    expected = kl_divergence(Categorical(logits=before[real]), Categorical(logits=after[real])).mean()
    reverse = kl_divergence(Categorical(logits=after[real]), Categorical(logits=before[real])).mean()
    found = Locality.of(model, batch).divergence(now).item()
    assert found == pytest.approx(expected.item(), rel=1e-4)
    assert abs(found - reverse.item()) > 1e-3 * found
    assert Locality.of(model, batch).divergence(model).item() == pytest.approx(0, abs=1e-6)


def test_what_padding_holds_does_not_matter():
    model = tiny_language_model("llama").eval()
    now, batch = moved(model), texts()
    other = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 17)}
    first, second = (Locality.of(model, each).divergence(now).item() for each in (batch, other))
    assert first == pytest.approx(second, rel=1e-6)


def test_of_questions_only_the_answers_are_compared(family):
    model = tiny_language_model(family).eval()
    now, batch = moved(model), QACollator(tiny_tokenizer(family))(QUESTIONS)
    expected = []
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        answer = (labels != -100).nonzero()[:, 0].tolist()
        # What predicts the first token of the answer is the question's last; the end token predicts nothing.
        for place in range(answer[0] - 1, answer[-1]):
            pair = (Categorical(logits=logits_at(each, ids, place)) for each in (model, now))
            expected.append(kl_divergence(*pair))
    locality = Locality.of(model, batch)
    assert int(locality.counted.sum()) == len(expected)
    assert locality.divergence(now).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-4)


def test_divergences_are_averaged_over_batches():
    model = tiny_language_model("gpt2").eval()
    now, questions = moved(model), QACollator(tiny_tokenizer("gpt2"))(QUESTIONS)
    batches = [Locality.of(model, texts()), Locality.of(model, questions)]
    loss = OuterLoss(questions, batches, 0.3)
    value = loss(now)
    divergence = sum(batch.divergence(now).item() for batch in batches) / 2
    assert loss.divergence.item() == pytest.approx(divergence, rel=1e-6)
    assert loss.nll.item() == pytest.approx(answer_nll(now, questions).item(), rel=1e-6)
    assert value.item() == pytest.approx(loss.nll.item() + 0.3 * divergence, rel=1e-6)
    assert value.requires_grad
    assert not loss.nll.requires_grad
    assert not loss.divergence.requires_grad


def test_without_locality_there_is_the_nll_alone():
    model, questions = tiny_language_model("gpt2").eval(), QACollator(tiny_tokenizer("gpt2"))(QUESTIONS)
    loss = OuterLoss(questions, (), 0.3)
    assert loss(model).item() == answer_nll(model, questions).item()
    assert loss.divergence.item() == 0


def test_probabilities_are_float32_whatever_the_model_computes_in():
    model = tiny_language_model("gpt2").bfloat16().eval()
    locality = Locality.of(model, texts())
    assert locality.before.dtype == torch.float32
    assert not locality.before.requires_grad
    torch.testing.assert_close(locality.before.exp().sum(-1), torch.ones(9), rtol=1e-6, atol=1e-6)
    assert locality.divergence(moved(model)).dtype == torch.float32
