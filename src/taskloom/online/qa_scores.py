"""How well a model answers questions: nll, exact match and F1, over all questions and question by question.

Exact match and F1 are SQuAD's, against all right answers of a question. The published exact match differs: it compares
with the trained answer alone, and only as many characters of what was generated as that answer has, once both are
normalised; it is `prefix_exact_match` here. (An answer of articles alone is thus always met.)
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn
from transformers import PreTrainedTokenizerBase

from taskloom.evaluation.answers import exact_match, normalize_answer, token_f1
from taskloom.online.encode import QACollator
from taskloom.online.qa import answer_questions, question_nll
from taskloom.online.questions import Question
from taskloom.storage import write_atomically

__all__ = ["AnsweredQuestion", "QAScores", "score_questions"]


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and what a model makes of it.

    Attributes:
        question: the question.
        nll: mean of -log p over the tokens of the trained answer and its end token, in nats.
        tokens: how many they are.
        generations: the generated answers, the best first; none if nothing was generated.
    """

    question: Question
    nll: float
    tokens: int
    generations: tuple[str, ...] = ()

    @cached_property
    def metrics(self) -> dict[str, float]:
        """What the answers are worth, each in [0, 1]; empty if nothing was generated.

        `exact_match` and `f1` are those of the best-ranked answer, `top_k_exact_match` and `max_f1` the highest of
        all, and `prefix_exact_match` is the published rule: whether any of them begins with the trained answer.
        """
        if not self.generations:
            return {}
        golds = self.question.answers
        matches = [exact_match(answer, golds) for answer in self.generations]
        overlaps = [token_f1(answer, golds) for answer in self.generations]
        prefixes = [_begins_with(answer, self.question.answer) for answer in self.generations]
        return {
            "exact_match": matches[0],
            "f1": overlaps[0],
            "max_f1": max(overlaps),
            "top_k_exact_match": max(matches),
            "prefix_exact_match": max(prefixes),
        }


def _begins_with(answer: str, trained: str) -> float:
    return float(normalize_answer(answer).startswith(normalize_answer(trained)))


@dataclass(frozen=True)
class QAScores:
    """Means over questions, and the questions themselves in `rows`.

    The nll is a mean over tokens, the others over questions; they are None if nothing was generated.
    """

    rows: tuple[AnsweredQuestion, ...]

    @property
    def count(self) -> int:
        """The number of questions."""
        return len(self.rows)

    @cached_property
    def nll(self) -> float:
        """Mean of -log p over all tokens of all answers, end tokens included, in nats."""
        tokens = np.array([row.tokens for row in self.rows])
        return float(np.dot([row.nll for row in self.rows], tokens) / tokens.sum())

    @property
    def exact_match(self) -> float | None:
        """Share of questions whose best-ranked answer is right."""
        return self._mean("exact_match")

    @property
    def f1(self) -> float | None:
        """Mean F1 of the best-ranked answers."""
        return self._mean("f1")

    @property
    def max_f1(self) -> float | None:
        """Mean of each question's highest F1."""
        return self._mean("max_f1")

    @property
    def top_k_exact_match(self) -> float | None:
        """Share of questions with a right answer among those generated."""
        return self._mean("top_k_exact_match")

    @property
    def prefix_exact_match(self) -> float | None:
        """Exact match by the published rule."""
        return self._mean("prefix_exact_match")

    def _mean(self, name: str) -> float | None:
        values = [row.metrics[name] for row in self.rows if row.metrics]
        return float(np.mean(values)) if values else None

    def metrics(self) -> dict[str, float]:
        """Return all that there is, by name, without the count."""
        return {"nll": self.nll} | {name: getattr(self, name) for name in self.rows[0].metrics}

    def write_csv(self, path: Path) -> None:
        """Write one row a question; answers and generations are JSON lists."""
        names = list(self.rows[0].metrics)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["question", "answers", "trained_answer", "generations", *names, "nll", "tokens"])
        for row in self.rows:
            question: list[Any] = [
                row.question.text,
                json.dumps(row.question.answers, ensure_ascii=False),
                row.question.answer,
                json.dumps(row.generations, ensure_ascii=False),
            ]
            writer.writerow([*question, *(row.metrics[name] for name in names), row.nll, row.tokens])
        write_atomically(path, text.getvalue())


def score_questions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    generate: bool = True,
    batch_size: int = 32,
    collator: QACollator | None = None,
    console: Console | None = None,
    shared: bool = False,
    **search: Any,
) -> QAScores:
    """Ask a model questions and score its answers.

    Args:
        model: a causal language model of `transformers`, plain or wrapped by PEFT; used in evaluation mode.
        tokenizer: its tokenizer.
        questions: at least one, asked without their documents.
        generate: let it answer; otherwise only the nll is found.
        batch_size: questions together.
        collator: makes the batches; None takes `QACollator(tokenizer)`.
        console: shows a line of progress.
        shared: whether several processes share the questions. All of them must call then, and all get everything.
        search: `beams`, `groups`, `diversity`, `top_k` and `max_new_tokens` of `answer_questions`.

    Raises:
        ValueError: there are no questions, or settings of the search that do not fit together.
    """
    if not questions:
        raise ValueError("`questions` must hold at least one question, found none")
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "collator": collator,
        "console": console,
        "shared": shared,
    }
    sums = question_nll(model, tokenizer, questions, **common)
    answers = answer_questions(model, tokenizer, questions, **common, **search) if generate else [[]] * len(questions)
    return QAScores(
        tuple(
            AnsweredQuestion(question, total / tokens, int(tokens), tuple(generated))
            for question, (total, tokens), generated in zip(questions, sums.tolist(), answers, strict=True)
        )
    )
