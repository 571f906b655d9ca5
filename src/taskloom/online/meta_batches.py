"""The batches of meta-training: documents to update on, a question about each, and unrelated text.

As published, a row is a question: a document of five questions comes five times in an epoch, each time with one of
them, and is updated on each time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from taskloom.online.encode import QACollator, encode_documents
from taskloom.online.questions import Question, QuestionSet
from taskloom.tasks.collate_text import padded

__all__ = ["LocalityTexts", "MetaCollator", "MetaRows", "ShuffledRows", "documents_of"]

Encoded = dict[str, Tensor]


class MetaRows(Dataset[dict[str, Any]]):
    """A question set's rows: the parts of the document, and the question.

    Args:
        questions: documents with questions; those without are left out.
        tokenizer: of the model that is updated.
        max_length: longest part of a document, in tokens.
        long: what becomes of a longer document, see `encode_documents`.
        limit: the first so many rows; None takes all.

    Raises:
        ValueError: there is no row.
    """

    def __init__(
        self,
        questions: QuestionSet,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 1024,
        long: Literal["split", "truncate"] = "split",
        limit: int | None = None,
    ) -> None:
        rows = questions.rows[:limit]
        texts = list(dict.fromkeys(document.text for document, _ in rows))
        parts = dict(zip(texts, encode_documents(texts, tokenizer, max_length, long), strict=True))
        # A part of one token has nothing to predict.
        usable = {text: [part for part in found if part["input_ids"].shape[1] > 1] for text, found in parts.items()}
        self._rows = [(usable[document.text], question) for document, question in rows if usable[document.text]]
        if not self._rows:
            raise ValueError("`questions` must hold a document with a question, found none")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        parts, question = self._rows[index]
        return {"parts": parts, "question": question}


class MetaCollator:
    """Puts rows together: ``documents`` padded on the right, one row a part, and ``questions`` of a `QACollator`."""

    def __init__(self, questions: QACollator) -> None:
        self.questions = questions

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Encoded]:
        ids = [part["input_ids"][0].tolist() for row in rows for part in row["parts"]]
        documents = {
            "input_ids": padded(ids, self.questions.padding),
            "attention_mask": padded([[1] * len(row) for row in ids], 0),
        }
        return {"documents": documents, "questions": self.questions([row["question"] for row in rows])}


class ShuffledRows:
    """Batches of rows in an order that follows from the seed and the epoch."""

    drop_last = False

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        for first in range(0, self.rows, self.batch_size):
            yield order[first : first + self.batch_size].tolist()


def documents_of(batch: Encoded, weights: Tensor, sequential: bool) -> tuple[list[Encoded], list[Tensor]]:
    """Return the updates of a batch, and their weights: one for each document without its padding, or one for all."""
    if not sequential:
        return [batch], [weights]
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    documents = [
        {name: value[row : row + 1, :length] for name, value in batch.items()} for row, length in enumerate(lengths)
    ]
    return documents, [weights[row : row + 1, :length] for row, length in enumerate(lengths)]


class LocalityTexts:
    """Batches that an update shall not change, drawn at random but the same for the same seed.

    Args:
        texts: unrelated texts, cut at `max_length` tokens; none if empty.
        questions: also questions, whose answers shall stay as likely as they were; none if empty.
        tokenizer: of the model.
        collator: makes the batches of questions.
        batch_size: rows of each.
        max_length: longest text, in tokens.
    """

    def __init__(
        self,
        texts: Sequence[str],
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        collator: QACollator,
        batch_size: int = 1,
        max_length: int = 1024,
    ) -> None:
        self._texts = [ids for ids in self._encoded(texts, tokenizer, max_length) if len(ids) > 1]
        self._questions = questions
        self._collator = collator
        self._batch_size = batch_size

    @staticmethod
    def _encoded(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
        if not texts:
            return []
        return tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)["input_ids"]

    def draw(self, seed: tuple[int, ...]) -> list[Encoded]:
        """Return one batch of each kind there is."""
        numbers = np.random.default_rng(seed)
        found = []
        if self._texts:
            rows = [self._texts[i] for i in numbers.integers(len(self._texts), size=self._batch_size)]
            mask = padded([[1] * len(row) for row in rows], 0)
            found.append({"input_ids": padded(rows, self._collator.padding), "attention_mask": mask})
        if self._questions:
            found.append(
                self._collator(
                    [self._questions[i] for i in numbers.integers(len(self._questions), size=self._batch_size)]
                )
            )
        return found
