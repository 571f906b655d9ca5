"""From logits to predictions: first in the form of ``Examples.targets``, then as records that people read.

Span tasks need the windows' geometry as well: see `taskloom.evaluation.span`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from taskloom.evaluation.candidates import Candidate

if TYPE_CHECKING:
    from taskloom.tasks.task import Task

__all__ = ["answer_records", "classes", "records", "tags", "values"]

Logits = NDArray[np.floating]


def classes(task: "Task", logits: Logits) -> NDArray[np.int64]:
    """Return the class index of each example from `logits` [examples, at least the task's labels].

    A model of several tasks has as many columns as its widest task; those that are not this task's are
    ignored.
    """
    return np.argmax(logits[:, : task.num_outputs], axis=1)


def values(logits: Logits) -> NDArray[np.floating]:
    """Return the predicted number of each example of a regression task: the first column of `logits`."""
    return logits[:, 0]


def tags(
    task: "Task", logits: Sequence[Logits], first_pieces: Sequence[Sequence[int]], num_words: Sequence[int]
) -> list[list[int]]:
    """Return one tag index for each word of each sentence.

    A word is tagged by its first word piece. Words that the model did not see, because the sentence was cut,
    get "O", or the first label of a task that has no "O".

    Args:
        task: the token task, for its labels.
        logits: for each sentence, the scores of its word pieces, [word pieces, at least the task's labels].
        first_pieces: for each sentence, the position of the first piece of each word that was seen.
        num_words: the length of each sentence, in words.
    """
    labels = task.labels or ()
    unseen = labels.index("O") if "O" in labels else 0
    sentences = []
    for scores, positions, length in zip(logits, first_pieces, num_words, strict=True):
        seen = np.argmax(scores[list(positions), : task.num_outputs], axis=1).tolist()
        sentences.append(seen + [unseen] * (length - len(seen)))
    return sentences


def records(task: "Task", predictions: Sequence[Any], logits: Logits | None = None) -> list[dict[str, Any]]:
    """Return one readable record an example.

    classification: ``{"label": name, "probabilities": {name: share}}``, regression: ``{"value": number}``,
    token: ``{"tags": [names]}``, span: ``{"answer": text}``. `predictions` come from `classes`, `values`,
    `tags` or `best_answers`; classification also takes the `logits`, for the probabilities (softmax over the
    task's labels).
    """
    match task.kind:
        case "classification":
            if logits is None:
                raise ValueError("`logits` is None; the probabilities of a classification task need it")
            labels = task.labels or ()
            shares = softmax(np.asarray(logits, dtype=np.float64)[:, : len(labels)], axis=1)
            return [
                {"label": labels[index], "probabilities": dict(zip(labels, row.tolist(), strict=True))}
                for index, row in zip(predictions, shares, strict=True)
            ]
        case "regression":
            return [{"value": float(value)} for value in predictions]
        case "token":
            labels = task.labels or ()
            return [{"tags": [labels[tag] for tag in sentence]} for sentence in predictions]
        case "span":
            return [{"answer": answer.text} for answer in predictions]
        case _:
            raise ValueError(f"`task` is of kind '{task.kind}', which predicts by generating text")


def answer_records(
    answers: Sequence[str],
    choices: Sequence[Sequence[str]] | None,
    scores: Sequence[Logits],
    candidates: Sequence[Sequence[Candidate]] | None = None,
) -> list[dict[str, Any]]:
    """Return one readable record an example of a text2text task: ``{"answer": text}``.

    Where the answer was chosen, ``probabilities`` are the shares of the choices: the softmax of `scores`, each choice's
    log-probability. Where it is the likeliest of several, ``candidates`` are all of them.
    """
    if candidates is not None:
        return [
            {"answer": answer, "candidates": [{"text": text, "score": score} for text, score in found]}
            for answer, found in zip(answers, candidates, strict=True)
        ]
    if choices is None:
        return [{"answer": answer} for answer in answers]
    return [
        {"answer": answer, "probabilities": dict(zip(texts, softmax(values).tolist(), strict=True))}
        for answer, texts, values in zip(answers, choices, scores, strict=True)
    ]
