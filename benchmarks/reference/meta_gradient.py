"""The meta-gradient as published code gets it: a graph of all inner updates, differentiated as a whole.

Plain torch instead of the `higher` package, which is not maintained any more and does the same. Attention is eager,
since the fused kernels have no second derivatives.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

__all__ = ["unrolled_graph"]


def unrolled_graph(
    model: nn.Module,
    documents: Sequence[Mapping[str, Tensor]],
    weights: Sequence[Tensor],
    outer_loss: Callable[[Any], Tensor],
    lr: float,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the outer loss after one weighted SGD step a document, and its gradient by the weights."""
    values = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters() if p.requires_grad}
    weights = [weight.detach().requires_grad_() for weight in weights]
    for document, weight in zip(documents, weights, strict=True):
        logits = functional_call(model, values, kwargs={**document, "use_cache": False}).logits[:, :-1]
        losses = F.cross_entropy(logits.transpose(1, 2), document["input_ids"][:, 1:], reduction="none")
        real = document["attention_mask"][:, 1:]
        loss = (losses * weight[:, 1:] * real).sum() / real.sum()
        gradients = torch.autograd.grad(loss, list(values.values()), create_graph=True)
        values = {name: value - lr * g for (name, value), g in zip(values.items(), gradients, strict=True)}
    loss = outer_loss(lambda **inputs: functional_call(model, values, kwargs=inputs))
    return loss.detach(), torch.autograd.grad(loss, weights)
