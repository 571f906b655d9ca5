"""From examples to token ids: one function for each kind of task, batches in, columns out. Nothing is padded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Features, List, Value
from transformers import BatchEncoding, PreTrainedTokenizerBase

from taskloom.tasks.answers import answer_ids, language_ids, prompt_ids
from taskloom.tasks.kinds import GENERATIVE_KINDS, Kind
from taskloom.tasks.targets import accepted
from taskloom.tasks.task import Task

__all__ = ["IGNORED", "ITEM_COLUMNS", "Encoded", "encode_batch", "storage_types"]

#: Target of tokens that the loss leaves out, as in PyTorch's cross entropy.
IGNORED = -100

#: Columns that go into batches; the others serve to decode predictions.
ITEM_COLUMNS = ("input_ids", "token_type_ids", "label", "token_labels", "span_labels", "target_ids")

_TYPES = {
    "input_ids": List(Value("int32")),
    "token_type_ids": List(Value("int32")),
    "label": Value("float64"),
    "token_labels": List(Value("int32")),
    "span_labels": List(Value("int32")),
    "target_ids": List(Value("int32")),
    "word_starts": List(Value("int32")),
    "example": Value("int32"),
    "window": List(Value("int32")),
    "starts": List(Value("int32")),
    "ends": List(Value("int32")),
}


@dataclass
class Encoded:
    """Columns of equal length, and indices of examples: the input was cut, the answer was, the target has no tokens."""

    columns: dict[str, list[Any]]
    too_long: list[int] = field(default_factory=list)
    cut_answers: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)


def storage_types(columns: Sequence[str]) -> Features:
    """Return the Arrow types of `columns`."""
    return Features({name: _TYPES[name] for name in columns})


def encode_batch(
    task: Task,
    texts: Sequence[tuple[str, ...]],
    targets: Sequence[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    max_target_length: int = 128,
    decoder_only: bool = False,
) -> Encoded:
    """Return the items of a batch of examples.

    Columns are `input_ids`, `token_type_ids` if the tokenizer makes them, and by kind and if there are targets:

    - classification, regression: `label`.
    - token: `token_labels` (the first piece of each word has the word's label, other tokens `IGNORED`), and always
      `word_starts`: for each word the position of its first piece, -1 if it was cut off or has none.
    - span: one item for each window over the context, `span_labels` (positions of the first and last token of the
      first answer; of the classification token where the window lacks it), and always `example` (index within the
      batch), `starts` and `ends` (each token's [start, end) in the context, -1 for tokens outside of the context).
    - text2text: `target_ids`, those of the first right answer. See `taskloom.tasks.answers`.
    - lm, for decoder-only models: `input_ids` is the first token, `target_ids` are the others.

    Args:
        task: The task.
        texts: Texts (or words) of each example.
        targets: Targets of each example.
        tokenizer: A fast tokenizer.
        max_length: The most tokens of an item.
        stride: Tokens by which neighbouring windows overlap; at most half of the room that is left for the context.
        max_target_length: The most tokens of an answer.
        decoder_only: Whether prompt and answer go into one row.
    """
    if task.kind in GENERATIVE_KINDS:
        return _encode_language(task, texts, targets, tokenizer, max_length, max_target_length, decoder_only)
    return _ENCODERS[task.kind](texts, targets, tokenizer, max_length, stride)


def _encode_texts(
    texts: Sequence[tuple[str, ...]],
    targets: Sequence[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,  # noqa: ARG001 (the encoders share a signature)
) -> Encoded:
    encoded, too_long = _tokenize(texts, tokenizer, max_length)
    columns = _inputs(encoded)
    if targets is not None:
        columns["label"] = list(targets)
    return Encoded(columns, too_long)


def _encode_language(
    task: Task,
    texts: Sequence[tuple[str, ...]],
    targets: Sequence[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    max_target_length: int,
    decoder_only: bool,
) -> Encoded:
    prompts = [text for (text,) in texts]
    if task.kind == "lm" and decoder_only:
        first, others, too_long = language_ids(prompts, tokenizer, max_length)
        empty = [index for index, row in enumerate(others) if not row]
        return Encoded({"input_ids": first, "target_ids": others}, too_long, empty=empty)
    rows, too_long = prompt_ids(prompts, tokenizer, max_length, decoder_only)
    columns = {"input_ids": rows}
    if targets is None:
        return Encoded(columns, too_long)
    answers = [accepted(target)[0] for target in targets]
    columns["target_ids"], cut, empty = answer_ids(prompts, answers, tokenizer, max_target_length, decoder_only)
    return Encoded(columns, too_long, cut, empty)


def _encode_words(
    texts: Sequence[tuple[str, ...]],
    targets: Sequence[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,  # noqa: ARG001
) -> Encoded:
    # Words are joined and found again by their characters: every tokenizer can do that, while some cannot take
    # words that were split before.
    sentences = [(" ".join(words),) for words in texts]
    encoded, too_long = _tokenize(sentences, tokenizer, max_length, return_offsets_mapping=True)
    columns = _inputs(encoded)
    columns["word_starts"] = [
        _word_starts(words, offsets) for words, offsets in zip(texts, encoded["offset_mapping"], strict=True)
    ]
    if targets is not None:
        columns["token_labels"] = [
            _first_piece_labels(labels, starts, len(ids))
            for labels, starts, ids in zip(targets, columns["word_starts"], columns["input_ids"], strict=True)
        ]
    return Encoded(columns, too_long)


def _word_starts(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each word the index of its first token, -1 for none. `offsets` lie in the words joined by spaces."""
    word_at: list[int] = []  # the word of each character
    for index, word in enumerate(words):
        word_at.extend([index] * (len(word) + 1))
    starts = [-1] * len(words)
    for token, (start, end) in enumerate(offsets):
        # A piece may begin with the space before its word, so its last character tells the word.
        if end > start and starts[word_at[end - 1]] < 0:
            starts[word_at[end - 1]] = token
    return starts


def _first_piece_labels(labels: Sequence[int], starts: Sequence[int], num_tokens: int) -> list[int]:
    token_labels = [IGNORED] * num_tokens
    for label, start in zip(labels, starts, strict=True):
        if start >= 0:
            token_labels[start] = label
    return token_labels


def _encode_spans(
    texts: Sequence[tuple[str, ...]],
    targets: Sequence[Any] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
) -> Encoded:
    # A question takes at most half of the item, so that there is room for the context.
    question_room = max_length // 2
    context_room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - question_room
    questions, too_long = _shorten([question.strip() for question, _ in texts], tokenizer, question_room)
    encoded = tokenizer(
        questions,
        [context for _, context in texts],
        truncation="only_second",
        max_length=max_length,
        stride=min(stride, context_room // 2),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    columns = _inputs(encoded)
    columns["example"] = encoded["overflow_to_sample_mapping"]
    offsets = [
        _context_offsets(encoded.sequence_ids(window), offsets)
        for window, offsets in enumerate(encoded["offset_mapping"])
    ]
    columns["starts"] = [window[:, 0].tolist() for window in offsets]
    columns["ends"] = [window[:, 1].tolist() for window in offsets]
    if targets is not None:
        cls_positions = [_cls_position(ids, tokenizer) for ids in columns["input_ids"]]
        columns["span_labels"] = [
            _span_in_window(targets[example], window, position)
            for example, window, position in zip(columns["example"], offsets, cls_positions, strict=True)
        ]
    return Encoded(columns, too_long)


def _shorten(texts: list[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[list[str], list[int]]:
    """Cut texts of more than `max_tokens` tokens after the last that fits; return also the indices of the cut ones."""
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    too_long = [index for index, ids in enumerate(encoded["input_ids"]) if len(ids) > max_tokens]
    for index in too_long:
        texts[index] = texts[index][: encoded["offset_mapping"][index][max_tokens - 1][1]]
    return texts, too_long


def _context_offsets(sequence_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the offsets of tokens of the second text and -1 for the others, shape [tokens, 2]."""
    in_context = np.array([sequence == 1 for sequence in sequence_ids])
    return np.where(in_context[:, None], np.asarray(offsets), -1)


def _cls_position(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    return ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0


def _span_in_window(answers: dict[str, list[Any]], offsets: np.ndarray, cls_position: int) -> list[int]:
    """Return the first and last token of the first answer, or the classification token's position twice.

    `offsets` has the shape [tokens, 2].
    """
    no_answer = [cls_position, cls_position]
    if not answers["text"]:
        return no_answer
    start = answers["answer_start"][0]
    end = start + len(answers["text"][0])
    starts, ends = offsets[:, 0], offsets[:, 1]
    in_context = ends > starts
    if not in_context.any() or starts[in_context].min() > start or ends[in_context].max() < end:
        return no_answer
    inside = np.flatnonzero(in_context & (ends > start) & (starts < end))
    return [int(inside[0]), int(inside[-1])] if len(inside) else no_answer


def _tokenize(
    texts: Sequence[tuple[str, ...]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    names: Sequence[str] = ("text", "text_pair"),
    return_offsets_mapping: bool = False,
) -> tuple[dict[str, list[Any]], list[int]]:
    """Tokenise texts or pairs, cut what is longer than `max_length`, and return also the indices of what was cut.

    `names` are the tokenizer's arguments that the texts of an example go to.
    """

    def call(examples: Sequence[tuple[str, ...]], **cutting: Any) -> BatchEncoding:
        columns = (list(column) for column in zip(*examples, strict=True))
        return tokenizer(
            **dict(zip(names, columns, strict=False)),
            return_attention_mask=False,
            return_offsets_mapping=return_offsets_mapping,
            verbose=False,
            **cutting,
        )

    encoded = dict(call(texts))
    too_long = [index for index, ids in enumerate(encoded["input_ids"]) if len(ids) > max_length]
    if too_long:
        cut = call([texts[index] for index in too_long], truncation="longest_first", max_length=max_length)
        for name, values in cut.items():
            for index, value in zip(too_long, values, strict=True):
                encoded[name][index] = value
    return encoded, too_long


def _inputs(encoded: Any) -> dict[str, list[Any]]:
    return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}


_ENCODERS: dict[Kind, Callable[..., Encoded]] = {
    "classification": _encode_texts,
    "regression": _encode_texts,
    "token": _encode_words,
    "span": _encode_spans,
}
