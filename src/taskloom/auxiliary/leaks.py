"""A check at the start of a run that a model keeps to the views it is given.

Not every architecture takes a mask of its own for each position: some ignore it, some read it the other way round. Then
positions would see their own targets, and training would look excellent and teach nothing.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from taskloom.auxiliary.bodies import Body
from taskloom.auxiliary.views import visibility
from taskloom.errors import RecipeError

__all__ = ["refuse_leaks"]

ROWS, TOKENS, PADDING = 3, 7, 2


@torch.no_grad()
def refuse_leaks(body: Body, representations: Iterable[str]) -> None:
    """Check, by changing one token at a time, that no position sees its own target, nor padding.

    Args:
        body: the body that is trained; it is left as it was found.
        representations: those of the space.

    Raises:
        RecipeError: a view leaks, or hides what it should show; the message names the model's class.
    """
    modules = list(body.network.modules())
    training = [module.training for module in modules]
    body.network.eval()
    try:
        for representation in representations:
            try:
                reason = _fault(body, representation)
            except Exception as error:  # whatever an architecture makes of a mask that it does not expect
                reason = f"it fails with {type(error).__name__} {str(error).strip().partition(chr(10))[0]}".rstrip()
            if reason is not None:
                raise RecipeError(
                    f"auxiliary: {body.name} does not keep to the representation '{representation}': {reason}. It "
                    "does not take a mask for each position as it should. Leave that representation out of the space, "
                    "or use another model."
                )
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def _fault(body: Body, representation: str) -> str | None:
    generator = torch.Generator().manual_seed(0)
    table: Any = body.embedding.weight
    ids = torch.randint(table.shape[0] // 2, table.shape[0], (ROWS, TOKENS), generator=generator)
    real = torch.ones_like(ids)
    real[1:, -PADDING:] = 0
    pooled = body.pooled_position(real)
    view = visibility(representation, real, generator, pooled=pooled)
    # One copy of the rows as they are, and one for each token changed, in one pass.
    changed = torch.stack([ids, *(_other(ids, token, table.shape[0]) for token in range(TOKENS))])
    mask = view.attention(real, body.dtype)
    device = table.device
    states = body.hidden(
        changed.flatten(0, 1).to(device),
        mask.repeat(TOKENS + 1, *[1] * (mask.dim() - 1)).to(device),
        torch.zeros(len(changed) * ROWS, dtype=torch.long, device=device),
    )
    states = states.float().cpu().unflatten(0, (TOKENS + 1, ROWS))
    moved = (states[1:] - states[0]).abs().amax(dim=-1)  # [changed token, row, position]
    spread = states[0].std()
    moves = moved > max(1e-4, 2 * torch.finfo(body.dtype).eps) * spread
    reaches = moved > 1e-6 * spread  # what is seen may matter little
    for row in range(ROWS):
        for token in range(TOKENS):
            at = int(view.predictor[row, token])
            if not real[row, token]:
                if view.mask is not None and (moves[token, row] & real[row].bool()).any():
                    return "words see padding"
            elif not reaches[token, row, token]:
                return "a position does not see itself"
            elif view.mask is not None and at >= 0 and moves[token, row, at]:
                return "a position sees its own target"
            elif view.mask is None and not (reaches[token, row] | ~real[row].bool()).all():
                return "positions do not see all of their row"
    if pooled is not None and representation == "random-factorized":
        seen = reaches[torch.arange(TOKENS)[None], torch.arange(ROWS)[:, None], pooled[:, None]]
        if not (seen | (real == 0)).all():
            return "the position that a row's vector is read from does not see all of the row"
    return None


def _other(ids: Tensor, token: int, words: int) -> Tensor:
    other = ids.clone()
    other[:, token] = words // 2 + (other[:, token] - words // 2 + 1) % (words - words // 2)
    return other
