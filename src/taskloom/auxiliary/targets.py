"""What a token is asked for that its text alone tells: how frequent it is (TF), how telling (TF-IDF), capitals (CAP).

Outputs of AANG's section 3, after Aroca-Ouellette & Rudzicz (arXiv 2010.01694, section 3.1). Their code and AANG's
differ; what is taken here is in each docstring.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["TOKEN_CLASSES", "frequency_classes", "holds_capital", "weighed_frequencies"]

#: Class names of the outputs that are classes, in the order of their ids.
TOKEN_CLASSES: dict[str, tuple[str, ...]] = {
    "tf": ("1 to 9 times", "10 to 99", "100 to 999", "1000 and more"),
    "cap": ("no upper-case letter", "at least one"),
}


def frequency_classes(tokens: np.ndarray) -> np.ndarray:
    """Return min(3, floor(log10(count))) of each token's count in the source (TF), shape [tokens].

    AANG publishes four classes from the logarithm of the frequency, clipped; its code first scales the frequencies to
    [0, 10], so that most words of a large text fall into the lowest classes whatever their count. Here the count itself
    is classed: once to 9 times, 10 to 99, 100 to 999, 1000 and more.
    """
    _, inverse, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    classes = np.searchsorted([10, 100, 1000], counts, side="right")
    return classes[inverse].astype(np.int64)


def weighed_frequencies(tokens: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Return each token's TF-IDF in its document, standardised over the source, shape [tokens].

    The count of the token in its document, times log((1 + N) / (1 + n)) + 1, where n of the source's N documents hold
    it; then less the mean over all of the source's tokens and divided by their standard deviation (all 0 if that is 0),
    so that the squared error of the best constant is 1 for each source. AANG scales each document's values to [0, 10],
    of counts that are already classes, with the idf log((1 + N) / (1 + n) + 1).

    Args:
        tokens: token ids, [tokens].
        documents: the document of each, [tokens].
    """
    documents = documents.astype(np.int64)
    size = int(tokens.max(initial=0)) + 1
    pairs, inverse, counts = np.unique(documents * size + tokens, return_inverse=True, return_counts=True)
    holding = np.bincount(pairs % size, minlength=size)  # documents that hold each token
    number = len(np.unique(documents))
    idf = np.log((1 + number) / (1 + holding)) + 1
    values = (counts * idf[pairs % size])[inverse]
    spread = values.std() if len(values) else 0.0
    # Equal values have a spread of rounding errors, not 0.
    if spread <= 1e-9:
        return np.zeros(len(values), dtype=np.float32)
    return ((values - values.mean()) / spread).astype(np.float32)


def holds_capital(text: str, offsets: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
    """Return whether each token covers an upper-case letter of the original text (CAP), shape [tokens].

    By characters and not by the token's spelling: of word pieces only the one with the capital counts, accents do not
    matter, nor does a tokenizer that puts a space before the word or writes everything small. Tokens that share a
    character (the bytes of É) all have it. The published code walks along token and text, and loses its place
    where the two are spelled differently.

    Args:
        text: the text.
        offsets: the [start, end) of each token in it, [tokens, 2].
    """
    bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    capitals = np.zeros(len(text) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(str.isupper, text), bool, len(text)), out=capitals[1:])
    return capitals[bounds[:, 1]] > capitals[bounds[:, 0]]
