"""Second derivatives of one weighted update, along one direction.

An update's loss is L(θ, w) = Σ_t w_t nll_t(θ) / n, over the n predicted real tokens of all its rows. For a direction d
in the space of θ this gives ∇²L d (a Hessian-vector product) and ∂(∇L · d)/∂w_t = (∇nll_t · d) / n, in one of two ways:

- ``"reverse"``: a graph of the gradient (`GradientGraph`), differentiated once more;
- ``"forward"``: forward over reverse: the tangent of the gradient along d (Pearlmutter's R-operator; the mixed mode of
  arXiv 2505.00793). It needs a forward-mode rule of every operation of the model's backward pass.

Which is faster depends on the model and the device; `Stopwatch` finds out from steps that have to be done anyway.
The second term alone is cheaper: the tangent of the token losses, a single pass forward.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, jvp

from taskloom.gradients.inner_updates import Tensors

__all__ = ["GradientGraph", "Method", "Stopwatch", "TokenLosses", "Update"]

#: (call, document) -> the loss of predicting each token, [rows, tokens], and which count, bool [rows, tokens]. `call`
#: runs the model with the parameters of the moment, with keyword arguments.
TokenLosses = Callable[[Callable[..., Any], Mapping[str, Tensor]], tuple[Tensor, Tensor]]
Method = Literal["forward", "reverse"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GradientGraph:
    """The graph of an update's gradient; it can be differentiated once.

    Attributes:
        leaves: the parameters.
        weight: the token weights.
        ends: where the graph yields the gradient with respect to a parameter; those it depends on no more are missing.
    """

    leaves: Tensors
    weight: Tensor
    ends: dict[str, GradientEdge]

    def along(self, direction: Tensors, hessian: bool = True) -> tuple[Tensors, Tensor]:
        """Return the Hessian times a direction (nothing unless `hessian`) and the slopes by the token weights."""
        *product, slopes = torch.autograd.grad(
            list(self.ends.values()),
            [*self.leaves.values(), self.weight] if hessian else [self.weight],
            [direction[name] for name in self.ends],
            allow_unused=True,
            materialize_grads=True,
        )
        return (dict(zip(self.leaves, product, strict=True)) if hessian else {}), slopes


@dataclass(frozen=True)
class Update:
    """One weighted update of a model.

    Attributes:
        model: any module.
        document: what `token_losses` wants.
        weight: of each token, ``[rows, tokens]``.
        token_losses: the losses of the document's tokens.
    """

    model: nn.Module
    document: Mapping[str, Tensor]
    weight: Tensor
    token_losses: TokenLosses

    def gradient(self, parameters: Tensors) -> Tensors:
        """Return the gradient of the loss."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            loss = self._loss(leaves, self.weight)[0]
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def graph(self, parameters: Tensors) -> tuple[Tensors, GradientGraph]:
        """Return the gradient of the loss, and its graph, which does not hold the gradient itself."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            weight = self.weight.clone().requires_grad_()
            loss = self._loss(leaves, weight)[0]
            found = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
        gradient = dict(zip(leaves, found, strict=True))
        ends = {name: get_gradient_edge(value) for name, value in gradient.items() if value.grad_fn is not None}
        return {name: value.detach() for name, value in gradient.items()}, GradientGraph(leaves, weight, ends)

    def forward_over_reverse(self, parameters: Tensors, direction: Tensors) -> tuple[Tensors, Tensor]:
        """Return the Hessian times a direction and the slopes by the token weights."""
        count = torch.ones(())

        def loss(values: Tensors) -> tuple[Tensor, Tensor]:
            nonlocal count
            value, losses, count = self._loss(values, self.weight)
            return value, losses

        product, slopes = jvp(grad(loss, has_aux=True), (parameters,), (direction,))[1]
        return product, slopes / count

    def slopes(self, parameters: Tensors, direction: Tensors) -> Tensor:
        """Return the slopes by the token weights alone."""
        count = torch.ones(())

        def losses(values: Tensors) -> Tensor:
            nonlocal count
            _, found, count = self._loss(values, self.weight)
            return found

        with torch.no_grad():
            tangent: Tensor = jvp(losses, (parameters,), (direction,))[1]
        return tangent / count

    def _loss(self, parameters: Tensors, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, the tokens' losses with 0 where none counts, and how many count."""

        def call(**inputs: Any) -> Any:
            return functional_call(self.model, parameters, kwargs=inputs)

        losses, counted = self.token_losses(call, self.document)
        losses = losses.masked_fill(~counted, 0.0)
        count = counted.sum().clamp(min=1)
        return (losses * weight).sum() / count, losses, count


@dataclass
class Stopwatch:
    """How long each method takes for one kind of update, and which methods its model has no rules for.

    Each method is tried `tries` times, in turns, and its best time counts: the first try may set up what later ones
    find. Forward over reverse holds more memory, so it must be faster by `margin` to be chosen.
    """

    tries: int = 2
    margin: float = 0.05
    seconds: dict[Method, list[float]] = field(default_factory=lambda: {"reverse": [], "forward": []})
    impossible: set[Method] = field(default_factory=set)

    def choice(self) -> Method:
        """Return the method to use now."""
        possible: list[Method] = [method for method in self.seconds if method not in self.impossible]
        if len(possible) == 1:
            return possible[0]
        tried = {method: len(self.seconds[method]) for method in possible}
        if min(tried.values()) < self.tries:
            return "reverse" if tried["reverse"] <= tried["forward"] else "forward"
        faster = min(self.seconds["forward"]) < (1 - self.margin) * min(self.seconds["reverse"])
        return "forward" if faster else "reverse"

    @contextmanager
    def timing(self, method: Method, device: torch.device) -> Iterator[None]:
        """Note how long a block takes, where that is not known yet."""
        if len(self.seconds[method]) >= self.tries:
            yield
            return
        start = _now(device)
        yield
        self.seconds[method].append(_now(device) - start)

    def give_up(self, method: Method, model: nn.Module, error: Exception) -> None:
        """Note, and say once, that a model has no rules for a method."""
        if method not in self.impossible:
            self.impossible.add(method)
            logger.warning(
                "method='%s' is given up for models of %s: %s", method, type(model).__name__, str(error).splitlines()[0]
            )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
