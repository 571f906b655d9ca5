"""From items of text2text and lm tasks to one batch of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taskloom.tasks.encoding import IGNORED

__all__ = ["Text2TextCollator", "padded", "padding_token"]


class Text2TextCollator:
    """Turns a list of items into a dict of tensors.

    - `input_ids`, `attention_mask`: LongTensor[batch, tokens].
    - `task`: LongTensor[batch].
    - `labels`: LongTensor[batch, answer tokens], -100 on padding; if every item has a target.

    Encoder-decoder models: prompts padded on the right. Decoder-only models: prompts padded on the left, so that all
    answers begin in the same column, and with targets the answers behind them, padded on the right; `labels` belong to
    these last columns.

    Args:
        tokenizer: gives the padding token; without one, the end token stands in, hidden by the mask.
        decoder_only: whether prompt and answer are one row.
        pad_to: pad every prompt to this length; None pads to the longest of the batch.

    Raises:
        ValueError: the tokenizer has neither a padding nor an end token.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, decoder_only: bool = False, pad_to: int | None = None
    ) -> None:
        self.padding = padding_token(tokenizer)
        self.decoder_only = decoder_only
        self.pad_to = pad_to

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch of `items`.

        Raises:
            ValueError: a prompt is longer than `pad_to`.
        """
        answers = [item["target_ids"] for item in items] if all("target_ids" in item for item in items) else None
        batch = self.prompts(items)
        if answers is not None:
            batch["labels"] = padded(answers, IGNORED)
            if self.decoder_only:
                following = padded(answers, self.padding)
                mask = padded([[1] * len(answer) for answer in answers], 0)
                batch["input_ids"] = torch.cat([batch["input_ids"], following], dim=1)
                batch["attention_mask"] = torch.cat([batch["attention_mask"], mask], dim=1)
        return batch

    def prompts(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return the batch without the answers: what generation starts from."""
        rows = [item["input_ids"] for item in items]
        longest = max(map(len, rows))
        width = self.pad_to or longest
        if longest > width:
            raise ValueError(f"`pad_to` is {self.pad_to}, but a prompt has {longest} tokens")
        return {
            "input_ids": padded(rows, self.padding, width, left=self.decoder_only),
            "attention_mask": padded([[1] * len(row) for row in rows], 0, width, left=self.decoder_only),
            "task": torch.tensor([item["task"] for item in items]),
        }


def padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token or, without one, the end token: the mask hides it.

    Raises:
        ValueError: the tokenizer has neither.
    """
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if padding is None:
        raise ValueError("`tokenizer` has neither a padding nor an end token; set `tokenizer.eos_token`")
    return int(padding)  # pyright: ignore[reportArgumentType]


def padded(rows: Sequence[Sequence[int]], value: int, width: int | None = None, left: bool = False) -> Tensor:
    """Return the rows, filled with `value` to `width` or to the longest of them, as LongTensor[rows, width]."""
    width = width or max(map(len, rows))
    filled = [[value] * (width - len(row)) for row in rows]
    pairs = zip(filled, rows, strict=True)
    return torch.tensor([[*fill, *row] if left else [*row, *fill] for fill, row in pairs])
