"""The exact gradient of a loss after several weighted updates, with respect to the updates' weights.

The updates are θ_k = θ_(k-1) - lr ∇L_k(θ_(k-1), w_k), one a document, on L_k = Σ_t w_kt nll_kt / n_k, and the outer
loss is of θ_K. Unrolling keeps the graphs of all updates. Here they are walked backwards one at a time: with λ_k, the
gradient of the outer loss with respect to θ_k, and μ_k = -lr λ_k, that with respect to the gradient of update k,

    ∂outer/∂w_kt = (∇nll_kt · μ_k) / n_k          a directional derivative of each token's loss,
    λ_(k-1) = λ_k + ∇²L_k μ_k                     a Hessian-vector product,

and both come of one pass at θ_(k-1) (`taskloom.gradients.second_order`). The first update needs no Hessian, and the
last one's graph is still there when the walk begins. So memory holds one document's pass, whatever the number of
updates, and the parameters before some of them; the rest is computed again. That is the adjoint method of reverse-mode
differentiation through training (Maclaurin et al., arXiv 1502.03492), in the mixed mode of arXiv 2505.00793. CaMeLS
(arXiv 2305.15076, equation 2) needs the gradient for its weighting model.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taskloom.gradients.inner_updates import InnerOptimizer, Pulled, State, Tensors
from taskloom.gradients.passes import evaluating, twice_differentiable
from taskloom.gradients.second_order import GradientGraph, Method, Stopwatch, TokenLosses
from taskloom.gradients.weighted_updates import (
    causal_token_losses,
    chosen_parameters,
    inner_optimizer,
    updates_of,
)

__all__ = ["TokenLosses", "UnrolledUpdates", "causal_token_losses", "unrolled_meta_gradient"]

Checkpoints = Literal["all", "sqrt"] | int

#: What was found in this process: the methods that a kind of model has no rules for, and the times of its updates.
_impossible: dict[tuple[object, ...], set[Method]] = {}
_stopwatches: dict[tuple[object, ...], Stopwatch] = {}


def unrolled_meta_gradient(
    model: nn.Module,
    documents: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Tensor],
    outer_loss: Callable[[Any], Tensor],
    lr: float | InnerOptimizer,
    *,
    parameters: Iterable[str] | None = None,
    checkpoints: Checkpoints = "all",
    method: Method | Literal["auto"] = "auto",
    first_order: bool = False,
    token_losses: TokenLosses = causal_token_losses,
) -> tuple[Tensor, list[Tensor]]:
    """Update a model on documents, one weighted step each, and differentiate what comes of it by the weights.

    Hand the gradients on to whatever made the weights with ``torch.autograd.backward(weights, gradients)``. For the
    updated parameters, or several outer losses, see `UnrolledUpdates`.

    Args:
        model: any module; with the default `token_losses` a causal language model of transformers, plain or with an
            adapter. It runs in evaluation mode, and is left as it was.
        documents: what it is updated on, in this order: ``input_ids`` and ``attention_mask``, ``[rows, tokens]``; the
            rows of one document make one update.
        weights: of each document, ``[rows, tokens]``; entry t of a row multiplies the loss of predicting its token t
            (t >= 1). What stands on padding and on the first token counts nothing.
        outer_loss: the loss of the updated model, a scalar; called once, with `model`.
        lr: learning rate of SGD, or an inner optimizer, such as `taskloom.gradients.inner_updates.Adam`. A
            document's loss is the sum of its weighted token losses over the number of its predicted real tokens.
        parameters: names of the parameters that are updated; None takes those that require gradients.
        checkpoints: the updates before which parameters are kept: ``"all"``, every n-th, or ``"sqrt"``, which holds
            them for about 2 √K of K updates at any time; others are computed again, at the cost of one more backward
            pass each. Up to three updates ``"sqrt"`` is ``"all"``.
        method: ``"reverse"`` differentiates an update by a double backward pass, ``"forward"`` forward over reverse,
            and ``"auto"`` by the one which turns out to be faster for this model, size of documents and device.
            They differ by rounding alone; for results that repeat bit by bit choose one of the first two.
        first_order: leave the Hessians out: an update's gradient is taken for independent of the updates before it.
        token_losses: the losses of a document's tokens.

    Returns:
        The outer loss, and its gradient with respect to each of `weights`, in their shapes.

    Raises:
        ValueError: documents and weights differ in number or shape, no or unknown parameters, an unknown choice, or
            an operation of the model has no second derivatives by `method`.
    """
    updates = UnrolledUpdates(
        model,
        documents,
        weights,
        lr,
        parameters=parameters,
        checkpoints=checkpoints,
        method=method,
        first_order=first_order,
        token_losses=token_losses,
    )
    outer, adjoint = updates.outer_gradient(outer_loss)
    updates.parameters.clear()
    return outer, updates.pull_back(adjoint)


@dataclass(frozen=True)
class _Moment:
    """Parameters and state before an update."""

    parameters: Tensors
    state: State


class UnrolledUpdates:
    """Weighted updates that are done, and can be differentiated.

    `unrolled_meta_gradient` in three steps, and their arguments are described there:

        updates = UnrolledUpdates(model, documents, weights, lr)
        value, adjoint = updates.outer_gradient(outer_loss)
        gradients = updates.pull_back(adjoint)

    Attributes:
        parameters: the updated parameters after the last update, by name. The model itself keeps its own:
            ``model.load_state_dict(updates.parameters, strict=False)`` makes it the updated one.
    """

    def __init__(
        self,
        model: nn.Module,
        documents: Sequence[Mapping[str, Tensor]],
        weights: Sequence[Tensor],
        lr: float | InnerOptimizer,
        *,
        parameters: Iterable[str] | None = None,
        checkpoints: Checkpoints = "all",
        method: Method | Literal["auto"] = "auto",
        first_order: bool = False,
        token_losses: TokenLosses = causal_token_losses,
    ) -> None:
        _check(checkpoints, method)
        self._model = model
        self._chosen = chosen_parameters(model, parameters)
        self._optimizer = inner_optimizer(lr)
        self._method: Method | Literal["auto"] = method
        self._first_order = first_order
        self._updates = updates_of(model, documents, weights, token_losses)
        self._starts = _starts(checkpoints, len(documents))
        self._kept: dict[int, list[_Moment]] = {}
        self._graph: GradientGraph | None = None
        with evaluating(model):
            self.parameters: Tensors = self._forward()

    def outer_gradient(self, outer_loss: Callable[[Any], Tensor]) -> tuple[Tensor, Tensors]:
        """Return a loss of the updated model, and its gradient with respect to the updated parameters.

        Gradients of several losses may be added up before they are pulled back.
        """
        own = {name: parameter.data for name, parameter in self._chosen.items()}
        with evaluating(self._model):
            try:
                for name, parameter in self._chosen.items():
                    parameter.data = self.parameters[name]
                    parameter.requires_grad_(True)
                with torch.enable_grad():
                    loss = outer_loss(self._model)
                    found = torch.autograd.grad(
                        loss, list(self._chosen.values()), allow_unused=True, materialize_grads=True
                    )
            finally:
                for name, parameter in self._chosen.items():
                    parameter.data = own[name]
        return loss.detach(), dict(zip(self._chosen, found, strict=True))

    def pull_back(self, adjoint: Tensors) -> list[Tensor]:
        """Return the gradient with respect to each document's weights; once, since it uses up what is kept.

        Args:
            adjoint: the gradient with respect to the updated parameters. It is emptied, to free its memory.
        """
        if not self._kept:
            raise RuntimeError("these updates were pulled back already: nothing of them is kept")
        gradients: list[Tensor] = []
        later, later_state = dict(adjoint), _zeros(self._kept[0][0].state)
        adjoint.clear()
        with evaluating(self._model):
            for number, moment in self._backwards():
                later, later_state, slopes = self._walked_back(number, moment, later, later_state)
                gradients.append(slopes)
        return gradients[::-1]

    def _forward(self) -> Tensors:
        """Do all updates, keeping what the way back needs, and return the parameters after the last one."""
        start = {name: parameter.detach() for name, parameter in self._chosen.items()}
        moment = _Moment(start, self._optimizer.initial_state(start))
        for number, update in enumerate(self._updates):
            if number in self._starts:
                self._kept[number] = []
            if number in self._starts or number > self._starts[-1]:
                self._kept[max(self._kept)].append(moment)
            if number + 1 == len(self._updates) and self._keeps_graph():
                with twice_differentiable(self._model):
                    gradient, self._graph = update.graph(moment.parameters)
            else:
                gradient = self._gradient(number, moment)
            moment = self._updated(number, moment, gradient)
        return moment.parameters

    def _keeps_graph(self) -> bool:
        if self._first_order or self._method == "forward" or self._optimizer.uses_gradient:
            return False
        return self._method == "reverse" or "reverse" not in self._stopwatch(len(self._updates) - 1).impossible

    def _backwards(self) -> Iterator[tuple[int, _Moment]]:
        """Yield the updates from the last one, with the moments before them; those not kept are computed again."""
        end = len(self._updates)
        for first in reversed(self._starts):
            moments = self._kept.pop(first)
            while first + len(moments) < end:
                number = first + len(moments) - 1
                moments.append(self._updated(number, moments[-1], self._gradient(number, moments[-1])))
            while moments:
                end -= 1
                yield end, moments.pop()

    def _gradient(self, number: int, moment: _Moment) -> Tensors:
        return self._updates[number].gradient(moment.parameters)

    def _updated(self, number: int, moment: _Moment, gradient: Tensors) -> _Moment:
        return _Moment(*self._optimizer.update(number + 1, moment.parameters, moment.state, gradient))

    def _walked_back(
        self, number: int, moment: _Moment, later: Tensors, later_state: State
    ) -> tuple[Tensors, State, Tensor]:
        """Return the gradients with respect to parameters and state before an update, and to its token weights."""

        def pull(gradient: Tensors) -> Pulled:
            return self._optimizer.pull_back(number + 1, moment.state, gradient, later, later_state)

        pulled, product, slopes = self._differentiated(number, moment, pull)
        before = pulled.parameters
        if product:
            before = {name: torch.add(value, product[name], alpha=pulled.factor) for name, value in before.items()}
        return before, pulled.state, slopes * pulled.factor

    def _differentiated(
        self, number: int, moment: _Moment, pull: Callable[[Tensors], Pulled]
    ) -> tuple[Pulled, Tensors, Tensor]:
        """Pull gradients back through an update; return also its Hessian's product and the slopes by its weights.

        The product is empty where it is not needed: for the first update, and to first order.
        """
        hessian = number > 0 and not self._first_order
        if self._method != "auto":
            return self._differentiated_by(self._method, number, moment, pull, hessian)
        stopwatch, error = self._stopwatch(number), None
        method: Method
        while len(stopwatch.impossible) < 2:
            if self._graph is not None:
                method = "reverse"
            elif hessian or "forward" in stopwatch.impossible:
                method = stopwatch.choice()
            else:  # a tangent is always cheaper than a graph
                method = "forward"
            try:
                if self._graph is not None or not hessian:
                    return self._differentiated_by(method, number, moment, pull, hessian)
                with stopwatch.timing(method, self._updates[number].weight.device):
                    return self._differentiated_by(method, number, moment, pull, hessian)
            except ValueError as found:
                stopwatch.give_up(method, self._model, found)
                error = found
        raise ValueError(f"`model`: {type(self._model).__name__} has no second derivatives by any method") from error

    def _differentiated_by(
        self, method: Method, number: int, moment: _Moment, pull: Callable[[Tensors], Pulled], hessian: bool
    ) -> tuple[Pulled, Tensors, Tensor]:
        update, parameters = self._updates[number], moment.parameters
        with twice_differentiable(self._model):
            if method == "reverse":
                gradient: Tensors = {}
                graph, self._graph = self._graph, None
                if graph is None:
                    gradient, graph = update.graph(parameters)
                pulled = pull(gradient)
                gradient.clear()
                with _explained(method, self._model):
                    return pulled, *graph.along(pulled.gradient, hessian)
            pulled = pull(update.gradient(parameters) if self._optimizer.uses_gradient else {})
            with _explained(method, self._model):
                if hessian:
                    return pulled, *update.forward_over_reverse(parameters, pulled.gradient)
                return pulled, {}, update.slopes(parameters, pulled.gradient)

    def _stopwatch(self, number: int) -> Stopwatch:
        weight = self._updates[number].weight
        kind = (
            type(self._model),
            sum(parameter.numel() for parameter in self._model.parameters()),
            sum(parameter.numel() for parameter in self._chosen.values()),
            next(iter(self._chosen.values())).dtype,
            weight.device,
            torch.is_autocast_enabled(weight.device.type),
        )
        size = weight.numel().bit_length()  # the same within a factor of two
        return _stopwatches.setdefault((*kind, size), Stopwatch(impossible=_impossible.setdefault(kind, set())))


def _zeros(state: State) -> State:
    return {part: {name: torch.zeros_like(value) for name, value in values.items()} for part, values in state.items()}


@contextmanager
def _explained(method: Method, model: nn.Module) -> Iterator[None]:
    """Say which method a model has no rules for."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(
            f"`method`: {type(model).__name__} cannot be differentiated twice by '{method}': "
            f"{str(error).splitlines()[0]} Choose 'auto', or the other method."
        ) from error


def _starts(checkpoints: Checkpoints, updates: int) -> list[int]:
    """Return the updates before which parameters are kept; from each to the next they are computed again.

    The walk goes from the last stretch to the first, and with each stretch that is done there is room for one more
    moment. So with "sqrt" there is room for as many as equal stretches of a square root would take, and each stretch
    is one longer than the one after it, which leaves fewer updates to be computed again.
    """
    if checkpoints == "all":
        return list(range(updates))
    if checkpoints != "sqrt":
        return list(range(0, updates, checkpoints))
    room = math.ceil(2 * math.sqrt(updates)) - 1
    stretches = 1
    while stretches * (room - stretches + 1) + stretches * (stretches - 1) // 2 < updates:
        stretches += 1
    ends = [updates - sum(range(room - stretches + 1, room - stretches + 1 + n)) for n in range(1, stretches + 1)]
    return sorted(max(end, 0) for end in ends)


def _check(checkpoints: object, method: object) -> None:
    if checkpoints not in ("all", "sqrt") and not (isinstance(checkpoints, int) and checkpoints >= 1):
        raise ValueError(f"`checkpoints` must be 'all', 'sqrt' or a number from 1 on, found {checkpoints!r}")
    if method not in ("auto", "forward", "reverse"):
        raise ValueError(f"`method` must be 'auto', 'forward' or 'reverse', found {method!r}")
