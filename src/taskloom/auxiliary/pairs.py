"""Sentence-level rows and their targets: which sentence of a corpus stands beside which.

Outputs of AANG's section 3 after Aroca-Ouellette & Rudzicz (arXiv 2010.01694, section 3.1): next sentence, adjacent
sentence, sentence order, sentence continuity, quick thoughts and FastSent. All but FastSent raise NotImplementedError
in AANG's code. Here the two sides of a classification are drawn from the same sentences whatever the class, so that
nothing but the neighbourhood tells the class: the first sentence of a document, for example, never follows another.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from taskloom.auxiliary.corpus import Corpus
from taskloom.auxiliary.stages import SENTENCE_OUTPUTS

__all__ = ["PAIR_CLASSES", "Neighbours", "SentenceRows", "without_replacement"]

#: Class names of the classifications, in the order of their ids. A and B are the first and second sentence of a row.
PAIR_CLASSES: dict[str, tuple[str, ...]] = {
    "next-sentence": ("B follows A", "B is of another document"),
    "adjacent-sentence": ("B precedes A", "B follows A", "B is of another document"),
    "sentence-order": ("B follows A", "B precedes A"),
    "sentence-continuity": ("B is of the same document", "B is of another document"),
}


@dataclass(frozen=True)
class SentenceRows:
    """Sentences (indices into the corpus) of each row.

    Attributes:
        first: the sentence, or A of a pair, [rows].
        second: B of each pair, [rows].
        classes: [rows], of classifications.
        around: of FastSent, the sentences before and after each row's, -1 where there is none, [rows, 2].
    """

    first: np.ndarray
    second: np.ndarray | None = None
    classes: np.ndarray | None = None
    around: np.ndarray | None = None


class Neighbours:
    """Draws sentences with neighbours from a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        document = corpus.document_of_sentence
        #: Sentences whose next one is of the same document.
        self._followed = np.flatnonzero(document[1:] == document[:-1])
        #: Sentences of documents with at least two.
        self._accompanied = np.union1d(self._followed, self._followed + 1)

    def supports(self, output: str) -> str | None:
        """Return None, or why there can be no rows for a sentence-level output.

        Raises:
            ValueError: `output` is not one.
        """
        if output not in SENTENCE_OUTPUTS:
            raise ValueError(f"`output` must be one of {', '.join(SENTENCE_OUTPUTS)}, found '{output}'")
        if not len(self._followed):
            return "every document has one sentence"
        if output in ("next-sentence", "adjacent-sentence", "sentence-continuity") and self._documents < 2:
            return "only one document has two sentences, and another one is needed"
        if output == "quick-thoughts" and len(self._apart(self._followed, 2)) < 2:
            return "only one pair of sentences stands side by side, and another one is needed"
        return None

    def draw(self, output: str, rows: int, generator: np.random.Generator) -> SentenceRows:
        """Draw rows at random, with classes of the same size (or one apart).

        Without replacement while there are enough; quick thoughts gives fewer rows when there are not enough.
        """
        if output == "quick-thoughts":
            return self._quick_thoughts(rows, generator)
        if output == "fastsent":
            return self._fastsent(rows, generator)
        drawn: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
            "next-sentence": self._next,
            "adjacent-sentence": self._adjacent,
            "sentence-order": self._order,
            "sentence-continuity": self._continuity,
        }
        number = len(PAIR_CLASSES[output])
        classes = generator.permutation((np.arange(rows) + generator.integers(number)) % number)
        first, second = drawn[output](classes, generator)
        return SentenceRows(first, second, classes)

    def _next(self, classes: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        first = self._followed[without_replacement(len(self._followed), len(classes), generator)]
        foreign = self._elsewhere(first, self._followed_by_group, generator) + 1
        return first, np.where(classes == 0, first + 1, foreign)

    def _adjacent(self, classes: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pair = self._followed[without_replacement(len(self._followed), len(classes), generator)]
        side = generator.integers(0, 2, size=(2, len(classes)))
        foreign = self._elsewhere(pair, self._followed_by_group, generator) + side[1]
        first = np.select([classes == 0, classes == 1], [pair + 1, pair], pair + side[0])
        second = np.select([classes == 0, classes == 1], [pair, pair + 1], foreign)
        return first, second

    def _order(self, classes: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pair = self._followed[without_replacement(len(self._followed), len(classes), generator)]
        return pair + (classes == 1), pair + (classes == 0)

    def _continuity(self, classes: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        first = self._accompanied[without_replacement(len(self._accompanied), len(classes), generator)]
        document = self._corpus.document_of_sentence[first]
        start, stop = self._corpus.documents[document], self._corpus.documents[document + 1]
        same = generator.integers(start, stop - 1)
        same = same + (same >= first)  # any sentence of the document but the first one itself
        foreign = self._elsewhere(first, self._accompanied_by_group, generator)
        return first, np.where(classes == 0, same, foreign)

    def _quick_thoughts(self, rows: int, generator: np.random.Generator) -> SentenceRows:
        available = len(self._followed)
        tried = without_replacement(available, min(2 * rows, available), generator)
        pairs = self._apart(self._followed[tried], rows // 2)
        if len(pairs) < rows // 2 and len(tried) < available:
            pairs = self._apart(self._followed[generator.permutation(available)], rows // 2)
        return SentenceRows(np.stack([pairs, pairs + 1], axis=1).reshape(-1))

    def _fastsent(self, rows: int, generator: np.random.Generator) -> SentenceRows:
        sentences = self._accompanied[without_replacement(len(self._accompanied), rows, generator)]
        document = self._corpus.document_of_sentence[sentences]
        before = np.where(sentences > self._corpus.documents[document], sentences - 1, -1)
        after = np.where(sentences + 1 < self._corpus.documents[document + 1], sentences + 1, -1)
        return SentenceRows(sentences, around=np.stack([before, after], axis=1))

    def _apart(self, pairs: np.ndarray, most: int) -> np.ndarray:
        """Return the first of `pairs` (their first sentences) that share no sentence, nor one's wording."""
        wordings = self._corpus.wordings
        taken: set[int] = set()
        kept: list[int] = []
        for pair, one, other in zip(
            pairs.tolist(), wordings[pairs].tolist(), wordings[pairs + 1].tolist(), strict=True
        ):
            if len(kept) == most:
                break
            if one != other and one not in taken and other not in taken:
                kept.append(pair)
                taken.update((one, other))
        return np.array(kept, dtype=np.int64)

    @cached_property
    def _documents(self) -> int:
        return len(np.unique(self._group_of(self._followed)))

    @cached_property
    def _followed_by_group(self) -> "_Pool":
        return self._pool(self._followed)

    @cached_property
    def _accompanied_by_group(self) -> "_Pool":
        return self._pool(self._accompanied)

    def _pool(self, sentences: np.ndarray) -> "_Pool":
        groups = self._group_of(sentences)
        order = np.argsort(groups, kind="stable")
        return _Pool(sentences[order], groups[order])

    def _group_of(self, sentences: np.ndarray) -> np.ndarray:
        return self._corpus.groups[self._corpus.document_of_sentence[sentences]]

    def _elsewhere(self, sentences: np.ndarray, pool: "_Pool", generator: np.random.Generator) -> np.ndarray:
        """Draw for each sentence one of `pool` that is of another document."""
        own = self._group_of(sentences)
        low, high = np.searchsorted(pool.groups, own, side="left"), np.searchsorted(pool.groups, own, side="right")
        drawn = generator.integers(0, len(pool.groups) - (high - low))
        return pool.sentences[np.where(drawn >= low, drawn + high - low, drawn)]


class _Pool(NamedTuple):
    """Sentences sorted by the group of their document."""

    sentences: np.ndarray
    groups: np.ndarray


def without_replacement(population: int, number: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `number` of `population` indices in random order; each once before any comes again, [number]."""
    rounds = [generator.permutation(population) for _ in range(number // population)]
    return np.concatenate([*rounds, generator.choice(population, number % population, replace=False)])
