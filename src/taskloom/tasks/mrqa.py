"""The MRQA shared task's files (Fisch et al. 2019): a header line, then one context a line with its questions.

    {"header": {"dataset": "SQuAD", "split": "dev"}}
    {"context": "...", "qas": [{"qid": "...", "question": "...", "answers": ["..."],
                                "detected_answers": [{"text": "...", "char_spans": [[177, 190]]}]}]}

Read as one row a question, with the columns of the hub's copy (``mrqa-workshop/mrqa``): `subset`, `qid`, `question`,
`context`, `answers`, `detected_answers`. The ends of `char_spans` are inclusive.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from taskloom.errors import DataError

__all__ = ["is_mrqa", "mrqa_rows"]

Row = tuple[int, dict[str, Any]]

#: What a question needs, and what it may have: test sets come without answers.
REQUIRED = ("qid", "question")
OPTIONAL = ("answers", "detected_answers")


def is_mrqa(record: Mapping[str, Any]) -> bool:
    """Return whether the first record of a JSONL file is one of an MRQA file, be it the header or a context."""
    return record.keys() == {"header"} or {"context", "qas"} <= record.keys()


def mrqa_rows(records: Iterable[Row], source: str) -> Iterator[Row]:
    """Yield one numbered row a question from the numbered records of an MRQA file.

    A file's `context_tokens` take ten times the room of its contexts: records are let go as soon as they are read.

    Raises:
        DataError: there is no header line, or a record lacks a field.
    """
    contexts = iter(records)
    number, first = next(contexts, (1, {}))
    header = first.get("header")
    if not isinstance(header, dict) or not isinstance(header.get("dataset"), str):
        raise DataError(
            f"{source}:{number}: no header line; an MRQA file begins with "
            '{"header": {"dataset": NAME, "split": NAME}}, then holds one context a line'
        )
    for number, record in contexts:
        where = f"{source}:{number}"
        context = _field(record, "context", str, where)
        for position, question in enumerate(_field(record, "qas", list, where), start=1):
            if not isinstance(question, dict):
                raise DataError(f"{where}: question {position} in `qas` is {question!r:.40}, expected an object")
            required = {name: _field(question, name, str, f"{where}, question {position}") for name in REQUIRED}
            optional = {name: question[name] for name in OPTIONAL if name in question}
            yield number, {"subset": header["dataset"], "context": context, **required, **optional}


def _field(record: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = record.get(name)
    if not isinstance(value, kind):
        expected = "text" if kind is str else "a list"
        raise DataError(f"{where}: the field '{name}' of MRQA's format holds {value!r:.40}, expected {expected}")
    return value
