"""Rare words count more: TF-IDF weights, a baseline of CaMeLS (section 5.1)."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from taskloom.errors import DataError
from taskloom.online.weighters.folder import read_settings, read_tensors, write_weighter
from taskloom.online.weighters.text import TextWeighter
from taskloom.storage import staged_folder

__all__ = ["TfIdfWeighter"]


class TfIdfWeighter(TextWeighter):
    """Give each token the TF-IDF value of its word in the document: scikit-learn's, of unit length a document.

    A token that is part of several words has the largest of their values; one between words has 0.

    Args:
        tokenizer: the fast tokenizer of the input identifiers.
        corpus: the texts in which words are counted; equal ones count once.
        threshold: quantile, in [0, 1), of all values above 0 in the corpus: weights up to it become 0. None keeps all.

    Raises:
        DataError: the corpus has no words.
        ValueError: `threshold` is not in [0, 1).
    """

    def __init__(self, tokenizer: Any, corpus: Iterable[str], *, threshold: float | None = None):
        super().__init__(tokenizer)
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"`threshold` must be in [0, 1), found {threshold}")
        self.vectorizer = TfidfVectorizer()
        try:
            values: Any = self.vectorizer.fit_transform(list(dict.fromkeys(corpus)))
        except ValueError as error:
            raise DataError(
                "weighter.corpus: has no words of two letters or more; give text to count words in."
            ) from error
        #: Weights up to this value become 0.
        self.smallest = 0.0 if threshold is None else float(np.quantile(values.data, threshold))

    def character_weights(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._character_weights(text) for text in texts]

    def _character_weights(self, text: str) -> np.ndarray:
        row: Any = self.vectorizer.transform([text])
        values = dict(zip(row.indices, row.data, strict=True))
        vocabulary = self.vectorizer.vocabulary_
        lowered, origin = _lowered(text)
        weights = np.zeros(len(text))
        for word in re.finditer(self.vectorizer.token_pattern, lowered):
            value = values.get(vocabulary.get(word[0]), 0.0)
            if value > self.smallest:
                weights[origin[word.start()] : origin[word.end() - 1] + 1] = value
        return weights

    def save(self, folder: Path) -> None:
        """Write the weighter without its tokenizer: config.json and model.safetensors."""
        words = sorted(self.vectorizer.vocabulary_, key=self.vectorizer.vocabulary_.__getitem__)
        with staged_folder(folder) as staged:
            settings = {"smallest": self.smallest, "words": words}
            write_weighter(staged, "tfidf", settings, {"idf": torch.from_numpy(self.vectorizer.idf_)})

    @classmethod
    def load(cls, folder: Path, tokenizer: Any) -> "TfIdfWeighter":
        """Read what `save` has written, for any tokenizer.

        Raises:
            RunError: the folder holds no TF-IDF weighter.
        """
        settings = read_settings(folder, "tfidf")
        weighter = cls.__new__(cls)
        TextWeighter.__init__(weighter, tokenizer)
        weighter.vectorizer = TfidfVectorizer(vocabulary=settings["words"])
        weighter.vectorizer.idf_ = read_tensors(folder)["idf"].numpy()
        weighter.smallest = settings["smallest"]
        return weighter


def _lowered(text: str) -> tuple[str, np.ndarray]:
    """Return a text in lower case, as scikit-learn has it, and where each of its characters comes from."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered, np.arange(len(text))
    return lowered, np.repeat(np.arange(len(text)), [len(character.lower()) for character in text])
