"""Reading documents with questions from hand-made files and from SQuAD's."""

import json

import pytest

from taskloom.errors import DataError
from taskloom.online.formats import read_questions
from tests.support import real_data

STREAMING = "question,text,answers\nwho ?,The queen.,Queen Anne\\queen\n"


def squad(*articles):
    return {
        "data": [
            {
                "title": title,
                "paragraphs": [
                    {
                        "context": context,
                        "qas": [
                            {"id": question, "question": f" {question} ", "answers": [{"text": a, "answer_start": 0}]}
                            for question, a in asked
                        ],
                    }
                    for context, asked in paragraphs
                ],
            }
            for title, paragraphs in articles
        ]
    }


ARTICLES = (
    ("Rome", [("r1", [("q0", "a"), ("q1", "b")]), ("r2", [("q2", "c")])]),
    ("Oslo", [("o1", [("q3", "d"), ("q4", "e"), ("q5", "f")])]),
    ("Lima", [("l1", [("q6", "g")])]),
)


@pytest.fixture
def train(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(squad(*ARTICLES)))
    return path


def asked(found):
    return [question.text for question in found.questions]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_squads_own_file(train):
    found = read_questions(train)
    assert [(d.group, d.text, len(d.questions)) for d in found.documents] == [
        ("Rome", "r1", 2),
        ("Rome", "r2", 1),
        ("Oslo", "o1", 3),
        ("Lima", "l1", 1),
    ]
    assert asked(found) == [f"q{number}" for number in range(7)]
    assert found.groups == ["Rome", "Oslo", "Lima"]
    assert found.documents[2].name == f"{train}, record 4"


def test_rows_count_questions_and_may_divide_a_document(train):
    found = read_questions(train, rows=(1, 5))
    assert asked(found) == ["q1", "q2", "q3", "q4"]
    assert [document.text for document in found.documents] == ["r1", "r2", "o1"]
    first, second, third = (asked(read_questions(train, rows=bounds)) for bounds in ((0, 1), (1, 5), (5, 7)))
    assert first + second + third == asked(read_questions(train))


def test_groups_are_whole(train):
    assert asked(read_questions(train, groups=[0, 1])) == ["q0", "q1", "q2"]
    assert read_questions(train, groups=[1, 3]).groups == ["Oslo", "Lima"]


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"rows": (5, 8)}, ["`rows` is [5, 8]", "there are 7 questions", "a part of the published file"]),
        ({"groups": (0, 4)}, ["`groups` is [0, 4]", "there are 3 groups"]),
        ({"rows": (3, 3)}, ["`rows` is [3, 3]", "counted from 0"]),
        ({"rows": (-1, 3)}, ["counted from 0"]),
        ({"rows": (0, 1), "groups": (0, 1)}, ["`rows` and `groups`", "keep one"]),
    ],
)
def test_a_range_that_is_not_there(train, choice, words):
    with pytest.raises(DataError) as caught:
        read_questions(train, **choice)
    assert all(word in str(caught.value) for word in [train.name, *words])


def test_the_hubs_layout_in_a_folder_gives_the_same(train, tmp_path, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    own = read_questions(train)
    table = pyarrow.Table.from_pylist(
        [
            {
                "id": question.text,
                "title": document.group,
                "context": document.text,
                "question": question.text,
                "answers": {"text": list(question.answers), "answer_start": [0]},
            }
            for document, question in own.rows
        ]
    )
    folder = tmp_path / "squad-like"
    folder.mkdir()
    for split, part in (("train", table), ("validation", table.slice(3))):
        parquet.write_table(part, folder / f"{split}-00000-of-00001.parquet")
    found = read_questions(folder, rows=(1, 5))
    expected = read_questions(train, rows=(1, 5))
    assert [(d.text, d.group, d.questions) for d in found.documents] == [
        (d.text, d.group, d.questions) for d in expected.documents
    ]
    assert asked(read_questions(folder, split="validation")) == ["q3", "q4", "q5", "q6"]
    assert asked(read_questions(folder / "train-00000-of-00001.parquet")) == asked(own)
    with pytest.raises(DataError, match=r"no split 'dev'.*Known: train, validation"):
        read_questions(folder, split="dev")


def test_a_hub_id_without_a_network():
    with pytest.raises(DataError, match="cannot load data set nobody/nothing"):
        read_questions("nobody/nothing", format="squad_hub")


def test_streamingqa(tmp_path):
    text = 'Line one,\n"quoted", and line two.'
    quoted = '"' + text.replace('"', '""') + '"'
    path = write(tmp_path, "s.csv", f"﻿question,text,answers\r\n who ? ,{quoted},Queen Anne\\queen\\\r\nq,t,None\r\n")
    first, second = read_questions(path).documents
    assert (first.text, first.group, first.name) == (text, "", f"{path}:2")
    assert first.questions[0].text == "who ?"
    assert first.questions[0].answers == ("Queen Anne", "queen")
    assert second.questions[0].answers == ("None",)  # which pandas would take for a missing value
    assert second.name == f"{path}:4"


ARCHIVAL = "question,answer,doc_id,para_num,ans_paragraph,ans_text\n" + "".join(
    f"q{number},a{number},{doc},{para},{doc}-{para},{doc} whole\n"
    for number, (doc, para) in enumerate([("A", 10), ("B", 1), ("A", 2), ("A", 10), ("B", 0)])
)


def test_archivalqa_is_in_the_order_of_paragraphs(tmp_path):
    path = write(tmp_path, "a.csv", ARCHIVAL)
    found = read_questions(path)
    assert [document.text for document in found.documents] == ["A-2", "A-10", "B-0", "B-1"]
    assert asked(found) == ["q2", "q0", "q3", "q4", "q1"]
    assert [document.group for document in found.documents] == ["A", "A", "B", "B"]
    whole = read_questions(path, full_passage=True)
    assert [(document.text, len(document.questions)) for document in whole.documents] == [
        ("A whole", 3),
        ("B whole", 2),
    ]
    # A range counts the file's own rows.
    assert asked(read_questions(path, rows=(0, 2))) == ["q0", "q1"]


def test_records_of_ones_own(tmp_path):
    lines = [
        {"document": "d1", "question": "q1", "answers": ["a", "b"], "group": 7},
        {"document": "d1", "question": "q2", "answers": "a", "group": 7},
        {"document": "d2", "questions": [{"question": "q3", "answers": ["c"]}, {"question": "q4", "answers": ["d"]}]},
        {"document": "d3", "questions": []},
        {"document": "d4"},
    ]
    path = write(tmp_path, "own.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    found = read_questions(path)
    assert [(d.text, d.group, [q.text for q in d.questions]) for d in found.documents] == [
        ("d1", "7", ["q1", "q2"]),
        ("d2", "", ["q3", "q4"]),
        ("d3", "", []),
        ("d4", "", []),
    ]
    assert found.questions[0].answers == ("a", "b")
    assert [document.text for document in read_questions(path, rows=(1, 3)).documents] == ["d1", "d2"]
    assert [document.text for document in read_questions(path, groups=(1, 3)).documents] == ["d2", "d3"]


def line(**fields):
    return json.dumps(fields) + "\n"


GOOD = line(document="d", question="q", answers=["a"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", "", ["empty.csv", "nothing in it"]),
        ("header.csv", "question,text,answers\n", ["header.csv", "nothing in it"]),
        ("missing.csv", "question,txt,answers\nq,t,a\n", ["missing.csv", "question, txt, answers", "streamingqa"]),
        ("latin.csv", STREAMING.encode() + b"caf\xe9,t,a\n", ["latin.csv:3", "not UTF-8 (byte 0xe9)"]),
        ("short.csv", STREAMING + "q,t\n", ["short.csv:3", "found 2 fields, expected 3"]),
        ("quote.csv", STREAMING + 'q,"t,a\n', ["quote.csv:3", "malformed row"]),
        ("blank.csv", STREAMING + " ,t,a\n", ["blank.csv:3", "'question' is blank"]),
        ("noanswer.csv", STREAMING + "q,t,\n", ["noanswer.csv:3", "'answers' is blank"]),
        ("noanswers.csv", STREAMING + "q,t,\\ \\\n", ["noanswers.csv:3", "'q' has no answer"]),
        ("notext.csv", STREAMING + "q,,a\n", ["notext.csv:3", "'text' is blank"]),
        ("para.csv", ARCHIVAL + "q,a,A,third,p,t\n", ["para.csv:7", "'para_num' holds 'third'"]),
        ("number.jsonl", GOOD + line(document="d", question="q", answers=[1990]), ["number.jsonl:2", "1990"]),
        ("null.jsonl", GOOD + line(document="d", question="q", answers=None), ["null.jsonl:2", "answers", "nothing"]),
        ("absent.jsonl", GOOD + line(document="d", question="q"), ["absent.jsonl:2", "answers"]),
        ("none.jsonl", GOOD + line(document="d", question="q", answers=[]), ["none.jsonl:2", "'q' has no answer"]),
        ("document.jsonl", GOOD + line(document=3, question="q", answers=["a"]), [":2", "'document' holds 3"]),
        ("lost.jsonl", GOOD + line(question="q", answers=["a"]), ["lost.jsonl:2", "'document' holds nothing"]),
        ("list.jsonl", GOOD + line(document="d", questions="q"), ["list.jsonl:2", "expected a list of objects"]),
        ("inner.jsonl", GOOD + line(document="d", questions=[{"answers": ["a"]}]), ["inner.jsonl:2", "'question'"]),
        ("broken.jsonl", GOOD + "{", ["broken.jsonl:2", "malformed JSON"]),
    ],
)
def test_mistakes_name_the_line(tmp_path, name, content, words):
    with pytest.raises(DataError) as caught:
        read_questions(write(tmp_path, name, content))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("streamingqa", "question,text,answer\nq,t,a\n", {}, ["no column 'answers'", "Did you mean 'answer'?"]),
        ("archivalqa", "question,answer,doc_id,para_num\nq,a,A,1\n", {}, ["no column 'ans_paragraph'"]),
        ("archivalqa", ARCHIVAL.replace("ans_text", "txt"), {"full_passage": True}, ["no column 'ans_text'"]),
        ("jsonl", "text,question,answers\nt,q,a\n", {}, ["no column 'document'", "found text, question, answers"]),
    ],
)
def test_a_column_that_the_format_needs(tmp_path, name, content, options, words):
    path = write(tmp_path, "file.csv", content)
    with pytest.raises(DataError) as caught:
        read_questions(path, format=name, **options)
    assert all(word in str(caught.value) for word in [str(path), *words]), str(caught.value)


def test_a_missing_file(tmp_path):
    write(tmp_path, "train.csv", STREAMING)
    with pytest.raises(DataError, match=r"Did you mean 'train\.csv'"):
        read_questions(tmp_path / "trian.csv")


@pytest.mark.real_data
def test_real_squad_in_parts_with_different_articles():
    path = real_data("squad", "train-v1.1.json")
    whole = read_questions(path)
    assert (len(whole.documents), len(whole.questions), len(whole.groups)) == (2430, 11877, 44)
    content = json.loads(path.read_text("utf-8"))  # counted by hand
    paragraphs = [paragraph for article in content["data"][:14] for paragraph in article["paragraphs"]]
    first, second = read_questions(path, groups=(0, 14)), read_questions(path, groups=(14, 44))
    assert [document.text for document in first.documents] == [paragraph["context"] for paragraph in paragraphs]
    assert len(first.questions) == sum(len(paragraph["qas"]) for paragraph in paragraphs)
    assert not set(first.groups) & set(second.groups)
    assert first.questions + second.questions == whole.questions
    with pytest.raises(DataError, match="there are 11877 questions"):
        read_questions(path, rows=(82011, 87599))


@pytest.mark.real_data
def test_questions_without_passages_are_refused():
    with pytest.raises(DataError, match="edited_question"):
        read_questions(real_data("situatedqa_temp", "dev.csv"))
