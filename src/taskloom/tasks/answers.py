"""From prompts and answers to token ids, for encoder-decoder and for decoder-only models.

An encoder-decoder model reads the prompt as its tokenizer writes it and answers from an empty page. A decoder-only
model goes on where the prompt ends: the answer's tokens are those that follow the prompt's in the joined text
``prompt + " " + answer``, so that what is trained is what generation meets. Either way the answer ends with the end
token, which tells the model to stop and counts in its probability.
"""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

__all__ = ["answer_ids", "language_ids", "longest_answer", "prompt_ids"]


def prompt_ids(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, decoder_only: bool
) -> tuple[list[list[int]], list[int]]:
    """Return the token ids of prompts, and the indices of those that were cut to `max_length`."""
    if decoder_only:
        prompts = [prompt.rstrip() for prompt in prompts]
    rows = _ids(tokenizer, list(prompts))
    too_long = [index for index, row in enumerate(rows) if len(row) > max_length]
    if too_long:
        cut = _ids(tokenizer, [prompts[index] for index in too_long], truncation=True, max_length=max_length)
        for index, row in zip(too_long, cut, strict=True):
            rows[index] = row
    if decoder_only:
        ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
        rows = [row[:-1] if len(row) > 1 and row[-1] in ends else row for row in rows]
    return rows, too_long


def answer_ids(
    prompts: Sequence[str],
    answers: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    decoder_only: bool,
) -> tuple[list[list[int]], list[int], list[int]]:
    """Return the token ids of answers, each with the end token, and the indices of the cut and of the empty ones.

    Args:
        prompts: what each answer follows.
        answers: as many.
        tokenizer: a fast tokenizer.
        max_length: the most tokens of an answer, the end token included.
        decoder_only: whether prompt and answer are one text.
    """
    if decoder_only:
        prompts = [prompt.rstrip() for prompt in prompts]
        joined = [f"{prompt} {answer.strip()}" for prompt, answer in zip(prompts, answers, strict=True)]
        encoded = tokenizer(joined, return_offsets_mapping=True, return_attention_mask=False, verbose=False)
        rows = [
            [token for token, (start, end) in zip(ids, offsets, strict=True) if end > start and end > len(prompt)]
            for ids, offsets, prompt in zip(encoded["input_ids"], encoded["offset_mapping"], prompts, strict=True)
        ]
    else:
        encoded = tokenizer(text_target=list(answers), return_attention_mask=False, verbose=False)
        rows = [list(row) for row in encoded["input_ids"]]
    end = tokenizer.eos_token_id
    special = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
    too_long, empty = [], []
    for index, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if not answer.strip() or all(token in special for token in row):
            empty.append(index)
        has_end = bool(row) and row[-1] in (end, tokenizer.sep_token_id)
        body, last = (row[:-1], row[-1:]) if has_end else (row, [] if end is None else [end])
        if len(body) + len(last) > max_length:
            too_long.append(index)
            body = body[: max_length - len(last)]
        rows[index] = body + last
    return rows, too_long, empty


def longest_answer(
    answers: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, decoder_only: bool
) -> int:
    """Return how many tokens generation needs for any of the answers that a task has, the end token included."""
    rows, _, _ = answer_ids([""] * len(answers), answers, tokenizer, max_length, decoder_only)
    return max(map(len, rows))


def language_ids(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Return the first token of each text (the start token if there is one), the others, and the indices of cut texts.

    A text of an lm task is what follows its first token.
    """
    rows, too_long = prompt_ids(texts, tokenizer, max_length, decoder_only=True)
    start = tokenizer.bos_token_id
    rows = [[start, *row][:max_length] if start is not None and row[:1] != [start] else row for row in rows]
    return [row[:1] for row in rows], [row[1:] for row in rows], too_long


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], **cutting: Any) -> list[list[int]]:
    encoded = tokenizer(texts, return_attention_mask=False, verbose=False, **cutting)
    return [list(row) for row in encoded["input_ids"]]
