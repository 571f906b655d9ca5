"""The loss of a document whose tokens have weights (CaMeLS, equation 1)."""

from typing import Any

from torch import Tensor

from taskloom.gradients.weighted_updates import causal_token_losses

__all__ = ["weighted_loss"]


def weighted_loss(
    model: Any, input_ids: Tensor, attention_mask: Tensor, weights: Tensor, length: int | None = None
) -> Tensor:
    """Return the sum of the weighted losses of a document's tokens, over their number.

    Args:
        model: a causal language model.
        input_ids: ``[1, tokens]``.
        attention_mask: ``[1, tokens]``.
        weights: ``[1, tokens]``; entry t multiplies the loss of predicting token t. The first token has no loss.
        length: what to divide by instead of the number of predicted tokens. The published code divides by the padded
            length less one, 1,023.
    """
    losses, counted = causal_token_losses(model, {"input_ids": input_ids, "attention_mask": attention_mask})
    total = (losses * weights.to(losses.dtype)).masked_fill(~counted, 0.0).sum()
    return total / (counted.sum().clamp(min=1) if length is None else length)
