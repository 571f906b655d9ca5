"""Batches of any form, a tensor or mappings and sequences of them, whose first dimension is the example."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["cut", "map_tensors", "size_of"]


def map_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the batch with every tensor changed; what is no tensor stays."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: map_tensors(value, change) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(map_tensors(value, change) for value in batch)
    return batch


def size_of(batch: Any) -> int:
    """Return the number of examples, by the first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    parts: Sequence[Any] = list(batch.values()) if isinstance(batch, Mapping) else batch
    return size_of(parts[0])


def cut(batch: Any, count: int) -> list[Any]:
    """Return the batch in at most `count` pieces of equal size (the last may be smaller)."""
    size = size_of(batch)
    width = -(-size // count)

    def piece(start: int) -> Any:
        return map_tensors(batch, lambda tensor: tensor[start : start + width])

    return [piece(start) for start in range(0, size, width)] if count > 1 else [batch]
