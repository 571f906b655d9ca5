"""Metrics of answers that a model wrote itself, where a classifier would have named a class or a number.

A generated answer may be none of the task's answers; each function says how it then counts, which is as in the
published evaluation (arXiv 2203.08304, after T5's). All values lie in [0, 1] or, of correlations, in [-1, 1], where the
publications print percentages.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskloom.errors import UserError

__all__ = ["bleu", "class_indices", "f1_of_answers", "macro_f1_of_answers", "numbers", "share_of_equal_texts"]

#: Index of an answer that is none of the task's.
INVALID = -1
#: Value of an answer that is no number.
NO_NUMBER = -1.0

Indices = NDArray[np.int64]


def share_of_equal_texts(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """The share of answers that equal a gold answer letter by letter, but for white space around them."""
    return fmean(
        found.strip() in [gold.strip() for gold in golds] for found, golds in zip(predictions, targets, strict=True)
    )


def class_indices(texts: Sequence[str], answers: Sequence[str]) -> Indices:
    """Return the position of each text among the task's `answers`, `INVALID` for any other text."""
    positions = {answer.strip(): index for index, answer in reversed(list(enumerate(answers)))}
    return np.array([positions.get(text.strip(), INVALID) for text in texts], dtype=np.int64)


def f1_of_answers(predictions: Indices, targets: Indices) -> float:
    """F1 of the second of two answers; an invalid answer counts as the wrong one of the two."""
    from sklearn.metrics import f1_score

    decided = np.where(predictions == INVALID, 1 - targets, predictions)
    return float(f1_score(targets, decided, zero_division=0.0))  # pyright: ignore[reportArgumentType]


def macro_f1_of_answers(predictions: Indices, targets: Indices) -> float:
    """The unweighted mean of the F1 of each answer that is given or right; an invalid answer misses and is no class."""
    from sklearn.metrics import f1_score

    classes = sorted({*predictions.tolist(), *targets.tolist()} - {INVALID})
    score: Any = f1_score(targets, predictions, labels=classes, average="macro", zero_division=0.0)  # pyright: ignore[reportArgumentType]
    return float(score)


def numbers(texts: Sequence[str]) -> list[float]:
    """Return the numbers that the texts spell, `NO_NUMBER` where one spells none (or one that is not finite)."""
    return [_number(text) for text in texts]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return NO_NUMBER
    return number if math.isfinite(number) else NO_NUMBER


def bleu(predictions: Sequence[str], targets: Sequence[Sequence[str]]) -> float:
    """BLEU of the whole split (Papineni et al. 2002) as sacreBLEU computes it by default, divided by 100.

    Examples may have several references, and not all as many.

    Raises:
        UserError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError("metrics: bleu needs sacrebleu: pip install 'taskloom[generation]'") from None
    most = max(map(len, targets))
    # Where an example has fewer references than others, sacreBLEU takes None.
    streams: Any = [[golds[index] if index < len(golds) else None for golds in targets] for index in range(most)]
    score = BLEU().corpus_score(list(predictions), streams).score
    return min(score / 100, 1.0)  # a perfect score is 100.00000000000004
