"""Unrelated text on which an update shall change nothing (the locality term of CaMeLS, arXiv 2305.15076)."""

from pathlib import Path

from taskloom.auxiliary.documents import FIELD, read_documents

__all__ = ["TEXT_FIELDS", "read_texts"]

#: Columns that may hold the text of a row; the first is that of the published OpenWebText files.
TEXT_FIELDS = ("raw_text", FIELD)


def read_texts(path: Path | str) -> list[str]:
    """Read texts, blank ones left out.

    A ``.txt`` file has one a line, a folder one in each of its ``.txt`` files; CSV, TSV, JSONL and Parquet files have
    one in the column ``raw_text``, or else ``text``, of each row.

    Raises:
        DataError: the file is missing, of another format, not UTF-8 or without text.
    """
    return [text for document in read_documents([Path(path).expanduser()], TEXT_FIELDS) for text in document]
