"""Asking a language model: how likely it holds the right answers, and what it answers (CaMeLS, section 4).

Questions are asked in batches of similar length, the longest first; neither the batches nor their padding change what
comes out.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from taskloom.evaluation.diverse_beams import diverse_beam_search
from taskloom.online.encode import QACollator
from taskloom.online.questions import Question
from taskloom.processes import world_size
from taskloom.progress import counted
from taskloom.shares import over_processes
from taskloom.tasks.encoding import IGNORED

__all__ = ["answer_losses", "answer_questions", "question_nll"]


def answer_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the negative log-likelihood of each token of the answers.

    Args:
        model: a causal language model of `transformers`, plain or wrapped by PEFT.
        batch: of `QACollator`, on the model's device. Each row begins with a token of its question.

    Returns:
        ``[batch, columns]``, of the columns from the first with an answer on; 0 on questions and padding.
    """
    labels = batch["labels"]
    first = int((labels != IGNORED).any(0).int().argmax())
    # A token is predicted in the column before it. The logits of the questions would take most of the memory.
    wanted = labels.shape[1] - first + 1
    outputs = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, logits_to_keep=wanted
    )
    logits = outputs.logits[:, -wanted:-1].float()
    return F.cross_entropy(logits.transpose(1, 2), labels[:, first:], ignore_index=IGNORED, reduction="none")


@torch.no_grad()
def question_nll(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    batch_size: int = 32,
    *,
    collator: QACollator | None = None,
    console: Console | None = None,
    shared: bool = False,
) -> np.ndarray:
    """Score the trained answer of each question (`Question.answer`), its end token included.

    Args:
        model: a causal language model of `transformers`, plain or wrapped by PEFT; used in evaluation mode.
        tokenizer: its tokenizer.
        questions: asked without their documents.
        batch_size: questions a forward pass.
        collator: makes the batches, with lengths of its own; None takes `QACollator(tokenizer)`.
        console: shows a line of progress.
        shared: whether several processes share the questions. All of them must call then, and all get everything.

    Returns:
        float64 ``[questions, 2]``: the sum of -log p over the answer's tokens, and how many there are. The nll of all
        is the one sum over the other: each token counts alike, as published.
    """
    collator = collator or QACollator(tokenizer)
    found = np.zeros((len(questions), 2))
    batches = list(_batches(questions, batch_size))
    with _evaluation_mode(model), counted(console, "nll", len(questions), "questions") as advance:

        def run(places: list[int]) -> np.ndarray:
            batch = _on_device(collator([questions[place] for place in places]), model)
            sums = answer_losses(model, batch).double().sum(1)
            tokens = (batch["labels"] != IGNORED).sum(1)
            advance(len(places) * (world_size() if shared else 1))
            return torch.stack([sums, tokens.double()], dim=1).cpu().numpy()

        for places, numbers in zip(batches, over_processes(run, batches, shared), strict=True):
            found[places] = numbers
    return found


def answer_questions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    beams: int = 1,
    groups: int = 1,
    diversity: float = 10.0,
    top_k: int = 1,
    max_new_tokens: int = 16,
    batch_size: int = 16,
    collator: QACollator | None = None,
    console: Console | None = None,
    shared: bool = False,
) -> list[list[str]]:
    """Let the model answer each question.

    The published tests use 12 beams in 4 groups with a diversity of 10, the published validation one beam (greedy).

    Args:
        model: a causal language model of `transformers`, plain or wrapped by PEFT; used in evaluation mode.
        tokenizer: its tokenizer.
        questions: asked without their documents.
        beams: beams a question.
        groups: groups of beams that avoid each other's words; see `taskloom.evaluation.diverse_beams`.
        diversity: how much they avoid them.
        top_k: answers a question, at most `beams`.
        max_new_tokens: longest answer in tokens, the end token included.
        batch_size: questions together, each with all of its beams.
        collator: makes the prompts, with lengths of its own; None takes `QACollator(tokenizer)`.
        console: shows a line of progress.
        shared: as for `question_nll`.

    Returns:
        The answers of each question, the best first, without white space around them.

    Raises:
        ValueError: `beams`, `groups` and `top_k` do not fit together.
    """
    collator = collator or QACollator(tokenizer)
    end: Any = tokenizer.eos_token_id
    answers: list[list[str]] = [[] for _ in questions]
    batches = list(_batches(questions, batch_size))
    with _evaluation_mode(model), counted(console, "answers", len(questions), "questions") as advance:

        def run(places: list[int]) -> list[str]:
            batch = _on_device(collator.prompts([questions[place] for place in places]), model)
            found = diverse_beam_search(
                model,
                batch["input_ids"],
                batch["attention_mask"],
                beams=beams,
                groups=groups,
                diversity=diversity,
                top_k=top_k,
                max_new_tokens=max_new_tokens,
                end_tokens=[] if end is None else [end],
                padding=collator.padding,
            )
            # The end token and the padding behind it are special tokens.
            texts = tokenizer.batch_decode(found.tokens.flatten(0, 1).tolist(), skip_special_tokens=True)
            advance(len(places) * (world_size() if shared else 1))
            return [text.strip() for text in texts]

        for places, texts in zip(batches, over_processes(run, batches, shared), strict=True):
            for number, place in enumerate(places):
                answers[place] = texts[number * top_k : (number + 1) * top_k]
    return answers


def _batches(questions: Sequence[Question], batch_size: int) -> Iterator[list[int]]:
    """Yield places of questions of similar length, the longest first: what does not fit into memory fails at once."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, found {batch_size}")
    order = sorted(range(len(questions)), key=lambda place: -len(questions[place].text) - len(questions[place].answer))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]


def _on_device(batch: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
