"""Exact match and F1 of predicted answers against the official definition, written again here."""

import gzip
import json
import logging
import random
import re
import string

import pytest

from taskloom.errors import DataError
from taskloom.evaluation import mrqa_scores, squad_scores
from taskloom.evaluation.candidates import likeliest_answer
from taskloom.evaluation.mrqa import read_predictions, score_answers

# The official definition, from the descriptions of SQuAD's and MRQA's scripts, by other means than ours.


def official_words(text: str) -> list[str]:
    """Lower case, without punctuation, without articles, split at white space: in this order."""
    kept = [sign for sign in text.lower() if sign not in set(string.punctuation)]
    return re.sub(r"\b(a|an|the)\b", " ", "".join(kept)).split()


def official_scores(golds: dict, predictions: dict) -> tuple[float, float]:
    """Means over all questions of the best match with a gold answer; without a prediction 0; in percent."""
    exact = total = 0.0
    for name, answers in golds.items():
        if name not in predictions:
            continue
        found = official_words(predictions[name])
        exact += max(official_words(answer) == found for answer in answers)
        best = 0.0
        for answer in answers:
            gold = official_words(answer)
            remaining = list(gold)
            shared = 0
            for word in found:
                if word in remaining:
                    remaining.remove(word)
                    shared += 1
            if shared:
                precision, recall = shared / len(found), shared / len(gold)
                best = max(best, 2 * precision * recall / (precision + recall))
        total += best
    return 100 * exact / len(golds), 100 * total / len(golds)


def chosen(candidates: list) -> str:
    """The text of the lowest score among the texts that are not empty."""
    best, lowest = "", None
    for text, score in candidates:
        if text != "" and (lowest is None or score < lowest):
            best, lowest = text, score
    return best


ANSWERS = [
    "Zürich", "the Beatles", "Beatles, The", "24–10", "1,400 万人", "東京", "A.D. 79", "a", "the", "naïve café",
    "U.S.A.", "an  apple", "İstanbul", "don't", "“quoted”", "$5.00", "", "theatre", "beatles beatles",
    "\u00a0wide\u2003space",
]  # fmt: skip


def a_gold(seed: int, count: int = 60) -> dict[str, list[str]]:
    draw = random.Random(seed)
    return {f"q{number}": draw.choices(ANSWERS, k=draw.randint(1, 4)) for number in range(count)}


def mrqa_file(path, golds: dict, dataset="Tiny"):
    qas = [{"qid": name, "question": "?", "answers": answers} for name, answers in golds.items()]
    contexts = [{"context": "c", "qas": qas[first : first + 7]} for first in range(0, len(qas), 7)]
    text = "".join(json.dumps(row) + "\n" for row in [{"header": {"dataset": dataset}}, *contexts])
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def squad_file(path, golds: dict):
    qas = [
        {"id": name, "question": "?", "answers": [{"text": text, "answer_start": 0} for text in answers]}
        for name, answers in golds.items()
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": "c", "qas": qas}]}]}))
    return path


def predictions_file(path, predictions):
    path.write_text(json.dumps(predictions), "utf-8")
    return path


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("windows", [False, True])
def test_scores_are_the_official_ones(tmp_path, seed, windows):
    golds, draw = a_gold(seed), random.Random(100 + seed)
    texts = [*ANSWERS, "the Beatles in Zürich", "apple 24–10 東京", "...", "cafe naive"]
    if windows:
        scores = [0.5, 0.5, 1, 1.25, 3.0]
        given = {name: [[draw.choice(texts), draw.choice(scores)] for _ in range(draw.randint(0, 5))] for name in golds}
        answers = {name: chosen(candidates) for name, candidates in given.items()}
    else:
        given = answers = {name: draw.choice([*golds[name], *texts]) for name in golds}
    for name in draw.sample(list(golds), 5):
        del given[name]
        answers.pop(name, None)
    em, f1 = official_scores(golds, answers)
    predictions = predictions_file(tmp_path / "p.json", given)
    assert em not in (0, 100)
    for gold in (mrqa_file(tmp_path / "g.jsonl.gz", golds), mrqa_file(tmp_path / "g.jsonl", golds)):
        assert mrqa_scores(gold, predictions) == {"Tiny": {"em": pytest.approx(em), "f1": pytest.approx(f1)}}
    squad = squad_file(tmp_path / "g.json", golds)
    assert squad_scores(str(squad), str(predictions)) == {"SQuAD": {"em": pytest.approx(em), "f1": pytest.approx(f1)}}
    answered = {name: texts for name, texts in golds.items() if name in answers}
    em, f1 = official_scores(answered, answers)
    skipped = mrqa_scores(tmp_path / "g.jsonl", predictions, missing="skip")
    assert skipped == {"Tiny": {"em": pytest.approx(em), "f1": pytest.approx(f1)}}


def test_by_hand(tmp_path):
    golds = {"q1": ["the Limmat", "Limmat river"], "q2": ["Zürich"], "q3": ["the"], "q4": ["x"]}
    given = {
        "q1": [["", 0.01], ["river Aare", 2.5], ["Limmat!", 2.0]],
        "q2": [["", 0.2], ["", 0.1]],
        "q3": [["a", 1.0]],
    }
    gold = mrqa_file(tmp_path / "g.jsonl", golds)
    [score] = score_answers("mrqa", gold, predictions_file(tmp_path / "p.json", given))
    # q1 right, q2 empty, q3 exact (nothing is left of either) with the F1 0, q4 missing.
    assert (score.em, score.f1, score.questions, score.missing) == (50.0, 25.0, 4, 1)
    [score] = score_answers("mrqa", gold, tmp_path / "p.json", missing="skip")
    assert (score.em, score.f1, score.questions, score.missing) == (
        pytest.approx(200 / 3), pytest.approx(100 / 3), 3, 1,
    )  # fmt: skip


def test_the_likeliest_answer_that_is_not_empty_counts():
    assert likeliest_answer([("", -9.0), ("b", 2.0), ("a", 1.0), ("c", 1.0)]) == "a"
    assert likeliest_answer([("", 1.0)]) == likeliest_answer([]) == ""


def test_a_question_without_answer_is_rightly_answered_by_nothing(tmp_path):
    gold = squad_file(tmp_path / "g.json", {"q1": [], "q2": []})
    given = predictions_file(tmp_path / "p.json", {"q1": "", "q2": "something"})
    assert squad_scores(gold, given) == {"SQuAD": {"em": 50.0, "f1": 50.0}}


def test_missing_predictions_are_counted_and_told(tmp_path, caplog):
    gold = mrqa_file(tmp_path / "g.jsonl", {"q1": ["x"], "q2": ["y"], "q3": ["z"]})
    with caplog.at_level(logging.WARNING):
        [score] = score_answers("mrqa", gold, predictions_file(tmp_path / "p.json", {"q2": "y", "other": "x"}))
    assert (score.missing, score.em) == (2, pytest.approx(100 / 3))
    assert "Tiny: questions without a prediction, which count as wrong: 2" in caplog.text


def test_a_folder_has_one_entry_a_data_set(tmp_path, caplog):
    folder = tmp_path / "gold"
    folder.mkdir()
    mrqa_file(folder / "A.jsonl.gz", {"a1": ["x"]}, "A")
    mrqa_file(folder / "B.jsonl", {"b1": ["x"]}, "B")
    mrqa_file(folder / "C.jsonl", {"c1": ["x"]}, "C")
    given = predictions_file(tmp_path / "p.json", {"a1": "x", "b1": "y"})
    with caplog.at_level(logging.WARNING):
        assert mrqa_scores(folder, given) == {"A": {"em": 100.0, "f1": 100.0}, "B": {"em": 0.0, "f1": 0.0}}
    assert "no predictions for C.jsonl, left out" in caplog.text
    mrqa_file(folder / "A2.jsonl", {"a2": ["x"]}, "A")
    predictions_file(given, {"a1": "x", "a2": "y"})
    assert set(mrqa_scores(folder, given)) == {"A (A.jsonl.gz)", "A (A2.jsonl)"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"q1": "x"', r"p\.json:1: malformed JSON at column 11"),
        ("[]", r"p\.json: expected an object, \{question id: answer\}, found \[\]"),
        ('{"q1": 3}', r"p\.json: the prediction for question 'q1' is 3, expected a text, or a list of"),
        ('{"q1": [["x"]]}', r"the prediction for question 'q1' is \[\['x'\]\], expected a text"),
        ('{"q1": [["x", "1"]]}', r"the prediction for question 'q1'"),
        ('{"q1": [[null, 1]]}', r"the prediction for question 'q1'"),
        ("[" * 100_000, r"p\.json: malformed JSON \(brackets in brackets"),
        (
            '{"qx": "x"}',
            r"p\.json: holds a prediction for none of the questions of .*g\.jsonl, the first of which is 'q1'",
        ),
    ],
)
def test_predictions_that_cannot_be_read(tmp_path, content, message):
    gold = mrqa_file(tmp_path / "g.jsonl", {"q1": ["x"]})
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DataError, match=message):
        mrqa_scores(gold, tmp_path / "p.json")


def test_a_score_that_was_not_finite_is_the_least_likely(tmp_path):
    for score in (None, float("nan"), float("inf")):
        given = predictions_file(tmp_path / "p.json", {"q": [["x", score], ["y", 50.0]], "r": [["z", score]]})
        assert read_predictions(given) == {"q": "y", "r": "z"}


def test_gold_files_that_cannot_be_read(tmp_path):
    given = predictions_file(tmp_path / "p.json", {"q1": "x"})
    plain = mrqa_file(tmp_path / "plain.jsonl", {"q1": ["x"]})
    (tmp_path / "named.jsonl.gz").write_bytes(plain.read_bytes())
    headless = tmp_path / "headless.jsonl"
    headless.write_text("".join(plain.read_text().splitlines(keepends=True)[1:]))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "x"}\n')
    hidden = tmp_path / "hidden.jsonl"
    hidden.write_text(plain.read_text().replace('"answers": ["x"]', '"answers": null'))
    twice = tmp_path / "twice.jsonl"
    twice.write_text(plain.read_text() + plain.read_text().splitlines()[1] + "\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, message in {
        tmp_path / "named.jsonl.gz": "it is no gzip file; if it holds plain text, name it named.jsonl",
        headless: "headless.jsonl:1: no header line; an MRQA file begins with",
        rows: "rows.jsonl: no MRQA file; expected a header line",
        hidden: "hidden.jsonl:2: question 'q1': the field 'answers' holds None",
        twice: "twice.jsonl:3: a second question 'q1'; each needs an id of its own",
        empty: "no .jsonl or .jsonl.gz files in this folder",
        tmp_path / "none.jsonl": "no file 'none.jsonl'",
    }.items():
        with pytest.raises(DataError, match=re.escape(message)):
            mrqa_scores(path, given)
    with pytest.raises(DataError, match=r"plain\.jsonl: no SQuAD file"):
        squad_scores(plain, given)
