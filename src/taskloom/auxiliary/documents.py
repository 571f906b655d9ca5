"""The documents of the data stage: from files of text, and from the training examples of tasks (paper, section 3).

A document is a tuple of texts, usually one. Nothing is copied by hand: what tasks hold is read from their suite.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from taskloom.errors import DataError, did_you_mean
from taskloom.tasks import Task, TaskSuite
from taskloom.tasks.files import EXTENSIONS, read_table, require_file
from taskloom.tasks.text_files import extension_of, read_text, stream_lines

__all__ = ["FIELD", "Document", "read_documents", "suite_documents", "task_documents"]

#: One document: its texts in order, of an example with a pair of texts both.
Document = tuple[str, ...]

#: Column that holds the text of JSONL, CSV, TSV and Parquet files.
FIELD = "text"


def read_documents(paths: Iterable[Path], fields: Sequence[str] = (FIELD,)) -> list[Document]:
    """Read files and folders of text.

    A ``.txt`` file has a document a line, a folder a document in each of its ``.txt`` files; JSONL, CSV, TSV and
    Parquet files have one in the field ``text`` of each row. Blank ones are left out.

    Args:
        paths: files and folders.
        fields: what may hold the document of a row instead; the first that a row has does.

    Raises:
        DataError: a file is missing, of another format, not UTF-8 or without documents, or a row has no text.
    """
    documents: list[Document] = []
    for path in paths:
        found = [(text.strip(),) for text in _texts(path, fields) if text.strip()]
        if not found:
            raise DataError(f"{path}: there is no text in it; expected at least one document")
        documents += found
    return documents


def suite_documents(suite: TaskSuite) -> tuple[list[Document], list[int]]:
    """Return the texts of the training examples of all tasks, and the id of the task that each is from.

    Raises:
        DataError: a task has no train split.
    """
    documents = [task_documents(task, suite) for task in suite]
    return (
        [document for part in documents for document in part],
        [task for task, part in enumerate(documents) for _ in part],
    )


def task_documents(task: Task, suite: TaskSuite) -> list[Document]:
    """Return the texts of the training examples of one task, as the task's encoding reads them.

    Raises:
        DataError: the task has no train split.
    """
    texts: Sequence[Document] = suite.examples(task.name, "train").texts
    if task.kind == "token":
        return [(" ".join(words),) for words in texts]
    if task.kind == "span":
        return [(question.strip(), context) for question, context in texts]
    return list(texts)


def _texts(path: Path, fields: Sequence[str]) -> Iterator[str]:
    if path.is_dir():
        files = sorted(path.glob("*.txt"))
        if not files:
            raise DataError(f"{path}: no .txt file in this folder; expected one document a file")
        for file in files:
            yield read_text(file)
        return
    require_file(path)
    extension = extension_of(path)
    if extension == ".txt":
        for _, line in stream_lines(path):
            yield line
    elif path.name.lower().endswith(EXTENSIONS):
        yield from _field(path, fields)
    else:
        known = ", ".join((".txt", *EXTENSIONS))
        raise DataError(f"{path}: unknown file format '{extension}'; use a folder of .txt files or one of {known}")


def _field(path: Path, fields: Sequence[str]) -> Iterator[str]:
    table = read_table(path)
    for number, row in table.rows:
        field = next((field for field in fields if field in row), None)
        if field is None:
            raise DataError(
                f"{table.where(number)}: the field '{fields[-1]}' is missing, which holds the document."
                f"{did_you_mean(fields[-1], row)}"
            )
        if not isinstance(row[field], str):
            raise DataError(f"{table.where(number)}: the field '{field}' holds {_shown(row[field])}, expected text")
        yield row[field]


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)[:60]
