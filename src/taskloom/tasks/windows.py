"""Questions over contexts of any length for models that generate the answer: windows that slide over the context.

An item is what stands before the context, whole, followed by a window of the context; neighbouring windows share
`stride` tokens (as Hyperdecoders read MRQA, arXiv 2203.08304, there `data/mrqa_preprocess.py`). The answer of a window
is the first answer that stands wholly inside its characters, or the empty text. Question and context are tokenised as
one text and cut where the context begins, so that a window's tokens are those of the running text.

Two slips of the published code are mended: MRQA's inclusive ends were compared with an exclusive one, so that an answer
could lack its last character; and a detected answer was looked up in the list of gold answers, whose order may differ.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from taskloom.tasks.answers import answer_ids
from taskloom.tasks.spans import Span

__all__ = ["NoRoomError", "WindowedBatch", "answer_in", "encode_windows", "window_bounds"]


@dataclass
class WindowedBatch:
    """The windows of a batch of examples, those of one example behind each other.

    Attributes:
        input_ids: Tokens of each window, with what stands before it.
        examples: Example of each window, its index in the batch.
        characters: The [start, end) of each window in its context.
        target_ids: Tokens of each window's answer; None without answers.
        too_long: Examples with an answer that was cut.
        empty: Examples with an answer that has no tokens.
    """

    input_ids: list[list[int]]
    examples: list[int]
    characters: list[list[int]]
    target_ids: list[list[int]] | None
    too_long: list[int]
    empty: list[int]


class NoRoomError(ValueError):
    """What stands before a context fills the whole item.

    Attributes:
        example: Its index in the batch.
        tokens: The tokens of what stands before, special ones included.
    """

    def __init__(self, example: int, tokens: int) -> None:
        super().__init__(f"example {example}: {tokens} tokens stand before the context")
        self.example = example
        self.tokens = tokens


def encode_windows(
    texts: Sequence[tuple[str, ...]],
    spans: Sequence[Sequence[Span]] | None,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    max_target_length: int,
    decoder_only: bool,
    keep_null: bool = True,
) -> WindowedBatch:
    """Return the windows of a batch of examples.

    Args:
        texts: What stands before the context and the context, for each example.
        spans: Where the answers of each example stand; None without answers.
        tokenizer: A fast tokenizer.
        max_length: The most tokens of a window with what stands before it.
        stride: Tokens by which neighbouring windows overlap; at most half of the room for the context.
        max_target_length: The most tokens of an answer.
        decoder_only: Whether the answer goes on where the window ends; see `taskloom.tasks.answers`.
        keep_null: Whether windows without an answer are kept.

    Raises:
        NoRoomError: what stands before a context leaves no room for it.
    """
    pairs = [(before, context.rstrip() if decoder_only else context) for before, context in texts]
    encoded = tokenizer(
        [before + context for before, context in pairs],
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_attention_mask=False,
        verbose=False,
    )
    batch = WindowedBatch([], [], [], None, [], [])
    answers: list[str] = []
    for example, (before, _) in enumerate(pairs):
        ids, special = encoded["input_ids"][example], encoded["special_tokens_mask"][example]
        opening = _first(special, 0)
        closing = len(ids) - _first(special[::-1], 0) if opening < len(ids) else len(ids)
        end_ids = [] if decoder_only else ids[closing:]
        offsets = [(start - len(before), end - len(before)) for start, end in encoded["offset_mapping"][example]]
        # White space before the context belongs to its first word, as tokenizers write words.
        edge = len(before.rstrip()) - len(before)
        begins = next((place for place in range(opening, closing) if offsets[place][1] > edge), closing)
        room = max_length - begins - len(end_ids)
        if room < 1:
            raise NoRoomError(example, begins + len(end_ids))
        for first, last in window_bounds(closing - begins, room, stride):
            inside = offsets[begins + first : begins + last]
            characters = [max(0, inside[0][0]), max(0, *(end for _, end in inside))] if inside else [0, 0]
            answer = answer_in(spans[example], *characters) if spans is not None else ""
            if answer or keep_null or spans is None:
                batch.input_ids.append(ids[:begins] + ids[begins + first : begins + last] + end_ids)
                batch.examples.append(example)
                batch.characters.append(characters)
                answers.append(answer)
    if spans is not None:
        _add_answers(batch, answers, pairs, tokenizer, max_target_length, decoder_only)
    return batch


def window_bounds(tokens: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield the [first, last) tokens of each window over a context; one empty window over an empty context.

    >>> list(window_bounds(10, room=5, stride=2))
    [(0, 5), (3, 8), (6, 10)]
    """
    step = room - min(stride, room // 2)
    first = 0
    while first + room < tokens:
        yield first, first + room
        first += step
    yield first, tokens


def answer_in(spans: Sequence[Span], start: int, end: int) -> str:
    """Return the first answer with a span wholly inside the characters [start, end), or the empty text."""
    return next((text for first, last, text in spans if start <= first and last <= end), "")


def _first(values: Sequence[int], wanted: int) -> int:
    return next((place for place, value in enumerate(values) if value == wanted), len(values))


def _add_answers(
    batch: WindowedBatch,
    answers: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    max_target_length: int,
    decoder_only: bool,
) -> None:
    """Tokenise the answers; the empty one is the end token alone (of encoder-decoders as the tokenizer writes it)."""
    if not answers:
        batch.target_ids = []
        return
    prompts = [
        pairs[example][0] + pairs[example][1][start:end]
        for example, (start, end) in zip(batch.examples, batch.characters, strict=True)
    ]
    found, cut, empty = answer_ids(prompts, answers, tokenizer, max_target_length, decoder_only)
    stop: Any = tokenizer.eos_token_id
    if decoder_only and stop is not None:
        found = [ids if answer else [stop] for ids, answer in zip(found, answers, strict=True)]
    batch.target_ids = found
    batch.too_long = sorted({batch.examples[item] for item in cut})
    batch.empty = [batch.examples[item] for item in empty if answers[item]]
