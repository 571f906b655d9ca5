"""Rows from pieces of a corpus: the tokenizer's special tokens around one text or a pair, learned once and repeated."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

__all__ = ["Layout", "RowTemplate", "longest_first"]

#: An empty place in `Layout.place`: a special token or padding.
NOWHERE = -1


@dataclass(frozen=True)
class Layout:
    """Rows padded on the right.

    Attributes:
        place: the token of the corpus that stands in each cell, -1 for special tokens and padding, [rows, tokens].
        input_ids: [rows, tokens].
        attention_mask: [rows, tokens].
        token_type_ids: [rows, tokens], if the tokenizer makes them.
    """

    place: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray | None


class RowTemplate:
    """How a tokenizer writes one text and a pair of texts.

    Args:
        tokenizer: a fast tokenizer.
        max_length: the most tokens of a row, special tokens included.

    Raises:
        ValueError: the tokenizer knows no token, or has neither a padding nor an end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if padding is None:
            raise ValueError("`tokenizer` has neither a padding nor an end token; set `tokenizer.eos_token`")
        self.padding = int(padding)  # pyright: ignore[reportArgumentType]
        self.padding_type = int(tokenizer.pad_token_type_id)
        self.max_length = max_length
        probe = _known_text(tokenizer)
        self._single = _pieces(tokenizer(probe))
        self._pair = _pieces(tokenizer(probe, probe))
        #: The special tokens before a single text.
        self.prefix = [token for _, token, _ in itertools.takewhile(lambda piece: piece[0] is None, self._single)]
        self._has_types = "token_type_ids" in tokenizer(probe)

    def room(self, pair: bool = False) -> int:
        """Return how many tokens of text a row of one text, or of a pair, has room for."""
        return self.max_length - sum(segment is None for segment, _, _ in (self._pair if pair else self._single))

    def rows(self, tokens: np.ndarray, first: np.ndarray, second: np.ndarray | None = None) -> Layout:
        """Return rows of one text each, or of a pair, cut at the end (of pairs the longer one first) where too long.

        Args:
            tokens: the tokens of the corpus.
            first: [first, last) tokens of each row's text, [rows, 2].
            second: of the second text of each pair.
        """
        starts = [first[:, 0]] if second is None else [first[:, 0], second[:, 0]]
        lengths = [first[:, 1] - first[:, 0]] if second is None else [np.diff(first)[:, 0], np.diff(second)[:, 0]]
        room = self.room(second is not None)
        lengths = [np.minimum(lengths[0], room)] if second is None else list(longest_first(*lengths, room))
        pieces = self._single if second is None else self._pair
        total = sum(lengths) + sum(segment is None for segment, _, _ in pieces)
        shape = (len(first), int(np.max(total, initial=0)))
        place = np.full(shape, NOWHERE, dtype=np.int64)
        input_ids = np.full(shape, self.padding, dtype=np.int64)
        types = np.full(shape, self.padding_type, dtype=np.int64)
        columns = np.arange(shape[1])
        cursor = np.zeros(len(first), dtype=np.int64)
        for segment, token, kind in pieces:
            length = lengths[segment] if segment is not None else np.ones_like(cursor)
            cells = (columns >= cursor[:, None]) & (columns < (cursor + length)[:, None])
            types[cells] = kind
            if segment is None:
                input_ids[cells] = token
            else:
                place = np.where(cells, (starts[segment] - cursor)[:, None] + columns, place)
            cursor = cursor + length
        input_ids = np.where(place >= 0, tokens[place], input_ids)
        mask = (columns < cursor[:, None]).astype(np.int64)
        return Layout(place, input_ids, mask, types if self._has_types else None)


def longest_first(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of pairs after `truncation="longest_first"` to `room` tokens, as fast tokenizers cut."""
    shorter, longer = np.minimum(first, second), np.maximum(first, second)
    longer = np.minimum(longer, np.maximum(shorter, room - shorter))
    both = shorter + longer > room
    shorter, longer = np.where(both, room // 2, shorter), np.where(both, room - room // 2, longer)
    swapped = first > second
    return np.where(swapped, longer, shorter), np.where(swapped, shorter, longer)


def _known_text(tokenizer: PreTrainedTokenizerBase) -> str:
    for text in ("a", *tokenizer.get_vocab()):
        if tokenizer(text, add_special_tokens=False)["input_ids"]:
            return text
    raise ValueError("`tokenizer` knows no token")


def _pieces(encoded: Any) -> list[tuple[int | None, int, int]]:
    """Return the row as (segment or None, special token, token type), one entry a text and a special token."""
    segments = encoded.sequence_ids(0)
    types = encoded.get("token_type_ids", [0] * len(segments))
    pieces: list[tuple[int | None, int, int]] = []
    for segment, token, kind in zip(segments, encoded["input_ids"], types, strict=True):
        if segment is None or not pieces or pieces[-1][0] != segment:
            pieces.append((segment, token if segment is None else NOWHERE, kind))
    return pieces
