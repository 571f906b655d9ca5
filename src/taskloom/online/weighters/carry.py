"""Carrying weights from the tokens of one tokenizer to those of another, by the characters that they share."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

__all__ = ["carry_matrix"]


def carry_matrix(source: Sequence[Sequence[int]], target: Sequence[Sequence[int]], length: int) -> csr_array:
    """Return the linear map from weights of source tokens to weights of target tokens of the same text.

    A character's weight is the mean of the source tokens that it is part of; a target token's weight is the mean of
    its characters. Characters between source tokens (spaces that a tokenizer leaves out) belong to the next token,
    those behind the last token to it.

    Args:
        source: [start, end] of each source token in the text, in characters, in the text's order.
        target: the same of each target token.
        length: number of characters of the text.

    Returns:
        A sparse array[target tokens, source tokens]. A row adds up to 1; it is 0 where the target token has no
        characters, and everywhere if no source token has any.
    """
    owners = _characters_of(_without_gaps(np.asarray(source, dtype=np.int64).reshape(-1, 2), length), length)
    readers = _characters_of(np.asarray(target, dtype=np.int64).reshape(-1, 2), length)
    return _mean_rows(readers) @ _mean_rows(owners.T)


def _without_gaps(spans: np.ndarray, length: int) -> np.ndarray:
    spans = spans.copy()
    visible = np.flatnonzero(spans[:, 1] > spans[:, 0])
    if len(visible):
        covered = np.concatenate([[0], np.maximum.accumulate(spans[visible, 1])[:-1]])
        spans[visible, 0] = np.minimum(spans[visible, 0], covered)
        spans[visible[-1], 1] = length
    return spans


def _characters_of(spans: np.ndarray, length: int) -> csr_array:
    """Return an array[tokens, characters] that is 1 where a token has a character."""
    widths = spans[:, 1] - spans[:, 0]
    ends = np.cumsum(widths)
    columns = np.arange(widths.sum()) - np.repeat(ends - widths - spans[:, 0], widths)
    return csr_array((np.ones(len(columns)), columns, np.concatenate([[0], ends])), shape=(len(spans), length))


def _mean_rows(matrix: csr_array) -> csr_array:
    matrix = csr_array(matrix)
    sums = np.maximum(np.asarray(matrix.sum(axis=1)), 1.0)
    matrix.data = matrix.data / np.repeat(sums, np.diff(matrix.indptr))
    return matrix
