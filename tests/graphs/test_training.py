import subprocess
import sys

import pytest
import torch
from sklearn.metrics import f1_score

from taskloom.errors import DataError
from taskloom.graphs import (
    SIGN,
    NodeTasks,
    SIGNSettings,
    community_loaders,
    community_margin,
    propagate,
    score_sign,
    spectral_features,
    split_communities,
    train_sign,
)
from tests.graphs.planted import path_graph, planted_graph

TINY = SIGNSettings(hidden=8, epochs=30)


@pytest.fixture(scope="module")
def tasks() -> NodeTasks:
    graph = planted_graph()
    return split_communities(graph, propagate(graph, spectral_features(graph, 4), hops=2), negatives=2)


def test_shares_are_as_published_and_parts_are_disjoint():
    graph = planted_graph()
    data = split_communities(graph, torch.zeros(90, 1))
    train, validation, test = (data.masks[part] for part in ("train", "validation", "test"))
    assert torch.equal(train.int() + validation.int() + test.int(), torch.ones(90, 3, dtype=torch.int))
    for mask, positives, others in [(train, 6, 12), (validation, 6, 12), (test, 18, 36)]:
        assert (mask & data.labels).sum(0).tolist() == [positives] * 3
        assert (mask & ~data.labels).sum(0).tolist() == [others] * 3


def test_negatives_are_limited_and_chosen_from_the_part(tasks):
    full = split_communities(planted_graph(), tasks.inputs)
    for part, positives in {"train": 6, "validation": 6, "test": 18}.items():
        assert (tasks.masks[part] & tasks.labels).sum(0).tolist() == [positives] * 3
        assert (tasks.masks[part] & ~tasks.labels).sum(0).tolist() == [2 * positives] * 3
        assert not (tasks.masks[part] & ~full.masks[part]).any()


def test_a_tasks_examples_do_not_depend_on_the_other_tasks(tasks):
    graph = planted_graph()
    names = ["block-2", "block-0"]
    fewer = split_communities(graph.select(names), tasks.inputs, negatives=2)
    for part, mask in fewer.masks.items():
        assert torch.equal(mask, tasks.masks[part][:, tasks.columns(names)])
    other = split_communities(graph, tasks.inputs, negatives=2, seed=1)
    assert not torch.equal(other.masks["train"], tasks.masks["train"])


def test_a_task_without_examples_is_named():
    graph = path_graph()
    with pytest.raises(
        DataError, match=r"task 'a': 0 positive and 0 negative nodes for train, of 2 members in 5 nodes"
    ):
        split_communities(graph, torch.zeros(5, 1))
    with pytest.raises(ValueError, match="`train` \\+ `validation`"):
        split_communities(graph, torch.zeros(5, 1), train=0.5, validation=0.5)
    with pytest.raises(ValueError, match="`inputs` has 4 rows"):
        split_communities(graph, torch.zeros(4, 1))


def test_unknown_tasks_are_named(tasks):
    with pytest.raises(DataError, match=r"no task 'blok-1'\. Did you mean 'block-1'"):
        tasks.columns(["blok-1"])


def test_training_overfits_a_planted_graph(tasks):
    names = ["block-2", "block-0"]
    model = train_sign(tasks, names, TINY)
    assert not model.training
    for part in ("train", "validation"):
        assert all(score["f1"] > 0.95 for score in score_sign(model, tasks, names, part).values())
    assert all(score["loss"] < 0.05 for score in score_sign(model, tasks, names, "train").values())


def test_training_repeats_with_its_seed_and_leaves_the_random_state(tasks):
    before = torch.get_rng_state()
    first, again, other = (train_sign(tasks, tasks.names, TINY, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.0.weight"], other["head.0.weight"])


def test_going_on_from_a_model_improves_its_tasks_and_leaves_it_alone(tasks):
    start = train_sign(tasks, tasks.names, SIGNSettings(hidden=8, epochs=3))
    before = {key: value.clone() for key, value in start.state_dict().items()}
    model = train_sign(tasks, ["block-1"], TINY, start=start)
    assert all(torch.equal(before[key], value) for key, value in start.state_dict().items())
    first, then = (score_sign(each, tasks, tasks.names, "train")["block-1"]["loss"] for each in (start, model))
    assert then < first / 2
    # Only the head's row of the trained task may move: the others get no gradient.
    assert torch.equal(model.head[-1].weight[[0, 2]], start.head[-1].weight[[0, 2]])
    assert not torch.equal(model.head[-1].weight[1], start.head[-1].weight[1])


def test_labels_outside_the_masks_do_not_matter(tasks):
    labels = torch.where(tasks.masks["train"], tasks.labels, ~tasks.labels)
    flipped = NodeTasks(tasks.inputs, labels, tasks.masks, tasks.names)
    first, second = (train_sign(data, tasks.names, TINY).state_dict() for data in (tasks, flipped))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_f1_and_loss_by_hand():
    class Fixed(torch.nn.Module):
        def forward(self, x):
            return x[:, 0]

    logits = torch.tensor([[2.0, 1.0], [-1.0, 1.0], [0.5, 1.0], [3.0, 1.0], [-2.0, -9.0]])
    labels = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 0], [0, 1]]).bool()
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [0, 1], [1, 0]]).bool()
    scores = score_sign(Fixed(), NodeTasks(logits[:, None], labels, {"validation": mask}, ("a", "b")), ["b", "a"][::-1])
    # a: nodes 0 (found), 1 (missed), 2 (wrongly found), 4 (rightly not) -> 2 * 1 / (2 * 1 + 1 + 1)
    assert scores["a"]["f1"] == pytest.approx(0.5)
    assert scores["a"]["f1"] == pytest.approx(f1_score([1, 1, 0, 0], [1, 0, 1, 0]))
    assert scores["b"]["f1"] == pytest.approx(2 / (2 + 3))
    right = torch.tensor([2.0, -1.0, -0.5, 2.0])
    assert scores["a"]["loss"] == pytest.approx(float(torch.log1p(torch.exp(-right)).mean()))


def test_loaders_hold_each_tasks_examples_and_margins(tasks):
    loaders = community_loaders(tasks, "validation", batch_size=5)
    assert list(loaders) == list(tasks.names)
    model = SIGN(4, 3, hops=2, hidden=8).eval()
    for column, name in enumerate(tasks.names):
        batches = list(loaders[name])
        assert {len(batch["x"]) for batch in batches[:-1]} == {5}
        mask = tasks.masks["validation"][:, column]
        assert torch.equal(torch.cat([batch["x"] for batch in batches]), tasks.inputs[mask])
        assert torch.equal(torch.cat([batch["labels"] for batch in batches]), tasks.labels[mask, column].long())
        margins = torch.cat([community_margin(model(**batch), batch) for batch in batches])
        probability = model(tasks.inputs[mask])[:, column].sigmoid()
        right = torch.where(tasks.labels[mask, column], probability, 1 - probability)
        torch.testing.assert_close(margins, torch.log(right / (1 - right)), atol=1e-4, rtol=1e-4)


def test_the_packages_names_resolve_without_loading_torch():
    code = "import sys, taskloom.graphs; assert not {'torch', 'scipy', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    import taskloom.graphs

    assert all(getattr(taskloom.graphs, name) is not None for name in taskloom.graphs.__all__)
