"""The dev head is the minimum of the penalised training loss on given features."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from taskloom.auxiliary.dev_head import DevHead, HeadInputs
from taskloom.heads import TaskHeads
from taskloom.tasks import Task

WIDTH = 5
TOPIC = Task(name="topic", inputs=("text",), kind="classification", labels=("a", "b", "c"))
SCORE = Task(name="score", inputs=("text",), kind="regression")
TAGS = Task(name="tags", inputs=("words",), kind="token", labels=("O", "X"))


def inputs(rows: int, tasks: list[int], seed: int = 0, tokens: int = 3) -> HeadInputs:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(rows, WIDTH, generator=generator)
    task = torch.tensor(tasks * rows)[:rows]
    labels = torch.randint(3, (rows,), generator=generator).float()
    targets = {"labels": labels, "token_labels": torch.randint(2, (rows, tokens), generator=generator)}
    hidden = torch.randn(rows, tokens, WIDTH, generator=generator)
    return HeadInputs(pooled, hidden, task, torch.ones(rows, tokens, dtype=torch.long), targets)


def test_classification_is_the_penalised_logistic_regression():
    given = inputs(40, [0])
    decay = 0.1
    heads = DevHead(TaskHeads([TOPIC], WIDTH), decay).fit([given])
    # scikit-learn minimises C * sum of losses + |W|^2 / 2
    oracle = LogisticRegression(C=1 / (decay * len(given.pooled)), tol=1e-10, max_iter=10_000)
    oracle.fit(given.pooled.numpy(), given.targets["labels"].numpy())
    found = heads(given.pooled, given.hidden, given.task)["logits"].softmax(dim=-1)
    assert torch.allclose(found, torch.tensor(oracle.predict_proba(given.pooled.numpy())).float(), atol=2e-3)


def test_several_passes_are_one_fit():
    whole = inputs(24, [0])
    parts = [
        HeadInputs(
            *(value[rows] for value in (whole.pooled, whole.hidden, whole.task, whole.attention_mask)),
            {name: value[rows] for name, value in whole.targets.items()},
        )
        for rows in (slice(0, 10), slice(10, 24))
    ]
    together = DevHead(TaskHeads([TOPIC], WIDTH)).fit([whole])
    apart = DevHead(TaskHeads([TOPIC], WIDTH)).fit(parts)
    assert torch.allclose(together.sequence.linear.weight, apart.sequence.linear.weight, atol=1e-4)


def test_regression_is_ridge_regression_in_closed_form():
    given = inputs(30, [0])
    decay = 0.3
    heads = DevHead(TaskHeads([SCORE], WIDTH), decay).fit([given])
    # scikit-learn minimises the sum of squares + alpha |w|^2
    oracle = Ridge(alpha=decay * len(given.pooled) / 2).fit(given.pooled.numpy(), given.targets["labels"].numpy())
    found = heads(given.pooled, given.hidden, given.task)["logits"][:, 0]
    assert torch.allclose(found, torch.tensor(oracle.predict(given.pooled.numpy())).float(), atol=1e-4)


@pytest.mark.parametrize("tasks", [[TOPIC, SCORE, TAGS], [SCORE, SCORE.model_copy(update={"name": "other"})], [TAGS]])
def test_the_loss_is_flat_at_the_fit_and_no_pass_through_anything_else_is_needed(tasks):
    trained = TaskHeads(tasks, WIDTH, dropout=0.5)
    head = DevHead(trained, 0.05)
    given = inputs(36, list(range(len(tasks))))
    before = [parameter.clone() for parameter in trained.parameters()]
    head.fit([given])
    gradients = torch.autograd.grad(head.loss([given]), list(head.heads.parameters()))
    assert max(gradient.abs().max().item() for gradient in gradients) < 2e-3
    assert all(torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))


def test_a_fitted_head_is_frozen_and_independent_of_earlier_fits():
    head = DevHead(TaskHeads([TOPIC], WIDTH))
    first = head.fit([inputs(20, [0], seed=1)])
    weight = first.sequence.linear.weight.clone()
    head.fit([inputs(20, [0], seed=2)])
    again = head.fit([inputs(20, [0], seed=1)])
    assert torch.equal(first.sequence.linear.weight, weight)
    assert torch.equal(again.sequence.linear.weight, weight)
    assert not any(parameter.requires_grad for parameter in first.parameters())
