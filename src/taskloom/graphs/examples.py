"""Which nodes are whose examples: every community's own train, validation and test nodes.

As published (Grad-TAG's graph experiments), a community's members and the other nodes are split separately, task by
task, 20/20/60. What the published code lacks is a limit on the negatives: of a graph of a million nodes, a task of a
hundred members otherwise has two hundred thousand training examples.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taskloom.errors import DataError, did_you_mean
from taskloom.graphs.data import CommunityGraph

__all__ = ["PARTS", "NodeTasks", "split_communities"]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class NodeTasks:
    """Node inputs with, for each task, its labels and its examples.

    Attributes:
        inputs: Tensor[nodes, ...], a node's row is the model's input; for SIGN [nodes, hops + 1, features].
        labels: BoolTensor[nodes, tasks].
        masks: for each of `PARTS`, BoolTensor[nodes, tasks]: is this node an example of this task in this part?
        names: the tasks' names.
    """

    inputs: Tensor
    labels: Tensor
    masks: dict[str, Tensor]
    names: tuple[str, ...]

    def columns(self, tasks: Sequence[str]) -> list[int]:
        """The places of `tasks` among `names`."""
        position = {name: place for place, name in enumerate(self.names)}
        unknown = [task for task in tasks if task not in position]
        if unknown:
            raise DataError(f"no task '{unknown[0]}'.{did_you_mean(unknown[0], self.names)}")
        return [position[task] for task in tasks]


def split_communities(
    graph: CommunityGraph,
    inputs: Tensor,
    *,
    train: float = 0.2,
    validation: float = 0.2,
    negatives: float | None = None,
    seed: int = 0,
) -> NodeTasks:
    """Give every community its examples.

    Args:
        graph: the graph; if it has masks of its own they are used, and `train` and `validation` are not.
        inputs: Tensor[nodes, ...], the model's input of every node.
        train, validation: shares of the nodes; the rest is for test.
        negatives: keep at most this many negatives a positive in every part, drawn at random; None keeps all.
        seed: of the split and of the negatives. A task's examples depend on the seed, its name and its members, not
            on which other tasks there are.

    Raises:
        DataError: a task is left without a positive or a negative example in train or validation (named).
        ValueError: the shares are not positive or leave nothing for test.
    """
    if not (train > 0 and validation > 0 and train + validation < 1):
        raise ValueError(f"`train` + `validation` must be positive and below 1; found {train} + {validation}")
    if inputs.shape[0] != graph.num_nodes:
        raise ValueError(f"`inputs` has {inputs.shape[0]} rows; the graph has {graph.num_nodes} nodes")
    labels = graph.labels
    masks = {part: torch.zeros_like(labels) for part in PARTS}
    for task, name in enumerate(graph.names):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        positives = _parts(graph, labels[:, task], rng, train, validation)
        others = _parts(graph, ~labels[:, task], rng, train, validation)
        for part in PARTS:
            limit = len(others[part]) if negatives is None else round(negatives * len(positives[part]))
            chosen = [positives[part], others[part][:limit]]
            if part != "test" and not all(map(len, chosen)):
                raise DataError(
                    f"task '{name}': {len(chosen[0])} positive and {len(chosen[1])} negative nodes for {part}, of "
                    f"{len(graph.communities[task])} members in {graph.num_nodes} nodes; it needs one of each or more: "
                    f"use larger communities or a larger share for {part}"
                )
            masks[part][np.concatenate(chosen), task] = True
    return NodeTasks(inputs, labels, masks, graph.names)


def _parts(
    graph: CommunityGraph, eligible: Tensor, rng: np.random.Generator, train: float, validation: float
) -> dict[str, np.ndarray]:
    """The `eligible` nodes of every part, in random order."""
    if graph.masks:
        nowhere = torch.zeros(graph.num_nodes, dtype=torch.bool)
        return {
            part: rng.permutation((eligible & graph.masks.get(part, nowhere)).nonzero().flatten().numpy())
            for part in PARTS
        }
    nodes = rng.permutation(eligible.nonzero().flatten().numpy())
    first, second = int(len(nodes) * train), int(len(nodes) * validation)
    return dict(zip(PARTS, np.split(nodes, [first, first + second]), strict=True))
