"""Cutting a model's graph below its top layers, so that many losses can be differentiated there alone.

The input of a layer is replaced by a leaf of the same values. Whatever is differentiated above stops at the leaf and
gives its gradient, too; the sum of these, each times its weight, then goes through the layers below once, however many
losses there are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Cut", "top_layer"]


class Cut:
    """The place where a graph was cut.

    Attributes:
        leaf: the input of the layer above, a leaf; None before a forward pass.
        below: what the layers below gave, with their graph.
    """

    def __init__(self) -> None:
        self.leaf: Tensor | None = None
        self.below: Tensor | None = None

    @contextmanager
    def before(self, layer: nn.Module) -> Iterator["Cut"]:
        """Cut before `layer` in the forward pass made in this context."""

        def replace(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            self.below = hidden
            self.leaf = hidden.detach().requires_grad_()
            return ((self.leaf, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": self.leaf})

        handle = layer.register_forward_pre_hook(replace, with_kwargs=True)
        try:
            yield self
        finally:
            handle.remove()

    def parameters_below(self) -> set[int]:
        """Return the ids of the parameters that the layers below depend on: the leaves of their graph."""
        found: set[int] = set()
        seen: set[Any] = set()
        nodes: list[Any] = [] if self.below is None else [self.below.grad_fn]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                found.add(id(node.variable))
            nodes += [following for following, _ in node.next_functions]
        return found


def top_layer(model: Any, count: int) -> nn.Module:
    """Return the lowest of the `count` top layers of a model of transformers.

    Raises:
        ValueError: the model has fewer layers, or no list of them (ALBERT's share one).
    """
    depth = model.config.num_hidden_layers
    if not 1 <= count <= depth:
        raise ValueError(f"`count` must be from 1 to the model's {depth} layers, found {count}")
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module[depth - count]
    raise ValueError(f"{type(model).__name__} holds no list of {depth} layers")
