"""SQuAD's files (Rajpurkar et al. 2016): articles of paragraphs of questions, read as one row a question.

    {"data": [{"title": "...", "paragraphs": [{"context": "...", "qas": [{"id": "...", "question": "...",
                                               "answers": [{"text": "...", "answer_start": 177}]}]}]}]}

The columns are those of the hub's copy (``rajpurkar/squad``): `id`, `title`, `context`, `question`, `answers`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from taskloom.errors import DataError

__all__ = ["is_squad", "squad_rows"]


def is_squad(content: Any) -> bool:
    """Return whether the content of a JSON file is SQuAD's."""
    articles = content.get("data") if isinstance(content, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def squad_rows(content: Mapping[str, Any], source: str) -> Iterator[dict[str, Any]]:
    """Yield one row a question.

    Raises:
        DataError: an article lacks a field, or holds something else in its place.
    """
    for number, article in enumerate(content["data"], start=1):
        try:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question.get("answers", [])
                    yield {
                        "id": question["id"],
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                    }
        except KeyError as failure:
            raise DataError(f"{source}: article {number} lacks the field {failure} of SQuAD's format") from None
        except (TypeError, AttributeError):
            raise DataError(
                f"{source}: article {number} is not of SQuAD's format: `paragraphs`, `qas` and `answers` are lists of "
                "objects"
            ) from None
