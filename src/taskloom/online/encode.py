"""From documents and questions to token ids for a decoder-only model (CaMeLS, arXiv 2305.15076).

A document is updated on by itself. A question is answered without its document: the prompt is the question, the answer
follows it after a space, and ends with the end token. Both are tokenised apart, as published, so that the prompt that
is trained on is token for token the one that generation starts from. The published code fills documents up to 1,024
tokens; here nothing is longer than it needs to be.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taskloom.online.questions import Question
from taskloom.tasks.collate_text import padded, padding_token
from taskloom.tasks.encoding import IGNORED

__all__ = ["QACollator", "encode_documents", "encode_question"]


def encode_documents(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int = 1024,
    long: Literal["split", "truncate"] = "split",
) -> list[list[dict[str, Tensor]]]:
    """Tokenise documents as the tokenizer does, with the tokens that it puts before and behind a text.

    Args:
        texts: the documents.
        tokenizer: of the model that is updated.
        max_length: the most tokens of a part.
        long: what becomes of a longer document. ``"split"`` makes as few parts as possible, alike in length up to a
            token, without leaving out or repeating one; what stands before a text stands before each part, what
            stands behind it only behind the last. ``"truncate"`` leaves out the end, as published.

    Returns:
        The parts of each document in order, ``input_ids`` and ``attention_mask``, both LongTensor[1, tokens]; none of
        a document without tokens.

    Raises:
        ValueError: `max_length` leaves no room for two tokens beside those that the tokenizer adds.
    """
    return [_parts(*_pieces(text, tokenizer), max_length, long) for text in texts]


def _pieces(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens that the tokenizer puts before the text, the text's, and those behind it."""

    def call(special: bool) -> list[int]:
        return list(tokenizer(text, add_special_tokens=special, return_attention_mask=False, verbose=False).input_ids)

    whole, body = call(True), call(False)
    before = next(start for start in range(len(whole) + 1) if whole[start : start + len(body)] == body)
    return whole[:before], body, whole[before + len(body) :]


def _parts(
    before: list[int], body: list[int], behind: list[int], max_length: int, long: str
) -> list[dict[str, Tensor]]:
    room = max_length - len(before) - len(behind)
    if room < 2:
        raise ValueError(f"`max_length` must be at least {2 + max_length - room}, found {max_length}")
    if not body:
        return []
    if long == "truncate":
        body = body[:room]
    count = -(-len(body) // room)
    # Even parts: a last one of a single token would have nothing to predict.
    bounds = [len(body) * part // count for part in range(count + 1)]
    rows = [before + body[start:stop] for start, stop in pairwise(bounds)]
    rows[-1] += behind
    tensors = [torch.tensor([row]) for row in rows]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in tensors]


def encode_question(
    question: str,
    answer: str,
    tokenizer: PreTrainedTokenizerBase,
    max_question_length: int = 128,
    max_answer_length: int = 24,
    end: bool = True,
) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt and those of the answer that follows.

    A longer question keeps its end, with whatever the tokenizer puts before a text: the end is what is asked, and what
    the answer joins. A longer answer keeps its beginning and its end token: a model that is to be brief must learn to
    stop. (The published code cuts the ends of both, the end token with them.)

    Args:
        question: the question.
        answer: the answer; one of no tokens is the end token alone.
        tokenizer: of a decoder-only model.
        max_question_length: the most tokens of the prompt.
        max_answer_length: the most tokens of the answer, the end token included.
        end: whether the answer ends with the end token.

    Raises:
        ValueError: a length is too small, the question has no tokens, or there is no end token.
    """
    return _prompt(question, tokenizer, max_question_length), _answer(answer, tokenizer, max_answer_length, end)


def _prompt(question: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[int]:
    # What some tokenizers put behind a text is left out: the answer comes there.
    before, body, _ = _pieces(question.strip(), tokenizer)
    room = max_length - len(before)
    if room < 1:
        raise ValueError(f"`max_question_length` must be at least {len(before) + 1}, found {max_length}")
    if not body:
        raise ValueError(f"`question` has no tokens, found {question!r}")
    return before + body[-room:]


def _answer(answer: str, tokenizer: PreTrainedTokenizerBase, max_length: int, end: bool) -> list[int]:
    ending: Any = tokenizer.eos_token_id
    if end and ending is None:
        raise ValueError("`tokenizer` has no end token; set `tokenizer.eos_token`, or pass `end=False`")
    last = [ending] if end else []
    if max_length <= len(last):
        raise ValueError(f"`max_answer_length` must be at least {len(last) + 1}, found {max_length}")
    text = f" {answer.strip()}"
    ids = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False).input_ids
    return [*ids[: max_length - len(last)], *last]


class QACollator:
    """Turns questions into batches for a decoder-only model, each as wide as its longest row.

    Args:
        tokenizer: of the model; without a padding token the end token stands in, hidden by the mask.
        max_question_length: the most tokens of a prompt.
        max_answer_length: the most tokens of an answer, the end token included.
        end: whether answers end with the end token.

    Raises:
        ValueError: the tokenizer has neither a padding nor an end token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_question_length: int = 128,
        max_answer_length: int = 24,
        end: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_question_length = max_question_length
        self.max_answer_length = max_answer_length
        self.end = end
        self.padding = padding_token(tokenizer)

    def __call__(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """Return questions with their trained answers.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels``, LongTensor[batch, tokens], padded on the right; `labels`
            are -100 on the question and on padding, and not shifted: a model of transformers does that.
        """
        pairs = [
            encode_question(
                question.text,
                question.answer,
                self.tokenizer,
                self.max_question_length,
                self.max_answer_length,
                self.end,
            )
            for question in questions
        ]
        labels = [[IGNORED] * len(prompt) + answer for prompt, answer in pairs]
        return {
            "input_ids": padded([prompt + answer for prompt, answer in pairs], self.padding),
            "attention_mask": padded([[1] * len(row) for row in labels], 0),
            "labels": padded(labels, IGNORED),
        }

    def prompts(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """Return what generation starts from: ``input_ids`` and ``attention_mask``, padded on the left."""
        rows = [_prompt(question.text, self.tokenizer, self.max_question_length) for question in questions]
        return {
            "input_ids": padded(rows, self.padding, left=True),
            "attention_mask": padded([[1] * len(row) for row in rows], 0, left=True),
        }
