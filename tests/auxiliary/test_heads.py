"""The losses of all outputs against plain loops, and what counts in them."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from taskloom.auxiliary.heads import ObjectiveHeads
from taskloom.auxiliary.space import Objective
from taskloom.auxiliary.stages import REPRESENTATIONS
from taskloom.auxiliary.views import visibility
from taskloom.auxiliary.vocabulary import VocabularyHead
from taskloom.errors import RecipeError
from taskloom.tasks import Task
from tests.adapters.support import encoder
from tests.auxiliary.tiny_bodies import WordsOnly, encoder_body, generator, rows, states

WIDTH, WORDS = 6, 40
SENTENCES = {"adjacent-sentence": 3, "sentence-order": 2, "sentence-continuity": 2, "next-sentence": 2}
LABELLED = [
    Task(name="tone", inputs=("text",), labels=("bad", "good", "none")),
    Task(name="strength", kind="regression", inputs=("text",)),
    Task(name="names", kind="token", inputs=("text",), labels=("O", "B")),
    Task(name="answer.v1", kind="span", inputs=("question", "text")),
]
ALL = ["denoise", "tf", "tfidf", "cap", "quick-thoughts", "fastsent", *SENTENCES, *(task.name for task in LABELLED)]


def objective(output: str, representation: str = "bidirectional", transform: str = "none") -> Objective:
    return Objective("task", transform, representation, output)


def heads(outputs=ALL, share: bool = True, **fields) -> ObjectiveHeads:
    torch.manual_seed(0)
    made = ObjectiveHeads([objective(output) for output in outputs], WIDTH, labelled=LABELLED, share=share, **fields)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.double().eval()


class Given:
    """Random states, vectors and targets of all kinds, with which state predicts what."""

    def __init__(self, representation: str = "bidirectional", seed: int = 0):
        batch, draws = rows(), generator(seed)
        special = batch.special
        targets = {
            "tf": torch.randint(4, (3, 7), generator=draws).masked_fill(special, -100),
            "cap": torch.randint(2, (3, 7), generator=draws).masked_fill(special, -100),
            "tfidf": (5 * torch.rand(3, 7, generator=draws)).masked_fill(special, 0),
            "fastsent": torch.tensor([[7, 9, 7, -100], [-100] * 4, [30, -100, -100, -100]]),
            **{name: torch.randint(classes, (3,), generator=draws) for name, classes in SENTENCES.items()},
            "tone": {"labels": torch.tensor([2.0, 0.0, 1.0])},
            "strength": {"labels": torch.tensor([2.5, -0.5, 1.0])},
            "names": {
                "labels": torch.zeros(3),
                "token_labels": torch.randint(2, (3, 7), generator=draws).masked_fill(special, -100),
            },
            "answer.v1": {"labels": torch.zeros(3), "span_labels": torch.tensor([[1, 2], [3, 3], [0, 0]])},
        }
        self.batch = replace(batch, targets=targets)
        self.states = torch.randn(3, 7, WIDTH, generator=draws).double().requires_grad_()
        self.pooled = torch.randn(3, WIDTH, generator=draws).double().requires_grad_()
        self.counted = (torch.rand(3, 7, generator=draws) < 0.5) & ~special
        self.predictor = visibility(representation, batch.attention_mask, draws).predictor
        self.body = WordsOnly(WIDTH, WORDS)

    def loss(self, made: ObjectiveHeads, output: str) -> tuple[Tensor, Tensor]:
        return made.loss(
            objective(output), self.states, self.pooled, self.batch, self.counted, self.predictor, self.body
        )


def linear(made: ObjectiveHeads, output: str, features: Tensor) -> Tensor:
    part = made.heads[f"of:{output}"].linear
    return part.weight @ features + part.bias


def nll(logits: Tensor, target: int) -> float:
    return -(logits[target] - logits.exp().sum().log()).item()


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("output", ["denoise", "tf", "cap", "tfidf"])
def test_token_outputs_are_predicted_from_the_states_that_the_view_says(output, representation):
    given, made = Given(representation), heads()
    losses, read = [], []
    for row in range(3):
        for token in range(7):
            before = int(given.predictor[row, token])
            wanted = given.counted[row, token] if output == "denoise" else not given.batch.special[row, token]
            if before < 0 or not wanted:
                continue
            state = given.states[row, before]
            if output == "denoise":
                read.append(state)
                losses.append(nll(given.body.linear(state), int(given.batch.input_ids[row, token])))
            elif output == "tfidf":
                value = linear(made, output, state).item()
                losses.append(min((value - given.batch.targets[output][row, token].item()) ** 2, 50.0))
            else:
                losses.append(nll(linear(made, output, state), int(given.batch.targets[output][row, token])))
    loss, count = given.loss(made, output)
    assert count.item() == len(losses) > 3
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert loss.dtype == torch.float32
    if output == "denoise":  # the vocabulary's logits are made for what counts alone
        (seen,) = given.body.given
        assert torch.equal(seen, torch.stack(read))


@pytest.mark.parametrize("output", SENTENCES)
def test_sentence_outputs(output):
    given, made = Given(), heads()
    labels = given.batch.targets[output].tolist()
    losses = [nll(linear(made, output, given.pooled[row]), label) for row, label in enumerate(labels)]
    loss, count = given.loss(made, output)
    assert count.item() == 3
    assert loss.item() == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert made.heads[f"of:{output}"].linear.out_features == SENTENCES[output]


def test_fastsent_is_the_mean_over_the_neighbours_words():
    given, made = Given(), heads()
    losses = []
    for row, words in enumerate(given.batch.targets["fastsent"].tolist()):
        logits = given.body.linear(given.pooled[row])
        losses += [nll(logits, word) for word in words if word >= 0]
    loss, count = given.loss(made, "fastsent")
    assert count.item() == len(losses) == 4
    assert loss.item() == pytest.approx(sum(losses) / 4, rel=1e-6)
    assert torch.equal(given.body.given[0], given.pooled[[0, 2]])  # the second row has no neighbours


@pytest.mark.parametrize("count", [2, 4, 5])
def test_quick_thoughts_finds_each_row_its_neighbour(count):
    made, given = heads(), Given()
    pooled = torch.randn(count, WIDTH, dtype=torch.float64, generator=generator())
    batch = replace(given.batch, input_ids=torch.ones(count, 3, dtype=torch.long))
    part = made.heads["of:quick-thoughts"]
    row = [part.row.linear.weight @ vector + part.row.linear.bias for vector in pooled]
    candidate = [part.candidate.linear.weight @ vector + part.candidate.linear.bias for vector in pooled]
    losses = []
    for query in range(count - count % 2):
        own = query + 1 if query % 2 == 0 else query - 1
        others = range((query + 1) % 2, count - count % 2, 2)
        scores = {other: (row[query] @ candidate[other]).item() for other in others}
        losses.append(math.log(sum(math.exp(score - scores[own]) for score in scores.values())))
    loss, rows_counted = made.loss(
        objective("quick-thoughts"), given.states, pooled, batch, given.counted, given.predictor, given.body
    )
    assert rows_counted.item() == len(losses)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5, abs=1e-6)


def test_supervised_outputs_of_each_kind():
    given, made = Given(), heads()

    def rows_of(output: str, level: str) -> tuple[Tensor, Tensor]:
        part = getattr(made.heads[f"of:{output.replace('.', '%2E')}"], level).linear
        return part.weight, part.bias

    weight, bias = rows_of("tone", "sequence")
    expected = [nll(weight @ given.pooled[row] + bias, label) for row, label in enumerate([2, 0, 1])]
    assert given.loss(made, "tone")[0].item() == pytest.approx(sum(expected) / 3, rel=1e-5)

    weight, bias = rows_of("strength", "sequence")
    expected = [((weight @ given.pooled[row] + bias).item() - score) ** 2 for row, score in enumerate([2.5, -0.5, 1.0])]
    assert given.loss(made, "strength")[0].item() == pytest.approx(sum(expected) / 3, rel=1e-5)

    weight, bias = rows_of("names", "token")
    expected = []
    for row, labels in enumerate(given.batch.targets["names"]["token_labels"].tolist()):
        own = [nll(weight @ given.states[row, at] + bias, label) for at, label in enumerate(labels) if label >= 0]
        expected.append(sum(own) / len(own))
    loss, count = given.loss(made, "names")
    assert (loss.item(), count.item()) == (pytest.approx(sum(expected) / 3, rel=1e-5), 3)

    weight, bias = rows_of("answer.v1", "token")
    expected = []
    for row, ends in enumerate(given.batch.targets["answer.v1"]["span_labels"].tolist()):
        length = int(given.batch.attention_mask[row].sum())
        scores = given.states[row, :length] @ weight.T + bias
        expected.append(sum(nll(scores[:, end], ends[end]) for end in (0, 1)) / 2)
    assert given.loss(made, "answer.v1")[0].item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_a_large_squared_error_is_scaled_with_its_gradient():
    given, made = Given(), heads(["tfidf"])
    given.batch.targets["tfidf"][0, 1] = 1e4
    given.batch.special[:] = True
    given.batch.special[0, 1] = False
    loss, count = given.loss(made, "tfidf")
    assert (loss.item(), count.item()) == (pytest.approx(50), 1)
    (gradient,) = torch.autograd.grad(loss, given.states)
    part = made.heads["of:tfidf"].linear
    error = float(linear(made, "tfidf", given.states[0, 1])) - 1e4
    torch.testing.assert_close(gradient[0, 1], (50 / error**2) * 2 * error * part.weight[0])


@pytest.mark.parametrize("output", ["denoise", "tf", "cap", "tfidf", "fastsent", *SENTENCES])
def test_where_nothing_counts_the_loss_is_zero_with_a_graph(output):
    given, made = Given(), heads()
    given.counted[:] = False
    given.batch.special[:] = True
    if output in given.batch.targets and output != "tfidf":
        given.batch.targets[output].fill_(-100)
    loss, count = given.loss(made, output)
    assert (loss.item(), count.item()) == (0.0, 0)
    loss.backward()
    for parameter in [*made.parameters(), *given.body.parameters()]:
        assert parameter.grad is None or (parameter.grad == 0).all()


@pytest.mark.parametrize("output", [output for output in ALL if output != "quick-thoughts"])
def test_counts_add_up_over_parts_of_a_batch(output):
    given, made = Given("left-to-right"), heads()
    whole, total = given.loss(made, output)
    again = 0.0
    for part in (slice(0, 1), slice(1, 3)):
        batch = given.batch.rows(part)
        chosen = given.counted[part], given.predictor[part]
        loss, count = made.loss(objective(output), given.states[part], given.pooled[part], batch, *chosen, given.body)
        assert torch.equal(count, made.count(objective(output), batch, *chosen))
        again += loss.item() * count.item() / total.item()
    assert again == pytest.approx(whole.item(), rel=1e-6)


def test_heads_are_shared_by_outputs_or_are_one_an_objective():
    objectives = [
        objective(output, "bidirectional", transform) for output in ("tf", "denoise") for transform in ("none", "mask")
    ]
    assert len(ObjectiveHeads(objectives, WIDTH).heads) == 1
    own = ObjectiveHeads(objectives, WIDTH, share=False)
    assert len(own.heads) == 2
    given = Given()
    losses = [
        own.double()
        .loss(each, given.states, given.pooled, given.batch, given.counted, given.predictor, given.body)[0]
        .item()
        for each in objectives
    ]
    assert losses[0] != losses[1]
    assert losses[2] == losses[3]


def test_a_task_without_head_and_an_unknown_output_are_refused():
    story = Task(name="story", kind="text2text", inputs=("text",))
    with pytest.raises(RecipeError, match="'story' as an output is of kind 'text2text', which has no head"):
        ObjectiveHeads([objective("story")], WIDTH, labelled=[story])
    with pytest.raises(ValueError, match="'mood' is neither known nor the name of a labelled task"):
        ObjectiveHeads([objective("mood")], WIDTH, labelled=LABELLED)


def test_the_vocabulary_heads_own_parameters_train_and_are_saved_here():
    body = encoder_body()
    model = encoder("bert", auto="AutoModelForMaskedLM")
    body.head = VocabularyHead(model, body.embedding, pretrained=True)
    made = ObjectiveHeads([objective("denoise")], body.width, vocabulary=body.head).double()
    own = sum(parameter.numel() for parameter in made.parameters())
    assert own == sum(parameter.numel() for parameter in model.cls.predictions.transform.parameters()) + 60
    batch = rows()
    found = body.hidden(batch.input_ids, batch.attention_mask, batch.task)
    pooled = body.pool(found, batch.attention_mask)
    predictor = visibility("bidirectional", batch.attention_mask, generator()).predictor
    loss, count = made.loss(objective("denoise"), found, pooled, batch, ~batch.special, predictor, body)
    logits = model.cls(found)  # whose projection is gone: what is left is the transform
    expected = F.cross_entropy(
        (logits @ body.embedding.weight.T + body.head.bias)[~batch.special], batch.input_ids[~batch.special]
    )
    assert count == (~batch.special).sum()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())
    made.load_state_dict(load(save(made.state_dict())))


def test_under_autocast_losses_are_in_float32_and_close():
    given = Given()
    given.states, given.pooled = given.states.detach().float(), given.pooled.detach().float()
    made = heads().float()
    given.body.float()
    for output in ALL:
        plain, _ = given.loss(made, output)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed, _ = given.loss(made, output)
            low, _ = made.loss(
                objective(output),
                given.states.bfloat16(),
                given.pooled.bfloat16(),
                given.batch,
                given.counted,
                given.predictor,
                given.body,
            )
        assert mixed.dtype == low.dtype == torch.float32
        assert mixed.item() == pytest.approx(plain.item(), rel=0.05, abs=0.05)
        assert low.item() == pytest.approx(plain.item(), rel=0.05, abs=0.05)


def test_other_token_outputs_count_all_words_whatever_was_selected():
    body = encoder_body()
    batch = replace(rows(), targets=Given().batch.targets)
    made = ObjectiveHeads([objective("tf")], body.width).double()
    found = states(body, batch).requires_grad_()
    loss, _ = made.loss(
        objective("tf"), found, body.pool(found, batch.attention_mask), batch, ~batch.special, Given().predictor, body
    )
    (gradient,) = torch.autograd.grad(loss, found)
    assert torch.equal(gradient.abs().sum(dim=-1) > 0, ~batch.special)
