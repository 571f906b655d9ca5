"""`taskloom evaluate mrqa` and `squad`: predicted answers against gold files, without a model."""

import gzip
import json
import re
import subprocess
import sys

import pytest

from tests.cli.command import refused, run


@pytest.fixture
def files(tmp_path):
    """Gold files of both forms with two questions, and predictions of which one is right."""
    questions = [
        {"qid": name, "question": "?", "answers": ["Zürich", "the city"], "detected_answers": []}
        for name in ("q1", "q2", "q3", "q4")
    ]
    gold = [{"header": {"dataset": "Tiny"}}, {"context": "c", "qas": questions}]
    text = "".join(json.dumps(row) + "\n" for row in gold)
    (tmp_path / "gold.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    qas = [{"id": q["qid"], "question": "?", "answers": [{"text": "Zürich", "answer_start": 0}]} for q in questions]
    (tmp_path / "gold.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "Zürich", "qas": qas}]}]}))
    predictions = {"q1": [["", 0.1], ["zürich.", 1.0], ["Bern", 2.0]], "q2": [["Bern city", 0.5]], "q3": []}
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    return tmp_path


def test_a_table_with_the_scores_of_each_data_set(capsys, files):
    outcome = run(capsys, "evaluate", "mrqa", files / "gold.jsonl.gz", files / "predictions.json")
    assert outcome.code == 0
    header, row = outcome.out.splitlines()
    assert re.split(r"  +", header.strip()) == ["data set", "EM", "F1", "questions", "missing"]
    # q1 is right; q2 shares one of two words with "the city", which is one word: 2/3; q3 and q4 have no answer.
    assert row.split() == ["Tiny", "25.00", "41.67", "4", "1"]
    assert "warning: Tiny: questions without a prediction, which count as wrong: 1" in outcome.err
    outcome = run(capsys, "evaluate", "mrqa", files / "gold.jsonl.gz", files / "predictions.json", "--skip-missing")
    assert outcome.out.splitlines()[1].split() == ["Tiny", "33.33", "55.56", "3", "1"]


def test_squad_and_json(capsys, files):
    outcome = run(capsys, "evaluate", "squad", files / "gold.json", files / "predictions.json", "--json")
    assert json.loads(outcome.out)["scores"] == {"SQuAD": {"em": 25.0, "f1": 25.0, "questions": 4, "missing": 1}}


def test_what_cannot_be_is_refused_with_one_message(capsys, files, monkeypatch):
    monkeypatch.chdir(files)
    given = ("gold.jsonl.gz", "predictions.json")
    assert refused(capsys, "evaluate", "mrqa", "gold.jsonl.gz") == (
        "evaluate mrqa needs two files: taskloom evaluate mrqa GOLD PREDICTIONS"
    )
    assert refused(capsys, "evaluate", "mrqa", *given, "--split", "test").startswith(
        "--split: evaluate mrqa scores files"
    )
    assert "for files the form comes first: mrqa or squad" in refused(capsys, "evaluate", *given)
    assert refused(capsys, "evaluate", "nothing") == "nothing: there is no such run folder"
    assert refused(capsys, "evaluate", "nothing", "--skip-missing").startswith("--skip-missing: ")
    assert "no SQuAD file" in refused(capsys, "evaluate", "squad", *given)
    assert refused(capsys, "evaluate", "mrqa", "gold.json", "predictions.json").startswith("gold.json: no MRQA file")
    (files / "mrqa").mkdir()
    assert refused(capsys, "evaluate", "mrqa") == "mrqa: not a run folder: it has no recipe.yaml"


def test_the_help_shows_all_forms_and_needs_no_torch(capsys):
    text = run(capsys, "evaluate", "--help").out
    for part in ("RUN", "mrqa", "squad", "GOLD", "PREDICTIONS", "--split", "--skip-missing", "--save"):
        assert part in text
    script = "import sys, taskloom.evaluation.mrqa; print({'torch', 'datasets', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
