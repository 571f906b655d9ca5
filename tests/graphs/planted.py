"""A small graph with planted communities, and files that hold it."""

from pathlib import Path

import torch

from taskloom.graphs.data import CommunityGraph, undirected


def planted_graph(blocks: int = 3, size: int = 30, inside: float = 0.5, outside: float = 0.02, seed: int = 0):
    """A stochastic block model: nodes of one block are neighbours with probability `inside`, others with `outside`."""
    generator = torch.Generator().manual_seed(seed)
    nodes = blocks * size
    block = torch.arange(nodes) // size
    chance = torch.where(block[:, None] == block, inside, outside)
    edges = (torch.rand(nodes, nodes, generator=generator) < chance).triu(1).nonzero().T
    return CommunityGraph(
        undirected(edges, nodes),
        nodes,
        tuple((block == number).nonzero().flatten() for number in range(blocks)),
        tuple(f"block-{number}" for number in range(blocks)),
        torch.arange(nodes),
    )


def path_graph() -> CommunityGraph:
    """0 - 1 - 2 - 3, 1 - 3, and node 4 alone; two overlapping communities."""
    edges = undirected(torch.tensor([[0, 1, 2, 1], [1, 2, 3, 3]]), 5)
    return CommunityGraph(edges, 5, (torch.tensor([0, 1]), torch.tensor([1, 2, 4])), ("a", "b"), torch.arange(5))


def write_snap(folder: Path, edges: str, communities: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "edges.txt").write_text(edges)
    (folder / "communities.txt").write_text(communities)
    return folder
