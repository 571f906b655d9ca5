"""Unrelated text, from every kind of file."""

import pytest

from taskloom.errors import DataError
from taskloom.online.texts import read_texts
from tests.support import real_data


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("web.csv", 'raw_text,text\n"one, two",x\n three ,x\n'),
        ("web.tsv", "text\tid\none, two\t1\nthree\t2\n"),
        ("web.jsonl", '{"text": "one, two"}\n\n{"text": " "}\n{"text": "three"}\n'),
        ("web.txt", "one, two\n\nthree\n"),
    ],
)
def test_files(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name) == ["one, two", "three"]


def test_a_folder_has_a_text_a_file(tmp_path):
    (tmp_path / "b.txt").write_text("three\nfour\n")
    (tmp_path / "a.txt").write_text("one, two\n")
    (tmp_path / "c.png").write_bytes(b"\0")
    assert read_texts(tmp_path) == ["one, two", "three\nfour"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("web.csv", "txt\na\n", "web.csv:2: the field 'text' is missing.*Did you mean 'txt'"),
        ("web.jsonl", '{"text": 3}\n', "web.jsonl:1: the field 'text' holds 3, expected text"),
        ("web.txt", "\n", "there is no text in it"),
        ("web.xls", "a", "unknown file format '.xls'"),
    ],
)
def test_mistakes(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_texts(tmp_path / name)


@pytest.mark.real_data
def test_real_reviews():
    texts = read_texts(real_data("text", "imdb_unsup_reviews.txt"))
    assert len(texts) == 994
    assert all(texts)
