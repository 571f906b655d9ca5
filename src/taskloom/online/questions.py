"""Documents with questions about them, and the stream that they make (CaMeLS, arXiv 2305.15076).

The published data is one row a question, with the question's document beside it. Published splits are ranges of these
rows. A stream is made of documents: their groups (articles) in random order, the documents of a group in the file's.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

__all__ = ["Document", "Question", "QuestionSet"]


@dataclass(frozen=True)
class Question:
    """A question and its right answers, at least one."""

    text: str
    answers: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The one that is trained on, as published: the shortest, the first of several, with a capital letter."""
        shortest = min(self.answers, key=len)
        return shortest[:1].upper() + shortest[1:]


@dataclass(frozen=True)
class Document:
    """A text and what is asked about it.

    Attributes:
        text: the document.
        group: what it is part of, such as an article's title; "" if it stands for itself.
        questions: in the file's order; none of a document that is only read.
        name: where it comes from, such as "train.csv:17".
    """

    text: str
    group: str = ""
    questions: tuple[Question, ...] = ()
    name: str = ""

    @property
    def unit(self) -> tuple[str, str]:
        """What is shuffled, and counted by ranges of groups: the group or, without one, the document itself."""
        return (self.group, "") if self.group else ("", self.text)


@dataclass(frozen=True)
class QuestionSet:
    """Documents in the file's order, or in a stream's."""

    documents: tuple[Document, ...]

    @cached_property
    def questions(self) -> list[Question]:
        """All questions, in the order of their documents."""
        return [question for document in self.documents for question in document.questions]

    @property
    def rows(self) -> list[tuple[Document, Question]]:
        """One row a question, as the published data counts them."""
        return [(document, question) for document in self.documents for question in document.questions]

    @property
    def groups(self) -> list[str]:
        """The names of the groups in order of appearance, "" for each document without one."""
        return [group for group, _ in dict.fromkeys(document.unit for document in self.documents)]

    def stream(self, downsample_to: int | None = None, seed: int = 0) -> "QuestionSet":
        """Return the documents as a stream: each text once, the order of the groups drawn from `seed`.

        Documents of a group stay in their order. A text that comes again adds its questions to its first document. The
        same seed gives the same stream everywhere.

        Args:
            downsample_to: the first so many documents of the stream; None takes all, and so does a larger number.
                Questions about other documents are dropped.
            seed: of the order.

        Raises:
            ValueError: `downsample_to` is less than 1.
        """
        if downsample_to is not None and downsample_to < 1:
            raise ValueError(f"`downsample_to` must be at least 1, found {downsample_to}")
        members: dict[tuple[str, str], list[Document]] = {}
        for document in self.documents:
            members.setdefault(document.unit, []).append(document)
        order = list(members)
        random.Random(seed).shuffle(order)
        documents = _merged(document for unit in order for document in members[unit])
        return QuestionSet(tuple(documents[:downsample_to]))


def _merged(documents: Iterable[Document]) -> list[Document]:
    first: dict[str, Document] = {}
    questions: dict[str, list[Question]] = {}
    for document in documents:
        first.setdefault(document.text, document)
        questions.setdefault(document.text, []).extend(document.questions)
    return [replace(document, questions=tuple(questions[text])) for text, document in first.items()]
