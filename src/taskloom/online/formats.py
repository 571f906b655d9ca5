"""Reading documents with questions: SQuAD, StreamingQA, ArchivalQA and records of one's own, from file or hub.

Each format is a way to read one row; files, line numbers and the hub are `taskloom.tasks`'s. What every format yields
is checked once: a text, a question, answers that are texts.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, TypeVar

from taskloom.errors import DataError, did_you_mean
from taskloom.online.questions import Document, Question, QuestionSet
from taskloom.tasks.files import Table, read_table
from taskloom.tasks.spans import answer_texts
from taskloom.tasks.task import Task

__all__ = ["QuestionFormat", "read_questions"]

QuestionFormat = Literal["auto", "squad", "squad_hub", "streamingqa", "archivalqa", "jsonl"]
Range = Sequence[int]
Item = TypeVar("Item")


@dataclass(frozen=True)
class _Row:
    """One question about a document, or a document that nothing is asked about; `position` orders a group's rows."""

    text: str
    group: str
    question: Question | None
    name: str
    position: int = 0

    @property
    def unit(self) -> tuple[str, str]:
        return Document(self.text, self.group).unit


def read_questions(
    path: Path | str,
    *,
    format: QuestionFormat = "auto",  # noqa: A002 (the recipe's word)
    split: str | None = None,
    rows: Range | None = None,
    groups: Range | None = None,
    full_passage: bool = False,
) -> QuestionSet:
    """Read documents and the questions about them, in the file's order.

    Args:
        path: a file; a folder in the hub's layout, such as one of Parquet files; or, with the format ``squad_hub``, the
            id of a data set on the hub.
        format: ``squad`` is SQuAD's own JSON, ``squad_hub`` its layout on the hub, one row a question (`title`,
            `context`, `question`, `answers`); ``streamingqa`` a table with `text`, `question` and `answers`, these
            separated by backslashes; ``archivalqa`` one with `question`, `answer`, `doc_id`, `para_num` and
            `ans_paragraph` or `ans_text`; ``jsonl`` records of `document`, `question`, `answers`, or of `document` and
            `questions`, and a `group` if there is one. ``auto`` tells them by their columns.
        split: of a folder or data set with several, which.
        rows: the first question and the one behind the last, counted from 0 in the file's order: a published split.
        groups: the first group (article) and the one behind the last, likewise. Unlike rows they never divide one.
        full_passage: ArchivalQA's documents are whole articles (`ans_text`), not paragraphs (`ans_paragraph`).

    Raises:
        DataError: the file or data set is missing, malformed or empty, a column is missing, a document, question or
            answer is no text or blank, or the range is not within the file.
    """
    table = _read(path, format, split)
    if not table.rows:
        raise DataError(f"{table.source}: there is nothing in it; expected at least one question")
    chosen = _recognised(table) if format == "auto" else format
    columns, reader = _FORMATS["squad_hub" if chosen == "squad" else chosen]
    passage = "ans_text" if full_passage else "ans_paragraph"
    _require(table, (*columns, passage) if chosen == "archivalqa" else columns, chosen)
    found: list[_Row] = []
    for number, record in table.rows:
        where = table.where(number)
        try:
            found.extend(reader(record, passage, where))
        except ValueError as failure:
            raise DataError(f"{where}: {failure}") from None
    found = _part(found, rows, groups, table.source)
    if chosen == "archivalqa":
        order = {unit: place for place, unit in enumerate(dict.fromkeys(row.unit for row in found))}
        found.sort(key=lambda row: (order[row.unit], row.position))
    return QuestionSet(tuple(_documents(found)))


def _read(path: Path | str, format: QuestionFormat, split: str | None) -> Table:  # noqa: A002
    file = Path(path).expanduser()
    if file.is_dir():
        return _read_hub(str(path), file, split)
    if format == "squad_hub" and not file.is_file() and not file.suffix:
        return _read_hub(str(path), None, split)
    return read_table(file)


def _read_hub(name: str, folder: Path | None, split: str | None) -> Table:
    from taskloom.tasks.hub import read_dataset

    task = Task(
        name="questions",
        kind="text2text",
        inputs=(" ".join(f"{{{column}}}" for column in _COLUMNS),),
        target="answers",
        dataset=name,
        splits={"train": split or "train"},
    )
    _, tables = read_dataset(task, folder)
    return tables["train"]


def _part(found: list[_Row], rows: Range | None, groups: Range | None, source: str) -> list[_Row]:
    if rows is not None and groups is not None:
        raise DataError(f"{source}: `rows` and `groups` both say which part is meant; keep one of them")
    if rows is not None:
        return _within([row for row in found if row.question is not None], rows, "rows", "questions", source)
    if groups is not None:
        units = list(dict.fromkeys(row.unit for row in found))
        kept = set(_within(units, groups, "groups", "groups of documents", source))
        return [row for row in found if row.unit in kept]
    return found


def _within(items: list[Item], bounds: Range, field: str, unit: str, source: str) -> list[Item]:
    start, end = bounds
    if not 0 <= start < end:
        raise DataError(
            f"{source}: `{field}` is [{start}, {end}]; expected the number of the first and of the one behind the "
            "last, counted from 0"
        )
    if end > len(items):
        raise DataError(
            f"{source}: `{field}` is [{start}, {end}], but there are {len(items)} {unit}; if this is a part of the "
            "published file, give a range within it"
        )
    return items[start:end]


def _documents(rows: Iterable[_Row]) -> Iterator[Document]:
    """Yield the documents; neighbouring rows with the same text are one."""
    for (group, text), members in groupby(rows, key=lambda row: (row.group, row.text)):
        same = list(members)
        yield Document(text, group, tuple(row.question for row in same if row.question is not None), same[0].name)


def _recognised(table: Table) -> str:
    known = _columns(table)
    for name, (needed, _) in _FORMATS.items():
        if known.keys() >= set(needed):
            return name
    expected = "; ".join(f"{', '.join(needed)} ({name})" for name, (needed, _) in _FORMATS.items())
    raise DataError(f"{table.source}: its columns ({', '.join(known)}) are of no known format; expected {expected}")


def _require(table: Table, columns: Iterable[str], name: str) -> None:
    known = _columns(table)
    missing = next((column for column in columns if column not in known), None)
    if missing is not None:
        raise DataError(
            f"{table.source}: no column '{missing}', which the format {name} needs; found {', '.join(known)}."
            f"{did_you_mean(missing, known)}"
        )


def _columns(table: Table) -> dict[str, None]:
    return dict.fromkeys((*table.columns, *table.rows[0][1]))


def _text(record: Mapping[str, Any], name: str) -> str:
    """Return a text as it stands in the record.

    Raises:
        ValueError: it is missing, blank or no text.
    """
    value = record.get(name)
    if not isinstance(value, str):
        raise ValueError(f"the field '{name}' holds {_shown(value)}, expected text")
    if not value.strip():
        raise ValueError(f"the field '{name}' is blank, expected text")
    return value


def _question(record: Mapping[str, Any], answers: Iterable[str]) -> Question:
    text = _text(record, "question").strip()
    right = tuple(answer.strip() for answer in answers if answer.strip())
    if not right:
        raise ValueError(f"the question '{text:.60}' has no answer; give one, or leave the question out")
    return Question(text, right)


def _answers(record: Mapping[str, Any]) -> list[str]:
    if record.get("answers") is None:
        raise ValueError(f"the field 'answers' holds {_shown(record.get('answers'))}, expected the right answers")
    return answer_texts(record["answers"], "answers")


def _group(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return "" if value is None else str(value)


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"


def _squad(record: Mapping[str, Any], _: str, where: str) -> Iterator[_Row]:
    yield _Row(_text(record, "context"), _group(record, "title"), _question(record, _answers(record)), where)


def _streamingqa(record: Mapping[str, Any], _: str, where: str) -> Iterator[_Row]:
    yield _Row(_text(record, "text"), "", _question(record, _text(record, "answers").split("\\")), where)


def _archivalqa(record: Mapping[str, Any], passage: str, where: str) -> Iterator[_Row]:
    try:
        position = int(record["para_num"])
    except (TypeError, ValueError):
        found = _shown(record["para_num"])
        raise ValueError(f"the field 'para_num' holds {found}, expected the number of the paragraph") from None
    question = _question(record, [_text(record, "answer")])
    yield _Row(_text(record, passage), _group(record, "doc_id"), question, where, position)


def _records(record: Mapping[str, Any], _: str, where: str) -> Iterator[_Row]:
    text, group = _text(record, "document"), _group(record, "group")
    if "questions" not in record:
        asked = None if record.get("question") is None else _question(record, _answers(record))
        yield _Row(text, group, asked, where)
        return
    questions = record["questions"]
    if not isinstance(questions, list) or not all(isinstance(question, Mapping) for question in questions):
        raise ValueError(f"the field 'questions' holds {_shown(questions)}, expected a list of objects")
    if not questions:
        yield _Row(text, group, None, where)
    for question in questions:
        yield _Row(text, group, _question(question, _answers(question)), where)


#: The columns that tell a format, which all its files have, and what reads a record: (record, column of the passage,
#: place) -> its rows. A mistake in the record is a ValueError.
_FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any], str, str], Iterator[_Row]]]] = {
    "squad_hub": (("context", "question", "answers"), _squad),
    "streamingqa": (("text", "question", "answers"), _streamingqa),
    "archivalqa": (("question", "answer", "doc_id", "para_num"), _archivalqa),
    "jsonl": (("document",), _records),
}
_OPTIONAL = ("title", "group", "questions", "ans_paragraph", "ans_text")
_COLUMNS = tuple(dict.fromkeys((*_OPTIONAL, *(column for needed, _ in _FORMATS.values() for column in needed))))
