"""Weighted updates on documents, one after another: the chain that `taskloom.gradients.meta` differentiates.

θ_k = θ_(k-1) - lr ∇L_k(θ_(k-1), w_k) on L_k = Σ_t w_kt nll_kt / n_k (CaMeLS, arXiv 2305.15076, equation 1), where
n_k is the number of predicted real tokens.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taskloom.gradients.inner_updates import SGD, InnerOptimizer, Tensors
from taskloom.gradients.passes import evaluating
from taskloom.gradients.second_order import TokenLosses, Update

__all__ = ["causal_token_losses", "chosen_parameters", "inner_optimizer", "updated_parameters", "updates_of"]


def causal_token_losses(call: Callable[..., Any], document: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the losses of a causal language model's tokens, each predicted from those before it.

    Args:
        call: runs the model.
        document: ``input_ids`` and ``attention_mask``, both ``[rows, tokens]``.

    Returns:
        ``[rows, tokens]`` negative log-likelihoods, 0 for the first token of a row, and which tokens are real and
        predicted from a real one.
    """
    ids, mask = document["input_ids"], document["attention_mask"]
    logits = call(input_ids=ids, attention_mask=mask, use_cache=False).logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    targets = F.pad(ids[:, 1:], (0, 1), value=-100)  # nothing follows the last token
    losses = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none").view(ids.shape)
    real = mask.bool()
    return F.pad(losses[:, :-1], (1, 0)), F.pad(real[:, 1:] & real[:, :-1], (1, 0))


def updated_parameters(
    model: nn.Module,
    documents: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Tensor],
    lr: float | InnerOptimizer,
    *,
    parameters: Iterable[str] | None = None,
    token_losses: TokenLosses = causal_token_losses,
) -> Tensors:
    """Return the parameters after weighted updates, and keep nothing by which these could be differentiated.

    The arguments are those of `taskloom.gradients.unrolled_meta_gradient`; the model is left as it was.
    """
    updates, optimizer = updates_of(model, documents, weights, token_losses), inner_optimizer(lr)
    values = {name: parameter.detach() for name, parameter in chosen_parameters(model, parameters).items()}
    state = optimizer.initial_state(values)
    with evaluating(model):
        for number, update in enumerate(updates, start=1):
            values, state = optimizer.update(number, values, state, update.gradient(values))
    return values


def updates_of(
    model: nn.Module,
    documents: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Tensor],
    token_losses: TokenLosses,
) -> list[Update]:
    """Return one update a document.

    Raises:
        ValueError: documents and weights differ in number or shape.
    """
    if not documents or len(documents) != len(weights):
        raise ValueError(f"`weights` must be one a document: there are {len(weights)} for {len(documents)} documents")
    for number, (document, weight) in enumerate(zip(documents, weights, strict=True)):
        shape = document["input_ids"].shape
        if len(shape) != 2 or weight.shape != shape:
            raise ValueError(
                f"`weights[{number}]` must be of the document's shape [rows, tokens]: found {list(weight.shape)} for "
                f"{list(shape)}"
            )
    return [
        Update(model, document, weight.detach(), token_losses)
        for document, weight in zip(documents, weights, strict=True)
    ]


def inner_optimizer(lr: float | InnerOptimizer) -> InnerOptimizer:
    """Return an inner optimizer as it is, and SGD of a learning rate."""
    return SGD(lr) if isinstance(lr, float | int) else lr


def chosen_parameters(model: nn.Module, names: Iterable[str] | None) -> dict[str, nn.Parameter]:
    """Return the parameters of these names; None takes those that require gradients.

    Raises:
        ValueError: an unknown name, or none at all.
    """
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
