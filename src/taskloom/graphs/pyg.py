"""PyTorch Geometric's `Data` objects as graphs with communities: every class or label is a task."""

from typing import TYPE_CHECKING, Any

import torch

from taskloom.errors import DataError, UserError
from taskloom.graphs.data import CommunityGraph, undirected

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["graph_from_pyg"]

_MASKS = {"train": "train_mask", "validation": "val_mask", "test": "test_mask"}


def graph_from_pyg(data: Any, names: "Sequence[str] | None" = None, split: int = 0) -> CommunityGraph:
    """Turn a node-level PyG data set into a `CommunityGraph`.

    Args:
        data: a `torch_geometric.data.Data` with ``edge_index`` and ``y``: either [nodes] of class indices (one task a
            class; negative values are unlabelled) or [nodes, labels] of 0/1. ``x`` and ``train_mask``, ``val_mask``,
            ``test_mask`` are used if present.
        names: the tasks' names; ``label-N`` by default.
        split: which column to use where the masks are [nodes, splits].

    Raises:
        UserError: torch_geometric is not installed.
        DataError: something is missing, of the wrong shape, or not 0/1.
    """
    try:
        from torch_geometric.data import Data
    except ImportError:
        raise UserError("PyG data sets need torch-geometric: pip install 'taskloom[graphs]'") from None
    if not isinstance(data, Data):
        raise DataError(f"found {type(data).__name__}; expected a torch_geometric Data object (of a data set: set[0])")
    for key in ("edge_index", "y"):
        if getattr(data, key, None) is None:
            raise DataError(f"the Data object has no `{key}`; it has {', '.join(data.keys()) or 'nothing'}")
    nodes = int(data.num_nodes or 0)
    labels = _labels(torch.as_tensor(data.y), nodes)
    names = tuple(names) if names is not None else tuple(f"label-{label}" for label in range(labels.shape[1]))
    if len(names) != labels.shape[1]:
        raise DataError(f"`names` has {len(names)} entries; `y` has {labels.shape[1]} labels")
    masks = {part: getattr(data, key, None) for part, key in _MASKS.items()}
    return CommunityGraph(
        edge_index=undirected(torch.as_tensor(data.edge_index), nodes),
        num_nodes=nodes,
        communities=tuple(column.nonzero().flatten() for column in labels.T),
        names=names,
        node_ids=torch.arange(nodes),
        features=None if data.x is None else torch.as_tensor(data.x).float(),
        masks={part: _mask(mask, part, nodes, split) for part, mask in masks.items() if mask is not None},
    )


def _labels(y: torch.Tensor, nodes: int) -> torch.Tensor:
    if y.shape[0] != nodes or y.dim() > 2:
        raise DataError(f"`y` has the shape {list(y.shape)}; expected [{nodes}] or [{nodes}, labels]")
    if y.dim() == 1 or (y.shape[1] == 1 and bool((y > 1).any())):
        classes = y.flatten().long()
        if int(classes.max()) < 0:
            raise DataError("`y` holds no class index of zero or more: no node is labelled")
        return classes[:, None] == torch.arange(int(classes.max()) + 1)
    if not bool(((y == 0) | (y == 1)).all()):
        wrong = int(((y != 0) & (y != 1)).any(1).nonzero()[0])
        raise DataError(f"`y` of node {wrong} holds values other than 0 and 1; multi-label targets are 0/1")
    return y.bool()


def _mask(mask: torch.Tensor, part: str, nodes: int, split: int) -> torch.Tensor:
    if mask.dim() == 2 and split >= mask.shape[1]:
        raise DataError(f"`{_MASKS[part]}` has {mask.shape[1]} splits; asked for number {split}, counted from zero")
    mask = mask[:, split] if mask.dim() == 2 else mask
    if mask.shape != (nodes,):
        raise DataError(f"`{_MASKS[part]}` has the shape {list(mask.shape)}; expected [{nodes}]")
    return mask.bool()
