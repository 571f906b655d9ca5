"""T5's relative position bias, made for each example while gradients are collected.

Its attention makes one bias for all examples, in `compute_bias`, from a small table that it reads there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["bias_of_each_example"]

Receive = Callable[[Tensor, Tensor], None]


@contextmanager
def bias_of_each_example(
    attention: Any, table: nn.Module, batch: int, follow: Callable[[Tensor, Tensor, Receive], Tensor], receive: Receive
) -> Iterator[None]:
    """Inside, `attention.compute_bias` returns [batch, heads, queries, keys] and `receive` gets the table's gradients.

    Args:
        attention: a module with `compute_bias`, which returns [1, heads, queries, keys].
        table: its embedding.
        batch: the number of examples.
        follow: puts a tensor into the graph and tells when its gradient is known.
        receive: takes the table's indices and the gradients of its outputs, [batch, queries, keys(, heads)].
    """
    original: Callable[..., Tensor] = attention.compute_bias

    def compute_bias(*args: Any, **kwargs: Any) -> Tensor:
        buckets: list[Tensor] = []
        handle = table.register_forward_pre_hook(lambda _, inputs: buckets.append(inputs[0]))
        with handle, torch.no_grad():
            bias = original(*args, **kwargs)
        index = buckets[0].expand(batch, *buckets[0].shape)
        return follow(
            bias.expand(batch, -1, -1, -1), index, lambda index, grad: receive(index, grad.permute(0, 2, 3, 1))
        )

    attention.compute_bias = compute_bias
    try:
        yield
    finally:
        del attention.compute_bias
