"""Meta-training: an outer step against one by hand, what carries over, validation, and going on after a kill."""

import copy
import shutil

import numpy as np
import pytest
import torch
from tokenizers.normalizers import Lowercase
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from taskloom.errors import RunError
from taskloom.online.encode import QACollator
from taskloom.online.meta_batches import LocalityTexts, MetaRows
from taskloom.online.meta_training import meta_train
from taskloom.online.questions import Document, Question, QuestionSet
from taskloom.online.weighters import LearnedWeighter
from tests.tiny_language import WORDS, tiny_language_model, tiny_tokenizer

TEXTS = ["the film was very good .", "a bad meal", "no book is so good", "the answer was not true ."]
WEB = ["was the meal good ?", "the book is bad ."]


def tokenizer():
    """The trained answer begins with a capital letter, which the tiny vocabulary does not have."""
    made = tiny_tokenizer("gpt2")
    made.backend_tokenizer.normalizer = Lowercase()
    return made


def questions(texts=TEXTS):
    answers = ["good", "bad", "no", "true"]
    return QuestionSet(
        tuple(
            Document(text, group=text, questions=(Question(f"is {word} it ?", (answer,)),))
            for text, word, answer in zip(texts, WORDS[3:], answers, strict=False)
        )
    )


def weighter(seed=3, dropout=0.0, **options):
    torch.manual_seed(seed)
    made = LearnedWeighter(tiny_language_model("gpt2", seed=seed, dropout=dropout), tokenizer(), width=8, **options)
    torch.nn.init.normal_(made.head[-1].weight, std=0.5)  # so that the body has a gradient in the first step
    return made


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SETTINGS = {
    "documents": 2,
    "accumulation": 2,
    "reset_every": 4,
    "inner_lr": 0.1,
    "outer_lr": 1e-2,
    "kl_weight": 0.3,
    "validate_every": 1,
    "max_steps": 1,
    "method": "reverse",
}


def trained(model, base, folder=None, train=None, **options):
    return meta_train(
        model,
        base,
        tokenizer(),
        train or questions(),
        questions(),
        folder=folder,
        web_text=WEB,
        seed=4,
        log_every=1,
        **{**SETTINGS, **options},
    )


# --- one outer step by hand


@sdpa_kernel(SDPBackend.MATH)
def by_hand(model, base, start, rows, web, options, carried=None):
    """The outer loss of one batch with one graph of all its updates, and the updated parameters."""
    words, parameters = tokenizer(), dict(carried or start)
    collated = QACollator(words)

    def logits(values, **batch):
        return functional_call(base, values, kwargs={**batch, "use_cache": False}).logits

    documents = [words(document.text, return_tensors="pt") for document, _ in rows]
    weights = [model(batch["input_ids"], batch["attention_mask"]) for batch in documents]
    before = {name: value.detach() for name, value in parameters.items()}
    parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    pairs = list(zip(documents, weights, strict=True)) if options.get("sequential", True) else [None]
    for pair in pairs:
        total, count = 0.0, 0
        for batch, weight in [pair] if pair else zip(documents, weights, strict=True):
            ids = batch["input_ids"][0]
            logs = logits(parameters, input_ids=ids[None])[0].log_softmax(-1)
            total = total - sum(weight[0, t] * logs[t - 1, ids[t]] for t in range(1, len(ids)))
            count += len(ids) - 1
        count = options.get("loss_length", count)
        gradient = torch.autograd.grad(total / count, list(parameters.values()), create_graph=True)
        parameters = {
            name: value - options["inner_lr"] * g for (name, value), g in zip(parameters.items(), gradient, strict=True)
        }
    questions_batch = collated([question for _, question in rows])
    labels = questions_batch.pop("labels")
    logs = logits(parameters, **questions_batch)[:, :-1].log_softmax(-1)
    wanted = labels[:, 1:] != -100
    loss = -logs[wanted].gather(1, labels[:, 1:][wanted][:, None]).mean()
    if options["kl_weight"]:
        old = logits(before, **web).log_softmax(-1)[web["attention_mask"].bool()]
        new = logits(parameters, **web).log_softmax(-1)[web["attention_mask"].bool()]
        loss = loss + options["kl_weight"] * (old.exp() * (old - new)).sum(-1).mean()
    if options.get("norm_weight"):
        norms = torch.stack([((weight - 1) ** 2).mean().sqrt() for weight in weights])
        loss = loss + options["norm_weight"] * norms.mean()
    return loss, {name: value.detach() for name, value in parameters.items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sequential": False},
        {"kl_weight": 0.0, "norm_weight": 0.5},
        {"loss_length": 9},
        {"reset_every": 2},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_an_outer_step_is_the_one_by_hand(options):
    # Evaluation mode cannot be asked of a trainer: the tiny models have no dropout.
    settings = {**SETTINGS, **options}
    ours, plain, base = weighter(), weighter(), tiny_language_model("gpt2", seed=9)
    start = state(base)
    trained(ours, base, **options)
    assert same(state(base), start)

    rows = questions().rows
    order = np.random.default_rng((4, 0)).permutation(4).tolist()
    texts = LocalityTexts(WEB, (), tokenizer(), QACollator(tokenizer()))
    initial = {name: value.detach() for name, value in base.named_parameters()}
    carried = None
    for number in range(2):
        batch = [rows[place] for place in order[2 * number : 2 * number + 2]]
        (web,) = texts.draw((4, 0, number))
        loss, updated = by_hand(plain, base, initial, batch, web, settings, carried)
        (loss / 2).backward()
        carried = updated if settings["reset_every"] > 2 else None
    torch.optim.Adam(plain.parameters(), lr=1e-2).step()
    # Adam's first step is the sign of the gradient: where that is all but zero, rounding decides.
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        clear = torch.zeros_like(b, dtype=torch.bool) if b.grad is None else b.grad.abs() > 1e-6
        assert torch.allclose(a[clear], b[clear], atol=1e-4), name
    assert sum(int((b.grad.abs() > 1e-6).sum()) for b in plain.parameters() if b.grad is not None) > 100


def test_validation_is_the_mean_over_batches_from_the_start():
    base, model = tiny_language_model("gpt2", seed=9), weighter()
    found = trained(model, base, max_steps=1, outer_lr=1e-12).history
    rows, initial = questions().rows, {name: value.detach() for name, value in base.named_parameters()}
    texts = LocalityTexts(WEB, (), tokenizer(), QACollator(tokenizer()))
    losses, carried = [], None
    for number in range(2):
        (web,) = texts.draw((0, number))
        loss, carried = by_hand(weighter().eval(), base, initial, rows[2 * number :][:2], web, SETTINGS, carried)
        losses.append(loss.item())
    assert [entry["step"] for entry in found] == [0, 1]
    for entry in found:
        assert entry["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
        assert entry["loss"] == pytest.approx(entry["nll"] + 0.3 * entry["kl"], rel=1e-6)


def test_it_learns_which_tokens_matter():
    """One token of each document is the answer: weights on it lower the loss of the questions."""
    base = tiny_language_model("gpt2", seed=1)
    model = weighter()
    torch.nn.init.zeros_(model.head[-1].weight)
    result = trained(model, base, max_steps=40, accumulation=1, kl_weight=0.0, inner_lr=0.5, validate_every=20)
    assert result.history[-1]["nll"] < result.history[0]["nll"] - 0.05
    assert result.best_step == 40


# --- the folder


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("inner", ["sgd", "adam"])
def test_going_on_is_not_having_stopped(tmp_path, stop, inner):
    options = {"accumulation": 1, "max_steps": 4, "checkpoint_every": 1, "inner_optimizer": inner, "inner_lr": 0.01}
    base = tiny_language_model("gpt2", seed=9)
    whole, torn = weighter(dropout=0.2), weighter(dropout=0.2)
    trained(whole, base, tmp_path / "whole", **options, keep_checkpoints=9)
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    for step in range(stop + 1, 5):
        shutil.rmtree(tmp_path / "torn" / "checkpoints" / f"checkpoint-{step}")
    with pytest.raises(RunError, match="holds a training already"):
        trained(torn, base, tmp_path / "torn", **options)
    result = trained(torn, base, tmp_path / "torn", **options, resume=True)
    assert result.steps == 4
    assert same(state(whole), state(torn))
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "torn")]
    assert [line.split('"nll"')[0] for line in logs[0]] == [line.split('"nll"')[0] for line in logs[1]]


def test_the_best_weighter_is_kept(tmp_path):
    model = weighter()
    result = trained(model, tiny_language_model("gpt2", seed=9), tmp_path, max_steps=6, accumulation=1, patience=2)
    kept = LearnedWeighter.load(tmp_path / "weighter")
    best = min(result.history, key=lambda entry: entry["loss"])
    assert best["step"] == result.best_step
    again = trained(copy.deepcopy(kept), tiny_language_model("gpt2", seed=9), max_steps=1, outer_lr=1e-12)
    assert again.history[0]["loss"] == pytest.approx(best["loss"], rel=1e-6)


def test_only_the_last_blocks_are_updated():
    base = tiny_language_model("gpt2", seed=9)
    result = trained(weighter(), base, layers=1, kl_weight=0.0)
    whole = trained(weighter(), base, kl_weight=0.0)
    assert 0 < abs(result.history[0]["nll_gain"]) < abs(whole.history[0]["nll_gain"])


# --- data


def test_a_row_is_a_question():
    document = Document("a b c", questions=(Question("is it ?", ("no",)), Question("was it ?", ("no",))))
    rows = MetaRows(QuestionSet((document, Document("the film"))), tokenizer())
    assert len(rows) == 2
    assert rows[0]["parts"] is rows[1]["parts"]
    assert len(MetaRows(QuestionSet((document,)), tokenizer(), limit=1)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": -1.0}, "`inner_lr`: Input should be greater than 0"),
        ({"no_such": 1}, "`no_such`: Extra inputs are not permitted"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        trained(weighter(), tiny_language_model("gpt2"), **options)


def test_locality_needs_text():
    with pytest.raises(ValueError, match="`web_text` must hold texts"):
        meta_train(weighter(), tiny_language_model("gpt2"), tokenizer(), questions(), questions(), max_steps=1)


def test_documents_without_questions_are_refused():
    only_read = QuestionSet((Document("the film"),))
    with pytest.raises(ValueError, match="must hold a document with a question"):
        trained(weighter(), tiny_language_model("gpt2"), train=only_read)
