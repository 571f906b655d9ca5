"""The kinds of tasks: what is predicted, and what follows from that for a task that does not say otherwise."""

from typing import Literal

__all__ = ["DEFAULT_METRICS", "DEFAULT_TARGETS", "GENERATIVE_KINDS", "INPUT_COUNTS", "LABELLED_KINDS", "Kind"]

Kind = Literal["classification", "regression", "token", "span", "text2text", "lm"]

#: Metrics of a task that names none.
DEFAULT_METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "token": ("token_accuracy", "entity_f1"),
    "span": ("exact_match", "token_f1"),
    "text2text": ("exact_match",),
    "lm": ("perplexity",),
}
#: Target columns where "label" would make no sense.
DEFAULT_TARGETS: dict[Kind, str | None] = {"span": "answers", "lm": None}
#: How many texts an example has: a single text or a pair for the first two kinds, (question, context) for spans.
INPUT_COUNTS: dict[Kind, tuple[int, int]] = {
    "classification": (1, 2),
    "regression": (1, 2),
    "token": (1, 1),
    "span": (2, 2),
    "text2text": (1, 1),
    "lm": (1, 1),
}
#: Kinds whose target is one of a list of labels.
LABELLED_KINDS: tuple[Kind, ...] = ("classification", "token")
#: Kinds that a language model answers with its own vocabulary.
GENERATIVE_KINDS: tuple[Kind, ...] = ("text2text", "lm")
