"""Positional features for graphs that have none: where a node is, from the edges alone.

- `spectral_features`: leading eigenvectors of the normalised adjacency (equally, smallest of the normalised
  Laplacian; Ng, Jordan and Weiss 2001).
- `personalized_pagerank_features`: a factorisation of the logarithm of truncated personalised PageRank. VERSE
  (Tsitsulin et al. 2018), which the published experiments use, fits the same similarity by sampling; the
  factorisation needs no sampling and gives the same answer each time.

Both are deterministic for a seed, each column's sign is fixed by its largest entry, and columns are scaled to a mean
square of one over all entries.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from taskloom.graphs.data import CommunityGraph

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["normalized_adjacency", "personalized_pagerank_features", "spectral_features"]


def normalized_adjacency(graph: CommunityGraph) -> "csr_array":
    """D^-1/2 A D^-1/2 as a SciPy sparse array; rows and columns of nodes without an edge are zero."""
    from scipy.sparse import csr_array, diags_array

    adjacency = graph.adjacency()
    degree = adjacency.sum(axis=1)
    scale = diags_array(np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0))
    return csr_array(scale @ adjacency @ scale)


def spectral_features(graph: CommunityGraph, dimensions: int = 64, seed: int = 0) -> Tensor:
    """Eigenvectors of the largest eigenvalues of D^-1/2 A D^-1/2, largest first.

    Args:
        graph: the graph.
        dimensions: eigenvectors, fewer than the nodes.
        seed: of the iteration's start.

    Returns:
        FloatTensor[nodes, dimensions].
    """
    from scipy.sparse.linalg import eigsh

    if not 1 <= dimensions < graph.num_nodes:
        raise ValueError(f"`dimensions` must be from 1 to nodes - 1 = {graph.num_nodes - 1}; found {dimensions}")
    start = np.random.default_rng(seed).normal(size=graph.num_nodes)
    values, vectors = eigsh(normalized_adjacency(graph), k=dimensions, which="LA", v0=start)
    return _finished(vectors[:, np.argsort(-values)])


def personalized_pagerank_features(
    graph: CommunityGraph,
    dimensions: int = 128,
    restart: float = 0.15,
    threshold: float = 1e-4,
    seed: int = 0,
) -> Tensor:
    """U sqrt(S) of the truncated SVD of max(0, log(nodes * PPR)): 0 where PPR is at chance level or below.

    PPR[u, v] is the probability that a walk from u that stops with probability `restart` at each step stops at v.

    Args:
        graph: the graph.
        dimensions: columns, fewer than the nodes.
        restart: the walk's probability to stop at a step (VERSE: 0.15).
        threshold: probabilities below it are dropped while walking, which keeps the matrix sparse.
        seed: of the randomised SVD.

    Returns:
        FloatTensor[nodes, dimensions].
    """
    from sklearn.utils.extmath import randomized_svd

    if not 1 <= dimensions < graph.num_nodes:
        raise ValueError(f"`dimensions` must be from 1 to nodes - 1 = {graph.num_nodes - 1}; found {dimensions}")
    similarity = _pagerank(graph, restart, threshold)
    similarity.data = np.maximum(np.log(graph.num_nodes * similarity.data), 0)
    left, values, _ = randomized_svd(similarity, n_components=dimensions, random_state=seed)
    return _finished(left * np.sqrt(values))


def _pagerank(graph: CommunityGraph, restart: float, threshold: float, rows: int = 2000) -> "csr_array":
    """Truncated PPR as a sparse array [nodes, nodes], computed `rows` start nodes at a time."""
    from scipy.sparse import csr_array, diags_array, eye_array, vstack

    adjacency = graph.adjacency()
    degree = adjacency.sum(axis=1)
    transition = csr_array(diags_array(1 / np.maximum(degree, 1)) @ adjacency)
    starts = csr_array(eye_array(graph.num_nodes, format="csr"))
    blocks = []
    for first in range(0, graph.num_nodes, rows):
        walkers = starts[first : first + rows]
        stopped = walkers * restart
        while walkers.nnz:
            walkers = (walkers @ transition) * (1 - restart)
            walkers.data[walkers.data < threshold] = 0
            walkers.eliminate_zeros()
            stopped = stopped + walkers * restart
        blocks.append(stopped)
    return csr_array(vstack(blocks))


def _finished(columns: np.ndarray) -> Tensor:
    largest = columns[np.abs(columns).argmax(axis=0), np.arange(columns.shape[1])]
    columns = columns * np.where(largest < 0, -1.0, 1.0)
    return torch.from_numpy(columns / np.sqrt(np.mean(columns**2))).float()
