"""Which parameters of a language model are updated: all that train, or those of its last blocks."""

from typing import Any

import torch
from torch import nn

from taskloom.errors import RecipeError
from taskloom.gradients.cut import Cut, top_layer

__all__ = ["train_only", "trained_parameters"]


def trained_parameters(model: Any, layers: int | None = None) -> dict[str, nn.Parameter]:
    """Return the parameters that are updated, by name.

    Args:
        model: a causal language model; with adapters, its trainable parameters are the adapters'.
        layers: of all that train, only those of so many last blocks and of what follows them. What is used before
            these blocks as well, such as the vocabulary head of a model that shares it with its embeddings, is left
            out: a gradient for it would have to pass through every block.

    Raises:
        ValueError: the model has fewer blocks, or no list of them; or nothing is left to update.
    """
    chosen = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if layers is not None:
        depth = model.config.num_hidden_layers
        if layers > depth:
            raise ValueError(f"`layers` must be from 1 to {depth}, the blocks of the model, found {layers}")
        with Cut().before(top_layer(model, layers)) as cut, torch.enable_grad():
            ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        below = cut.parameters_below()
        chosen = {name: parameter for name, parameter in chosen.items() if id(parameter) not in below}
    if not chosen:
        raise ValueError("`model`: there is nothing to update: no parameter trains")
    return chosen


def train_only(model: Any, layers: int | None, field: str) -> None:
    """Freeze all of a model but its last blocks and what follows them; None freezes nothing.

    Raises:
        RecipeError: it has no such blocks, or nothing is left to train; the message names `field`.
    """
    try:
        chosen = trained_parameters(model, layers)
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
