"""A graph whose nodes belong to communities; every community is a binary task (Grad-TAG, graph experiments)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from taskloom.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["CommunityGraph", "undirected"]


@dataclass(frozen=True)
class CommunityGraph:
    """An undirected graph with (overlapping) communities.

    Attributes:
        edge_index: LongTensor[2, edges]; every undirected edge in both directions, once each, no self loops.
        num_nodes: nodes, of which some may have no edge.
        communities: for each task the LongTensor of its nodes, sorted.
        names: the tasks' names, unique.
        node_ids: LongTensor[nodes], the ids that the files use.
        features: FloatTensor[nodes, features], if the graph has any.
        masks: BoolTensor[nodes] for "train", "validation" and "test", if the graph comes with its own split.
    """

    edge_index: Tensor
    num_nodes: int
    communities: tuple[Tensor, ...]
    names: tuple[str, ...]
    node_ids: Tensor
    features: Tensor | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def labels(self) -> Tensor:
        """BoolTensor[nodes, tasks]: who belongs to what."""
        labels = torch.zeros(self.num_nodes, len(self.communities), dtype=torch.bool)
        for task, nodes in enumerate(self.communities):
            labels[nodes, task] = True
        return labels

    def adjacency(self) -> "csr_array":
        """The symmetric 0/1 adjacency matrix A as a SciPy sparse array [nodes, nodes] of float64."""
        import numpy as np
        from scipy.sparse import csr_array

        rows, columns = self.edge_index.numpy()
        return csr_array((np.ones(len(rows)), (rows, columns)), shape=(self.num_nodes, self.num_nodes))

    def largest(self, k: int) -> "CommunityGraph":
        """The same graph with only its `k` largest communities, largest first (ties: the earlier one first)."""
        if not 1 <= k <= len(self.communities):
            raise DataError(f"the graph has {len(self.communities)} communities; asked for the {k} largest")
        order = sorted(range(len(self.communities)), key=lambda task: -len(self.communities[task]))
        return self.select([self.names[task] for task in order[:k]])

    def select(self, names: Sequence[str]) -> "CommunityGraph":
        """The same graph with only the communities called `names`, in this order."""
        position = {name: task for task, name in enumerate(self.names)}
        unknown = [name for name in names if name not in position]
        if unknown:
            raise DataError(f"the graph has no community '{unknown[0]}'; it has {len(self.names)} others")
        kept = tuple(self.communities[position[name]] for name in names)
        return CommunityGraph(
            self.edge_index, self.num_nodes, kept, tuple(names), self.node_ids, self.features, self.masks
        )

    def induced(self) -> "CommunityGraph":
        """The subgraph of the nodes that belong to at least one community, as the published experiments use it."""
        kept = torch.unique(torch.cat(self.communities))
        new = torch.full((self.num_nodes,), -1)
        new[kept] = torch.arange(len(kept))
        edges = new[self.edge_index]
        return CommunityGraph(
            edges[:, (edges >= 0).all(0)],
            len(kept),
            tuple(new[nodes] for nodes in self.communities),
            self.names,
            self.node_ids[kept],
            None if self.features is None else self.features[kept],
            {part: mask[kept] for part, mask in self.masks.items()},
        )


def undirected(edge_index: Tensor, num_nodes: int) -> Tensor:
    """`edge_index` [2, edges] with both directions of every edge exactly once, sorted, without self loops."""
    source, target = edge_index[:, edge_index[0] != edge_index[1]]
    keys = torch.cat([source * num_nodes + target, target * num_nodes + source]).unique()
    return torch.stack([keys // num_nodes, keys % num_nodes])
