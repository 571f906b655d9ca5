"""The transform stage: what is done to a row's tokens before the body reads them (AANG, section 3.2).

Of a row's words a share is selected. A pure transform is done to all selected words. The published mixture draws one
for each, as BERT does (80% masked, 10% replaced, 10% kept), and tilts the odds by the learned logit of the transform
that the objective is about; its loss is then that of the words which this transform was drawn for.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.stages import TRANSFORMS
from taskloom.errors import RecipeError

__all__ = ["Corrupted", "Transforms"]

#: What the mixture draws from, in the order of its probabilities.
MIXED = ("none", "replace", "mask")
_BERT = (0.1, 0.1, 0.8)


@dataclass(frozen=True)
class Corrupted:
    """Rows after a transform.

    Attributes:
        input_ids: ``[rows, tokens]``.
        noised: ``[rows, tokens]``, positions whose input embedding gets noise; None if none does.
        counted: ``[rows, tokens]``, positions whose original token is to be predicted.
    """

    input_ids: Tensor
    noised: Tensor | None
    counted: Tensor


class Transforms:
    """Transforms rows.

    Args:
        tokenizer: knows the vocabulary, the special tokens and the mask.
        probability: share of the words that is selected, in (0, 1].
        pure: do an objective's transform to all selected words; else draw from the mixture. `bert` is always a mixture,
            `noisy-embedding` never.
        temperature: of the mixture's softmax (published: 0.5).

    Raises:
        ValueError: `probability` or `temperature` is outside its range.
    """

    def __init__(self, tokenizer: Any, probability: float = 0.15, pure: bool = True, temperature: float = 0.5) -> None:
        _check_share("probability", probability)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be above 0, found {temperature}")
        self.probability = probability
        self.pure = pure
        self.temperature = temperature
        self.mask_token_id: int | None = tokenizer.mask_token_id
        special = set(tokenizer.all_special_ids)
        self.words = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))

    def needs_mask_token(self, transform: str) -> bool:
        """Return whether words are masked for this transform."""
        return transform in ("mask", "bert") or (transform in MIXED and not self.pure)

    def apply(
        self,
        batch: RowBatch,
        transform: str,
        logit: float,
        generator: torch.Generator,
        probability: float | None = None,
    ) -> Corrupted:
        """Select words of each row, at least one where there is any, and transform them.

        Args:
            batch: the rows.
            transform: one of `taskloom.auxiliary.stages.TRANSFORMS`.
            logit: the learned logit of the transform, which tilts the mixture; a pure transform ignores it.
            generator: draws, on the CPU.
            probability: another share of the words than `self.probability`.

        Raises:
            RecipeError: words are to be masked, and the tokenizer has no mask token.
            ValueError: there is no such transform.
        """
        if transform not in TRANSFORMS:
            raise ValueError(f"`transform`: unknown '{transform}'; known: {', '.join(TRANSFORMS)}")
        if probability is not None:
            _check_share("probability", probability)
        selected = _select(~batch.special, self.probability if probability is None else probability, generator)
        if transform == "noisy-embedding":
            return Corrupted(batch.input_ids, selected, selected)
        if self.mask_token_id is None and self.needs_mask_token(transform):
            raise RecipeError(
                f"auxiliary: the transform '{transform}' masks words, and the model's tokenizer has no mask token. "
                "Leave it out of the space (and use pure transforms), or use a model with a mask token."
            )
        drawn = self._draw(transform, logit, selected.shape, generator).to(selected.device)
        ids = batch.input_ids
        random = self.words[torch.randint(len(self.words), ids.shape, generator=generator)].to(ids)
        ids = torch.where(selected & (drawn == MIXED.index("replace")), random, ids)
        if self.mask_token_id is not None:
            ids = ids.masked_fill(selected & (drawn == MIXED.index("mask")), self.mask_token_id)
        counted = selected if transform == "bert" else selected & (drawn == MIXED.index(transform))
        return Corrupted(ids, None, counted)

    def mixture(self, transform: str, logit: float) -> Tensor:
        """Return the probabilities of none, replace and mask for a selected word."""
        if transform == "bert":
            return torch.tensor(_BERT)
        at = MIXED.index(transform)
        if self.pure:
            return torch.eye(len(MIXED))[at]
        logits = torch.tensor([0.0, 0.0, math.log(8) * self.temperature])
        logits[at] += logit
        return (logits / self.temperature).softmax(dim=0)

    def _draw(self, transform: str, logit: float, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Return for each token which of `MIXED` it gets, if it is selected."""
        probabilities = self.mixture(transform, logit)
        return torch.multinomial(probabilities, shape.numel(), replacement=True, generator=generator).view(shape)


def _select(words: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Return which of the words are selected, at least one a row that has any."""
    drawn = torch.rand(words.shape, generator=generator).to(words.device).masked_fill(~words, torch.inf)
    return words & ((drawn < probability) | (drawn == drawn.min(dim=1, keepdim=True).values))


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"`{name}` must be a share in (0, 1], found {value}")
