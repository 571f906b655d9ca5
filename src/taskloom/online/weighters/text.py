"""Weighters that look at words: each character of the text gets a weight, each token the largest of its characters."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taskloom.online.spans import token_spans

__all__ = ["TextWeighter"]


class TextWeighter(nn.Module):
    """Weigh the characters of the decoded documents, and carry that to the tokens by their character spans.

    Args:
        tokenizer: the fast tokenizer of the input identifiers.
    """

    def __init__(self, tokenizer: Any):
        super().__init__()
        self.tokenizer = tokenizer

    @abstractmethod
    def character_weights(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return one array[characters] of weights (at least 0) for each text."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return weights[batch, tokens]; 0 on padding and on special tokens."""
        mask = attention_mask.bool().cpu()
        decoded = [
            token_spans(row[real].tolist(), self.tokenizer) for row, real in zip(input_ids.cpu(), mask, strict=True)
        ]
        weights = torch.zeros(mask.shape)
        of_characters = self.character_weights([text for text, _ in decoded])
        for row, (_, spans), characters in zip(range(len(decoded)), decoded, of_characters, strict=True):
            largest = [characters[start:end].max(initial=0.0) for start, end in spans]
            weights[row, mask[row]] = torch.tensor(largest, dtype=weights.dtype)
        return weights.to(input_ids.device)
