"""The exact gradient of a loss after several weighted updates, with respect to the updates' weights.

The updates are θ_k = θ_(k-1) - lr ∇L_k(θ_(k-1), w_k), one a document, on L_k = Σ_t w_kt nll_kt / n_k, and the outer
loss is of θ_K. Unrolling keeps the graphs of all updates. Here they are walked backwards one at a time: with λ_k, the
gradient of the outer loss with respect to θ_k, and μ_k = -lr λ_k, that with respect to the gradient of update k,

    ∂outer/∂w_kt = (∇nll_kt · μ_k) / n_k          a directional derivative of each token's loss,
    λ_(k-1) = λ_k + ∇²L_k μ_k                     a Hessian-vector product,

and both are one pass of forward-over-reverse differentiation at θ_(k-1) (or a double backward pass of this one update).
So memory holds one document's pass, whatever the number of updates, and the parameters before some of them: of all, of
every n-th, or of a square root of them; the rest is computed again. That is the adjoint method of reverse-mode
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
from torch.func import functional_call, grad, jvp
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from taskloom.gradients.inner_updates import SGD, InnerOptimizer, State, Tensors

__all__ = ["TokenLosses", "causal_token_losses", "unrolled_meta_gradient"]

#: (call, document) -> the loss of predicting each token, [1, tokens], and which count, bool [1, tokens]. `call` runs
#: the model with the parameters of the moment, with keyword arguments.
TokenLosses = Callable[[Callable[..., Any], Mapping[str, Tensor]], tuple[Tensor, Tensor]]
Checkpoints = Literal["all", "sqrt"] | int
Method = Literal["forward", "reverse"]


def causal_token_losses(call: Callable[..., Any], document: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the losses of a causal language model's tokens, each predicted from those before it.

    Args:
        call: runs the model.
        document: ``input_ids`` and ``attention_mask``, both ``[1, tokens]``.

    Returns:
        ``[1, tokens]`` negative log-likelihoods, 0 for the first token, and which tokens are real and predicted from
        a real one.
    """
    ids, mask = document["input_ids"], document["attention_mask"]
    logits = call(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(wide.transpose(1, 2), ids[:, 1:], reduction="none")
    real = mask.bool()
    return F.pad(losses, (1, 0)), F.pad(real[:, 1:] & real[:, :-1], (1, 0))


def unrolled_meta_gradient(
    model: nn.Module,
    documents: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Tensor],
    outer_loss: Callable[[Any], Tensor],
    lr: float | InnerOptimizer,
    *,
    parameters: Iterable[str] | None = None,
    checkpoints: Checkpoints = "sqrt",
    method: Method = "forward",
    first_order: bool = False,
    token_losses: TokenLosses = causal_token_losses,
) -> tuple[Tensor, list[Tensor]]:
    """Update a model on documents, one weighted step each, and differentiate what comes of it by the weights.

    Hand the gradients on to whatever made the weights with ``torch.autograd.backward(weights, gradients)``.

    Args:
        model: any module; with the default `token_losses` a causal language model of transformers, plain or with an
            adapter. It runs in evaluation mode, and is left as it was.
        documents: what it is updated on, in this order: ``input_ids`` and ``attention_mask``, ``[1, tokens]``.
        weights: of each document, ``[1, tokens]``; entry t multiplies the loss of predicting token t (t >= 1).
            What stands on padding and on the first token counts nothing.
        outer_loss: the loss of the updated model, a scalar; called once, with `model`.
        lr: learning rate of SGD, or an inner optimizer, such as `taskloom.gradients.inner_updates.Adam`. A
            document's loss is the sum of its weighted token losses over the number of its predicted real tokens.
        parameters: names of the parameters that are updated; None takes those that require gradients.
        checkpoints: the updates before which parameters are kept: ``"all"``, every n-th, or ``"sqrt"``, about the
            square root of them; others are computed again, at the cost of another backward pass each.
        method: ``"forward"`` differentiates forward over reverse, ``"reverse"`` by a double backward pass.
        first_order: leave the Hessians out: an update's gradient is taken for independent of the updates before it.
        token_losses: the losses of a document's tokens.

    Returns:
        The outer loss, and its gradient with respect to each of `weights`, in their shapes.

    Raises:
        ValueError: documents and weights differ in number or shape, no or unknown parameters, or an unknown choice.
    """
    _check(documents, weights, checkpoints, method)
    chosen = _chosen(model, parameters)
    optimizer: InnerOptimizer = SGD(lr) if isinstance(lr, float | int) else lr
    with _evaluating(model), sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivatives
        inner = _Inner(model, documents, [weight.detach() for weight in weights], optimizer, token_losses)
        start = {name: parameter.detach() for name, parameter in chosen.items()}
        kept, last = inner.forward(start, _interval(checkpoints, len(documents)))
        outer, adjoint = _outer_gradient(model, chosen, last.parameters, outer_loss)
        gradients = inner.backward(kept, adjoint, method, first_order)
    return outer, gradients


@dataclass(frozen=True)
class _Moment:
    """Parameters and state before an update."""

    parameters: Tensors
    state: State


class _Inner:
    """The chain of updates."""

    def __init__(
        self,
        model: nn.Module,
        documents: Sequence[Mapping[str, Tensor]],
        weights: Sequence[Tensor],
        optimizer: InnerOptimizer,
        token_losses: TokenLosses,
    ) -> None:
        self.model = model
        self.documents = documents
        self.weights = weights
        self.optimizer = optimizer
        self.token_losses = token_losses

    def forward(self, start: Tensors, interval: int) -> tuple[dict[int, _Moment], _Moment]:
        """Do all updates; return the moments before every `interval`-th of them, by number, and the last one."""
        moment = _Moment(start, self.optimizer.initial_state(start))
        kept = {}
        for number in range(len(self.documents)):
            if number % interval == 0:
                kept[number] = moment
            moment = self._updated(number, moment, self._gradient(number, moment.parameters))
        return kept, moment

    def backward(self, kept: dict[int, _Moment], adjoint: Tensors, method: Method, first_order: bool) -> list[Tensor]:
        """Walk the updates backwards and return the gradient with respect to each document's weights."""
        gradients = [torch.zeros_like(weight) for weight in self.weights]
        later_state = {
            part: {name: torch.zeros_like(value) for name, value in values.items()}
            for part, values in kept[0].state.items()
        }
        end = len(self.documents)
        for first in sorted(kept, reverse=True):
            for number, moment, gradient in reversed(self._again(first, end, kept.pop(first))):
                pulled = self.optimizer.pull_back(number + 1, moment.state, gradient, adjoint, later_state)
                product, by_weights = self._second_order(
                    number, moment.parameters, pulled.gradient, "tangents" if first_order else method
                )
                gradients[number] = by_weights
                later_state = pulled.state
                adjoint = {name: value + product[name] for name, value in pulled.parameters.items()}
            end = first
        return gradients

    def _again(self, first: int, end: int, moment: _Moment) -> list[tuple[int, _Moment, Tensors]]:
        """Return the updates from one that is kept to the next, with the moments before them and their gradients."""
        found = []
        for number in range(first, end):
            gradient = self._gradient(number, moment.parameters) if self._needs_gradient(number, end) else {}
            found.append((number, moment, gradient))
            if number + 1 < end:
                moment = self._updated(number, moment, gradient)
        return found

    def _needs_gradient(self, number: int, end: int) -> bool:
        """The last update of a stretch needs none, unless the optimizer looks at it on the way back."""
        return number + 1 < end or not isinstance(self.optimizer, SGD)

    def _updated(self, number: int, moment: _Moment, gradient: Tensors) -> _Moment:
        return _Moment(*self.optimizer.update(number + 1, moment.parameters, moment.state, gradient))

    def _losses(self, number: int, parameters: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        """Return an update's loss, its tokens' losses with 0 where none counts, and how many count."""

        def call(**inputs: Any) -> Any:
            return functional_call(self.model, parameters, kwargs=inputs)

        losses, counted = self.token_losses(call, self.documents[number])
        losses = losses.masked_fill(~counted, 0.0)
        count = counted.sum().clamp(min=1)
        return (losses * self.weights[number]).sum() / count, losses, count

    def _gradient(self, number: int, parameters: Tensors) -> Tensors:
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            loss, _, _ = self._losses(number, leaves)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(leaves, found, strict=True))

    def _second_order(
        self, number: int, parameters: Tensors, direction: Tensors, method: Method | Literal["tangents"]
    ) -> tuple[Tensors, Tensor]:
        """Return the Hessian of an update's loss times a direction, and the loss gradient's by the weights times it."""
        if method == "reverse":
            return self._double_backward(number, parameters, direction)
        count = torch.ones(())

        def losses(values: Tensors) -> tuple[Tensor, Tensor]:
            nonlocal count
            loss, tokens, count = self._losses(number, values)
            return loss, tokens

        if method == "tangents":
            slopes: Tensor = jvp(lambda values: losses(values)[1], (parameters,), (direction,))[1]
            return {name: torch.zeros_like(value) for name, value in direction.items()}, slopes / count
        product, slopes = jvp(grad(losses, has_aux=True), (parameters,), (direction,))[1]
        return product, slopes / count

    def _double_backward(self, number: int, parameters: Tensors, direction: Tensors) -> tuple[Tensors, Tensor]:
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            weight = self.weights[number].clone().requires_grad_()
            _, losses, count = self._losses(number, leaves)
            loss = (losses * weight).sum() / count
            gradient = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, allow_unused=True)
            pairs = zip(gradient, direction.values(), strict=True)
            along = torch.stack([(g * d).sum() for g, d in pairs if g is not None]).sum()
            *product, by_weight = torch.autograd.grad(
                along, [*leaves.values(), weight], allow_unused=True, materialize_grads=True
            )
        return dict(zip(leaves, product, strict=True)), by_weight


def _outer_gradient(
    model: nn.Module, chosen: Mapping[str, nn.Parameter], updated: Tensors, outer_loss: Callable[[Any], Tensor]
) -> tuple[Tensor, Tensors]:
    """Return the outer loss of the model with updated parameters, and its gradient with respect to them."""
    own = {name: parameter.data for name, parameter in chosen.items()}
    required = {name: parameter.requires_grad for name, parameter in chosen.items()}
    try:
        for name, parameter in chosen.items():
            parameter.data = updated[name]
            parameter.requires_grad_(True)
        with torch.enable_grad():
            loss = outer_loss(model)
            found = torch.autograd.grad(loss, list(chosen.values()), allow_unused=True, materialize_grads=True)
    finally:
        for name, parameter in chosen.items():
            parameter.data = own[name]
            parameter.requires_grad_(required[name])
    return loss.detach(), dict(zip(chosen, found, strict=True))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode for a while: an update that is done again must be the same update."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _chosen(model: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Parameter]:
    known = dict(model.named_parameters())
    if names is None:
        chosen = {name: parameter for name, parameter in known.items() if parameter.requires_grad}
    else:
        wanted = list(names)
        for name in wanted:
            if name not in known:
                raise ValueError(f"`parameters`: the model has no parameter '{name}'")
        chosen = {name: known[name] for name in wanted}
    if not chosen:
        raise ValueError("`parameters`: there is nothing to update: no parameter requires gradients")
    return chosen


def _interval(checkpoints: Checkpoints, updates: int) -> int:
    if checkpoints == "all":
        return 1
    return max(1, math.isqrt(updates)) if checkpoints == "sqrt" else int(checkpoints)


def _check(
    documents: Sequence[Mapping[str, Tensor]], weights: Sequence[Tensor], checkpoints: Checkpoints, method: Method
) -> None:
    if not documents or len(documents) != len(weights):
        raise ValueError(f"`weights` must be one a document: there are {len(weights)} for {len(documents)} documents")
    for number, (document, weight) in enumerate(zip(documents, weights, strict=True)):
        shape = document["input_ids"].shape
        if len(shape) != 2 or shape[0] != 1 or weight.shape != shape:
            raise ValueError(
                f"`weights[{number}]` must be of the document's shape [1, tokens]: found {list(weight.shape)} for "
                f"{list(shape)}"
            )
    if checkpoints not in ("all", "sqrt") and not (isinstance(checkpoints, int) and checkpoints >= 1):
        raise ValueError(f"`checkpoints` must be 'all', 'sqrt' or a number from 1 on, found {checkpoints!r}")
    if method not in ("forward", "reverse"):
        raise ValueError(f"`method` must be 'forward' or 'reverse', found {method!r}")
