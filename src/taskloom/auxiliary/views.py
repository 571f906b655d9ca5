"""Representations: which tokens a position may see, and where the prediction of a token is made (AANG, section 3.2).

In a view with an order, a position sees itself and positions before it in the order, and the state at one position
predicts the token at the next. Whatever the number of layers, a state then depends on no token behind it in the order:
no position sees its own target. The published code hands such masks to objectives that predict a position's own token.

| representation      | order of a row's tokens         | a position sees                        |
|---------------------|---------------------------------|----------------------------------------|
| `bidirectional`     | none: a state predicts its own  | all tokens                             |
| `left-to-right`     | as they stand                   | all before it                          |
| `right-to-left`     | backwards                       | all before it, which stand behind it   |
| `random-factorized` | any, the pooled position last   | each before it by chance, see `density` |
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from taskloom.auxiliary.stages import REPRESENTATIONS

__all__ = ["Visibility", "additive", "all_see_all", "visibility"]


@dataclass(frozen=True)
class Visibility:
    """One view of some rows.

    Attributes:
        mask: ``[rows, tokens, tokens]``, whether the position of the second dimension sees the one of the third; None
            if each token sees all of its row. Padding is seen by itself alone.
        predictor: ``[rows, tokens]``, the position whose state predicts the token at this one; -1 where none does.
    """

    mask: Tensor | None
    predictor: Tensor

    def attention(self, attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what a body takes as its mask: the rows' own ``[rows, tokens]``, or `additive`."""
        return attention_mask if self.mask is None else additive(self.mask, dtype)


def visibility(
    representation: str,
    attention_mask: Tensor,
    generator: torch.Generator,
    *,
    pooled: Tensor | None = None,
    density: float = 0.6,
) -> Visibility:
    """Return the view of rows by a representation.

    Args:
        representation: one of `taskloom.auxiliary.stages.REPRESENTATIONS`.
        attention_mask: ``[rows, tokens]``, 0 on padding.
        generator: draws the orders and what is seen, on the CPU.
        pooled: ``[rows]``, the position that a row's vector is read from (`Body.pooled_position`): last in a random
            order, and seeing all of the row. None: there is no such position.
        density: probability that a position sees one before it in a random order (published: 0.6).

    Raises:
        ValueError: there is no such representation.
    """
    if representation not in REPRESENTATIONS:
        raise ValueError(f"`representation`: unknown '{representation}'; known: {', '.join(REPRESENTATIONS)}")
    real = attention_mask.bool()
    rows, tokens = real.shape
    positions = torch.arange(tokens, device=real.device).expand(rows, tokens)
    if representation == "bidirectional":
        return Visibility(None, positions.masked_fill(~real, -1))
    if representation == "random-factorized":
        keys = torch.rand(rows, tokens, generator=generator).to(real.device)
        if pooled is not None:
            keys.scatter_(1, pooled.unsqueeze(1), 2.0)
    else:
        keys = positions.float() if representation == "left-to-right" else -positions.float()
    order = keys.masked_fill(~real, torch.inf).argsort(dim=1, stable=True)  # the position at each place, padding last
    place = order.argsort(dim=1)
    seen = place.unsqueeze(1) <= place.unsqueeze(2)
    if representation == "random-factorized":
        kept = (torch.rand(rows, tokens, tokens, generator=generator) < density).to(real.device)
        if pooled is not None:
            kept |= (positions == pooled.unsqueeze(1)).unsqueeze(2)
        seen &= kept
    own = torch.eye(tokens, dtype=torch.bool, device=real.device)
    mask = (seen & real.unsqueeze(1) & real.unsqueeze(2)) | own
    before = order.roll(1, dims=1)
    before[:, 0] = -1
    return Visibility(mask, torch.empty_like(order).scatter_(1, order, before).masked_fill_(~real, -1))


def all_see_all(attention_mask: Tensor) -> Tensor:
    """Return the mask, ``[rows, tokens, tokens]``, of rows whose tokens all see each other."""
    real = attention_mask.bool()
    own = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return (real.unsqueeze(1) & real.unsqueeze(2)) | own


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the attention scores, ``[rows, 1, tokens, tokens]``: 0, or the lowest number if unseen.

    Models take boolean masks of four dimensions too, but without the fused kernels these are added as numbers.
    """
    scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return scores.masked_fill_(~mask, torch.finfo(dtype).min).unsqueeze(1)
