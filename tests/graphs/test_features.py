import numpy as np
import pytest
import torch

from taskloom.graphs import personalized_pagerank_features, propagate, spectral_features
from taskloom.graphs.features import _pagerank, normalized_adjacency
from tests.graphs.planted import path_graph, planted_graph


def dense_adjacency(graph):
    adjacency = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    adjacency[graph.edge_index[0], graph.edge_index[1]] = 1
    return adjacency


def test_the_normalised_adjacency_by_hand():
    expected = np.zeros((5, 5))
    degree = [1, 3, 2, 2, 0]
    for u, v in [(0, 1), (1, 2), (2, 3), (1, 3)]:
        expected[u, v] = expected[v, u] = 1 / np.sqrt(degree[u] * degree[v])
    np.testing.assert_allclose(normalized_adjacency(path_graph()).toarray(), expected)


def test_hops_equal_powers_of_the_dense_matrix():
    graph = planted_graph(blocks=2, size=8)
    features = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    adjacency = dense_adjacency(graph)
    scale = torch.diag(adjacency.sum(1).clamp(min=1) ** -0.5)
    step = scale @ adjacency @ scale
    hops = propagate(graph, features, hops=3)
    assert hops.shape == (16, 4, 3)
    for hop in range(4):
        expected = torch.linalg.matrix_power(step, hop) @ features.double()
        torch.testing.assert_close(hops[:, hop].double(), expected, atol=1e-6, rtol=1e-6)


def test_a_node_without_edges_has_nothing_beyond_itself():
    hops = propagate(path_graph(), torch.ones(5, 2), hops=2)
    assert hops[4, 0].eq(1).all()
    assert hops[4, 1:].eq(0).all()


def test_spectral_columns_are_eigenvectors_in_order():
    graph = planted_graph()
    columns = spectral_features(graph, 6).double().numpy()
    matrix = normalized_adjacency(graph).toarray()
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1][:6]
    np.testing.assert_allclose(matrix @ columns, columns * values, atol=1e-5)


def test_pagerank_equals_the_linear_system():
    graph = planted_graph(blocks=2, size=10)
    adjacency = dense_adjacency(graph).numpy()
    transition = adjacency / adjacency.sum(1, keepdims=True)
    exact = 0.15 * np.linalg.inv(np.eye(20) - 0.85 * transition)
    found = _pagerank(graph, 0.15, 1e-9, rows=7).toarray()
    np.testing.assert_allclose(found, exact, atol=1e-6)
    coarse = _pagerank(graph, 0.15, 1e-2).toarray()
    assert (coarse <= found + 1e-12).all()


@pytest.mark.parametrize("features", [spectral_features, personalized_pagerank_features])
def test_features_tell_planted_communities_apart(features):
    graph = planted_graph(blocks=4)
    columns = torch.nn.functional.normalize(features(graph, 4), dim=1)
    block = torch.arange(graph.num_nodes) // 30
    centers = torch.stack([columns[block == number].mean(0) for number in range(4)])
    assert (torch.cdist(columns, centers).argmin(1) == block).float().mean() > 0.97


@pytest.mark.parametrize("features", [spectral_features, personalized_pagerank_features])
def test_features_repeat_and_have_fixed_signs_and_scale(features):
    graph = planted_graph()
    columns = features(graph, 5, seed=3)
    assert torch.equal(columns, features(graph, 5, seed=3))
    assert (columns.gather(0, columns.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(columns.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(columns[:, :3], features(graph, 5, seed=4)[:, :3], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("features", [spectral_features, personalized_pagerank_features])
@pytest.mark.parametrize("dimensions", [0, 5])
def test_dimensions_are_checked(features, dimensions):
    with pytest.raises(ValueError, match="`dimensions` must be from 1 to nodes - 1 = 4"):
        features(path_graph(), dimensions)


def test_features_of_another_graph_are_refused():
    with pytest.raises(ValueError, match="`features` has 4 rows; the graph has 5 nodes"):
        propagate(path_graph(), torch.ones(4, 2))
