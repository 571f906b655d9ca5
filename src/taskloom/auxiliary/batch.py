"""Rows of text as the auxiliary objectives take them: token ids, and the targets that can be known from the text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from torch import Tensor

__all__ = ["BLOCKS", "RowBatch"]

#: The rows of token-level and supervised outputs: pieces of documents, or examples of a labelled task.
BLOCKS = "blocks"


@dataclass(frozen=True)
class RowBatch:
    """Rows of one view, padded on the right.

    Attributes:
        input_ids: ``[rows, tokens]``, before any transform.
        attention_mask: ``[rows, tokens]``, 0 on padding.
        special: ``[rows, tokens]``, true on special tokens and padding: never transformed, never a target.
        task: ``[rows]``, the task id that conditional adapters are given.
        token_type_ids: ``[rows, tokens]``, for encoders that use them.
        targets: by output. ``tf`` and ``cap``: LongTensor ``[rows, tokens]``, -100 where special; ``tfidf``:
            FloatTensor ``[rows, tokens]``, 0 where special; ``next-sentence``, ``adjacent-sentence``,
            ``sentence-order`` and ``sentence-continuity``: LongTensor ``[rows]``; ``fastsent``: LongTensor
            ``[rows, words]``, the token ids of the neighbouring sentences, -100 as padding; of a labelled task: its
            ``labels``, ``token_labels`` and ``span_labels`` as `MultiTaskCollator` makes them. ``quick-thoughts`` has
            none: rows 2i and 2i+1 are neighbours. ``denoise`` has none: its targets are `input_ids`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    special: Tensor
    task: Tensor
    token_type_ids: Tensor | None = None
    targets: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)

    def to(self, device: Any) -> "RowBatch":
        """Return the rows on a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def rows(self, rows: slice) -> "RowBatch":
        """Return some of the rows."""
        return self._mapped(lambda tensor: tensor[rows])

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> "RowBatch":
        return replace(self, **{part.name: _mapped(getattr(self, part.name), function) for part in fields(self)})


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {name: _mapped(part, function) for name, part in value.items()}
    return None if value is None else function(value)
