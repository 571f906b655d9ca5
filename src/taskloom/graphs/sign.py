"""SIGN (Frasca et al. 2020): the graph enters once, as precomputed hops; what is trained is a plain MLP.

Section 3, equation 4: Y = MLP(σ([X Θ_0 | Â X Θ_1 | ... | Â^r X Θ_r])), with Â = D^-1/2 A D^-1/2. As in the
published Grad-TAG experiments, every Θ is itself an MLP, σ is a PReLU, and the head has one logit a task.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from taskloom.graphs.data import CommunityGraph
from taskloom.graphs.features import normalized_adjacency

__all__ = ["SIGN", "propagate"]


def propagate(graph: CommunityGraph, features: Tensor, hops: int = 3) -> Tensor:
    """X, Â X, ..., Â^hops X for every node.

    Args:
        graph: the graph.
        features: Tensor[nodes, features].
        hops: how far to look.

    Returns:
        FloatTensor[nodes, hops + 1, features].
    """
    if features.shape[0] != graph.num_nodes:
        raise ValueError(f"`features` has {features.shape[0]} rows; the graph has {graph.num_nodes} nodes")
    adjacency = normalized_adjacency(graph)
    reached = [features.double().numpy()]
    for _ in range(hops):
        reached.append(adjacency @ reached[-1])
    return torch.stack([torch.from_numpy(hop) for hop in reached], dim=1).float()


class SIGN(nn.Module):
    """One MLP a hop, concatenated, and an MLP on top with one logit a task.

    Args:
        features: width of a hop.
        tasks: logits.
        hops: hops beyond the node itself; the input has one more.
        hidden: width of all hidden layers.
        layers: linear layers of each MLP.
        dropout: on hidden layers.
        input_dropout: on the input.
    """

    def __init__(
        self,
        features: int,
        tasks: int,
        *,
        hops: int = 3,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.1,
        input_dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.hops = nn.ModuleList(_mlp(features, hidden, hidden, layers, dropout) for _ in range(hops + 1))
        self.join = nn.Sequential(nn.PReLU(), nn.Dropout(dropout))
        self.head = _mlp((hops + 1) * hidden, hidden, tasks, layers, dropout)

    def forward(self, x: Tensor, task: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """The logits [batch, tasks] of `x` [batch, hops + 1, features].

        `task` and `labels` are not used: they are accepted so that a batch of `community_loaders` can be passed
        whole, and left for the output function.
        """
        x = self.input_dropout(x)
        return self.head(self.join(torch.cat([mlp(x[:, hop]) for hop, mlp in enumerate(self.hops)], dim=-1)))


def _mlp(inputs: int, hidden: int, outputs: int, layers: int, dropout: float) -> nn.Sequential:
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for place, (width, following) in enumerate(pairwise(widths)):
        if place:
            parts += [nn.PReLU(), nn.Dropout(dropout)]
        linear = nn.Linear(width, following)
        nn.init.xavier_uniform_(linear.weight, gain=nn.init.calculate_gain("relu"))
        nn.init.zeros_(linear.bias)
        parts.append(linear)
    return nn.Sequential(*parts)
