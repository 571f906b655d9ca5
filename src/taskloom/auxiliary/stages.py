"""The four stages of an auxiliary objective and the words that may stand in them (AANG, paper section 3, figure 2)."""

import re
from collections.abc import Iterable

__all__ = [
    "DATA",
    "OUTPUTS",
    "REPRESENTATIONS",
    "SENTENCE_OUTPUTS",
    "STAGES",
    "TOKEN_OUTPUTS",
    "TRANSFORMS",
    "known_words",
    "read_word",
    "same_task",
]

#: The choices that make an objective, in order: the paper's I, T, R and O.
STAGES = ("data", "transform", "representation", "output")

DATA = ("task", "in-domain", "out-domain", "neural-lm")
TRANSFORMS = ("none", "replace", "mask", "noisy-embedding", "bert")
REPRESENTATIONS = ("bidirectional", "left-to-right", "right-to-left", "random-factorized")
TOKEN_OUTPUTS = ("denoise", "tf", "tfidf", "cap")
SENTENCE_OUTPUTS = (
    "quick-thoughts",
    "fastsent",
    "adjacent-sentence",
    "sentence-order",
    "sentence-continuity",
    "next-sentence",
)
OUTPUTS = (*TOKEN_OUTPUTS, *SENTENCE_OUTPUTS)

_WORDS: dict[str, tuple[str, ...]] = dict(zip(STAGES, (DATA, TRANSFORMS, REPRESENTATIONS, OUTPUTS), strict=True))

#: The published spellings that are more than another way to write the word (`In-Domain`, `TFIDF`, `DENOISE`).
_PUBLISHED: dict[str, dict[str, str]] = {
    "data": {},
    "transform": {"noisyembed": "noisy-embedding"},
    "representation": {"none": "bidirectional"},
    "output": {
        "qt": "quick-thoughts",
        "fs": "fastsent",
        "asp": "adjacent-sentence",
        "so": "sentence-order",
        "scp": "sentence-continuity",
        "nsp": "next-sentence",
    },
}


def known_words(stage: str, labelled: Iterable[str] = ()) -> tuple[str, ...]:
    """Return what may stand in a stage: its own words, and in data and output the labelled tasks."""
    return (*_WORDS[stage], *(labelled if stage in ("data", "output") else ()))


def read_word(stage: str, written: object, labelled: Iterable[str] = ()) -> str | None:
    """Return the word that `written` means in a stage, or None if it means nothing there.

    Published spellings count, and so does any case and punctuation: ``CITATION_INTENT`` is the task
    ``citation_intent``. YAML's ``null`` is the published ``None``.
    """
    plain = _plain("none" if written is None else str(written))
    if plain in _PUBLISHED[stage]:
        return _PUBLISHED[stage][plain]
    return next((word for word in known_words(stage, labelled) if _plain(word) == plain), None)


def same_task(name: str, labelled: Iterable[str]) -> str | None:
    """Return the task among `labelled` that `name` means but for case and punctuation, or None."""
    return next((task for task in labelled if _plain(task) == _plain(name)), None)


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word.lower())
