import pytest
import torch

from taskloom.affinity import SubsetSurrogate, collect_gradients
from taskloom.gradients import Projection, per_example_gradients
from taskloom.graphs import (
    SIGN,
    SIGNSettings,
    community_loaders,
    community_margin,
    propagate,
    score_sign,
    spectral_features,
    split_communities,
    train_sign,
)
from tests.graphs.planted import planted_graph


def test_per_example_gradients_of_sign_equal_a_loop_of_autograd():
    torch.manual_seed(0)
    model = SIGN(4, 3, hops=2, hidden=6, layers=3).eval()
    batch = {"x": torch.randn(7, 3, 4), "task": torch.randint(3, (7,)), "labels": torch.randint(2, (7,))}
    found = per_example_gradients(model, batch, community_margin)
    names, parameters = zip(*model.named_parameters(), strict=True)
    assert set(found) == set(names)
    margins = community_margin(model(**batch), batch)
    for example, margin in enumerate(margins):
        for name, gradient in zip(names, torch.autograd.grad(margin, parameters, retain_graph=True), strict=True):
            error = (found[name][example] - gradient).norm()
            assert error <= 1e-5 * gradient.norm().clamp(min=1e-3), name


def test_a_collection_of_communities_holds_the_models_own_scores(tmp_path):
    graph = planted_graph()
    data = split_communities(graph, propagate(graph, spectral_features(graph, 4), hops=1), negatives=2)
    model = train_sign(data, data.names, SIGNSettings(hidden=8, epochs=5))
    store = collect_gradients(
        model,
        community_loaders(data, "train"),
        community_margin,
        validation=community_loaders(data, "validation", batch_size=7),
        folder=tmp_path / "gradients",
        projection=Projection(16),
    )
    assert tuple(store.tasks) == data.names
    surrogate = SubsetSurrogate(store)
    base = torch.zeros(1, 16)
    scores = score_sign(model, data, data.names)
    for metric in ("loss", "f1"):
        expected = [scores[name][metric] for name in data.names]
        assert surrogate.evaluate(base, metric)[0].tolist() == pytest.approx(expected, abs=1e-5)
