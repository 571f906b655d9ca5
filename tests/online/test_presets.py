"""The published splits."""

import json

import pytest

from taskloom.errors import DataError
from taskloom.online.formats import read_questions
from taskloom.online.presets import list_presets, role_source


def test_presets_are_what_the_reader_takes(tmp_path):
    assert list_presets() == ["squad", "streamingqa", "archivalqa"]
    roles = ("qa_train", "qa_dev", "meta_train", "meta_dev", "stream")
    for preset in list_presets():
        paths = {role_source(preset, role)["path"] for role in roles}
        assert len(paths) == (2 if preset == "squad" else 5)
    bounds = [role_source("squad", role)["rows"] for role in roles[:4]]
    assert bounds == [[0, 40006], [40006, 42118], [42118, 82011], [82011, 87599]]
    assert role_source("squad", "stream", hub=True) == {
        "path": "rajpurkar/squad",
        "format": "squad_hub",
        "split": "validation",
    }
    source = role_source("squad", "qa_train") | {"rows": [0, 2]}
    (tmp_path / "squad").mkdir()
    asked = [{"id": text, "question": text, "answers": [{"text": "a", "answer_start": 0}]} for text in "pqr"]
    article = {"title": "t", "paragraphs": [{"context": "a b", "qas": asked}]}
    (tmp_path / source["path"]).write_text(json.dumps({"data": [article]}))
    found = read_questions(tmp_path / source.pop("path"), **source)
    assert [question.text for question in found.questions] == ["p", "q"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sqad", "stream"), "Did you mean 'squad'"),
        (("squad", "train"), "has no part 'train'"),
        (("streamingqa", "stream"), "not on the hub: put its file at streamingqa/test.csv"),
    ],
)
def test_presets_that_are_not_there(arguments, words):
    with pytest.raises(DataError, match=words):
        role_source(*arguments, hub=True)
