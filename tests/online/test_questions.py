"""Documents with questions, and the streams that they make."""

import subprocess
import sys
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskloom.online.questions import Document, Question, QuestionSet


def ask(text, *answers):
    return Question(text, answers or ("yes",))


def test_the_trained_answer_is_the_shortest_with_a_capital_letter():
    assert Question("?", ("the red one", "red", "tea")).answer == "Red"
    assert Question("?", ("École", "École normale")).answer == "École"
    assert Question("?", ("5 km",)).answer == "5 km"


def test_rows_are_one_a_question_in_order():
    first, second, silent = ask("1"), ask("2"), Document("c")
    both = Document("a", questions=(first, second))
    found = QuestionSet((both, silent, Document("b", questions=(first,))))
    assert [(document.text, question.text) for document, question in found.rows] == [("a", "1"), ("a", "2"), ("b", "1")]
    assert [question.text for question in found.questions] == ["1", "2", "1"]


def test_a_stream_merges_the_questions_of_a_text_that_comes_again():
    documents = (
        Document("x", "one", (ask("1"),), "f:1"),
        Document("y", "one", (ask("2"),), "f:2"),
        Document("x", "one", (ask("3"),), "f:3"),
    )
    stream = QuestionSet(documents).stream()
    assert stream.documents == (Document("x", "one", (ask("1"), ask("3")), "f:1"), documents[1])
    # Questions of a document that is dropped are dropped; those of a later copy of a kept one are not.
    assert QuestionSet(documents).stream(1).questions == [ask("1"), ask("3")]


def test_documents_without_a_group_are_shuffled_one_by_one():
    texts = [str(number) for number in range(50)]
    stream = QuestionSet(tuple(Document(text) for text in texts)).stream(seed=1)
    shuffled = [document.text for document in stream.documents]
    assert shuffled != texts
    assert sorted(shuffled, key=int) == texts


@pytest.mark.parametrize("number", [0, -1])
def test_downsampling_to_nothing_is_refused(number):
    with pytest.raises(ValueError, match="`downsample_to` must be at least 1"):
        QuestionSet((Document("a"),)).stream(number)


documents = st.lists(
    st.builds(
        Document,
        text=st.sampled_from("abcdefgh"),
        group=st.sampled_from(["", "one", "two", "three"]),
        questions=st.lists(st.builds(ask, st.sampled_from("pqrstu")), max_size=2).map(tuple),
    ),
    max_size=12,
)


@given(documents, st.integers(0, 5), st.integers(1, 9))
def test_streams(documents, seed, size):
    whole = QuestionSet(tuple(documents))
    stream = whole.stream(seed=seed)
    texts = [document.text for document in stream.documents]
    assert sorted(texts) == sorted({document.text for document in documents})
    assert sorted(q.text for q in stream.questions) == sorted(q.text for q in whole.questions)
    # A group is in one piece, and in its own order.
    named = [key for key, _ in groupby(document.group for document in stream.documents) if key]
    assert len(named) == len(set(named))
    for group in named:
        order = list(dict.fromkeys(document.text for document in documents if document.group == group))
        kept = [document.text for document in stream.documents if document.group == group]
        assert kept == [text for text in order if text in kept]
    assert whole.stream(size, seed).documents == stream.documents[:size]


PROGRAM = """
from taskloom.online.questions import Document, QuestionSet
documents = tuple(Document(str(number), f"group {number // 3}") for number in range(30))
print(*(document.text for document in QuestionSet(documents).stream(12, seed=7).documents))
"""


def test_the_same_seed_gives_the_same_stream_in_every_process():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True
        ).stdout.split()
        for seed in ("0", "1")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 12
    other = QuestionSet(tuple(Document(str(number), f"group {number // 3}") for number in range(30))).stream(12, seed=8)
    assert outputs[0] != [document.text for document in other.documents]
