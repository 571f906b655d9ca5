"""Where the answers to a question stand in its context, as SQuAD and MRQA say it, in one form.

SQuAD gives ``{"text": [...], "answer_start": [...]}``. MRQA gives for each detected answer its `text` and the
`char_spans` where it occurs, whose ends are inclusive: in its files as ``[[start, end], ...]``, on the hub as
``{"start": [...], "end": [...]}``, with the answers as a list of objects or as an object of lists.
"""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Span", "answer_spans", "answer_texts"]

#: The first character, the one after the last, and the answer's text.
Span = tuple[int, int, str]


def answer_spans(value: Any, context: str, name: str) -> list[Span]:
    """Return all spans of all answers, in the order of the answers.

    Args:
        value: what the column `name` holds.
        context: the text that the spans are of.
        name: the column, for messages.

    Raises:
        ValueError: `value` has neither form, or a span lies outside of the context, or (SQuAD) does not hold its text.
    """
    if isinstance(value, Mapping) and {"text", "answer_start"} <= value.keys():
        return list(_squad_spans(value, context, name))
    return list(_mrqa_spans(value, context, name))


def answer_texts(value: Any, name: str) -> list[str]:
    """Return the texts that count as right answers; none if the question has no answer.

    Args:
        value: what the column `name` holds: a text, a list of texts, or an object with a list `text`.
        name: the column, for messages.

    Raises:
        ValueError: it holds something else.
    """
    texts = value.get("text") if isinstance(value, Mapping) else value
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the field '{name}' holds {value!r:.60}, expected the texts of the answers")
    return texts


def _squad_spans(value: Mapping[str, Any], context: str, name: str) -> Iterator[Span]:
    texts, starts = list(value["text"]), list(value["answer_start"])
    if len(texts) != len(starts):
        raise ValueError(f"the field '{name}' holds {len(texts)} texts for {len(starts)} values of answer_start")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not _is_whole(start):
            raise ValueError(
                f"the field '{name}' holds {text!r:.60} at answer_start {start!r:.60}, expected a text and a number"
            )
        _require_inside(start, start + len(text), text, context, name)
        if (found := context[start : start + len(text)]) != text:
            raise ValueError(
                f"the answer '{text}' in the field '{name}' is not in the context at answer_start {start}, "
                f"where it reads '{found}'"
            )
        yield start, start + len(text), text


def _mrqa_spans(value: Any, context: str, name: str) -> Iterator[Span]:
    for answer in _listed(value, ("text", "char_spans"), name):
        for span in _listed(answer["char_spans"], ("start", "end"), name):
            text, start, last = answer["text"], span["start"], span["end"]
            if not isinstance(text, str) or not _is_whole(start) or not _is_whole(last):
                raise ValueError(
                    f"the field '{name}' holds {text!r:.60} at {span!r:.60}, expected a text and the numbers of its "
                    "first and last character"
                )
            _require_inside(start, last + 1, text, context, name)
            yield start, last + 1, text


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: Any, keys: tuple[str, str], name: str) -> Iterator[Mapping[str, Any]]:
    """Yield objects with `keys` from a list of such objects, a list of pairs, or an object of lists."""
    if isinstance(value, Mapping) and set(keys) <= value.keys():
        columns = [value[key] if isinstance(value[key], list) else [value[key]] for key in keys]
        if len(columns[0]) != len(columns[1]):
            raise ValueError(
                f"the field '{name}' holds {len(columns[0])} values of {keys[0]} for {len(columns[1])} of {keys[1]}"
            )
        value = list(zip(*columns, strict=True))
    if not isinstance(value, list):
        raise ValueError(
            f"the field '{name}' holds {value!r:.60}, expected SQuAD's or MRQA's answers with their places"
        )
    for item in value:
        if isinstance(item, Mapping) and set(keys) <= item.keys():
            yield from _listed(item, keys, name) if isinstance(item[keys[0]], list) else [item]
        elif isinstance(item, (list, tuple)) and len(item) == len(keys):
            yield dict(zip(keys, item, strict=True))
        else:
            raise ValueError(f"the field '{name}' holds {item!r:.60}, expected {keys[0]} and {keys[1]}")


def _require_inside(start: int, end: int, text: str, context: str, name: str) -> None:
    if not 0 <= start < end <= len(context):
        raise ValueError(
            f"the answer '{text}' in the field '{name}' stands at the characters {start} to {end - 1}, outside of the "
            f"context, which has {len(context)}"
        )
