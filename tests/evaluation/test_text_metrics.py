"""Metrics of generated answers: by hand, and against scikit-learn, SciPy and sacreBLEU."""

import sys

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from taskloom.errors import UserError
from taskloom.evaluation import score_task
from taskloom.tasks import Task

TARGETS = ["1", "0", "1", "0", "1", "0"]
VALID = ["1", "0", "0", "1", " 1 ", "0"]
INVALID = ["1", "0", "maybe", "", "1", "10"]


def a_task(*metrics, **fields):
    answers = fields or {"labels": ("no", "yes"), "answers": {"no": "0", "yes": "1"}}
    return Task(name="t", kind="text2text", inputs=("text",), metrics=metrics, **answers)


def score(metric, predictions, targets=TARGETS, **fields):
    return score_task(a_task(metric, **fields), predictions, targets)[metric]


def test_accuracy_compares_whole_texts():
    assert score("accuracy", VALID) == pytest.approx(4 / 6)
    assert score("accuracy", INVALID) == pytest.approx(3 / 6)
    assert score("accuracy", ["A", "the b"], ["a", "b"]) == 0.0, "unlike exact_match, which normalises"
    assert score("accuracy", ["b ", "c"], [["a", "b"], ["a"]]) == 0.5


def test_f1_of_valid_answers_is_scikit_learns():
    expected, found = [1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 1, 0]
    assert score("f1", VALID) == pytest.approx(f1_score(expected, found))
    assert score("macro_f1", VALID) == pytest.approx(f1_score(expected, found, average="macro"))
    assert score("matthews", VALID) == pytest.approx(matthews_corrcoef(expected, found))


def test_invalid_answers_count_as_the_wrong_class():
    # maybe -> 0 (target 1), "" -> 1 (target 0), 10 -> 1 (target 0)
    expected, found = [1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 1, 1]
    assert score("f1", INVALID) == pytest.approx(f1_score(expected, found))
    assert score("f1", ["x"] * 6) == 0.0


def test_of_several_right_texts_the_one_that_is_a_choice_is_the_class():
    targets = [["aye", "yes"], ["nay", "no"], ["yes"], ["no"]]
    fields = {"choices": ("no", "yes")}
    assert score("f1", ["yes", "yes", "no", "no"], targets, **fields) == pytest.approx(1 / 2)
    assert score("matthews", ["yes", "no", "yes", "no"], targets, **fields) == pytest.approx(1.0)


def test_invalid_answers_are_a_miss_of_macro_f1_and_no_class_of_it():
    # Class 0: 1 hit, of 1 given and 3 right; class 1: 2 hits, of 2 given and 3 right.
    assert score("macro_f1", INVALID) == pytest.approx(((2 * 1 / 4) + (2 * 2 / 5)) / 2)
    assert score("macro_f1", ["x"] * 6) == 0.0


def test_invalid_answers_are_a_class_of_their_own_for_matthews():
    expected, found = [1, 0, 1, 0, 1, 0], [1, 0, -1, -1, 1, -1]
    assert score("matthews", INVALID) == pytest.approx(matthews_corrcoef(expected, found))
    assert score("matthews", ["x"] * 6) == 0.0


def test_classes_are_counted_in_the_order_of_the_labels():
    task = a_task("f1", labels=("yes", "no"), answers={"no": "0", "yes": "1"})
    assert score_task(task, ["0", "1"], ["0", "0"])["f1"] == pytest.approx(2 / 3), "F1 of the second label, no"
    assert score("f1", ["b", "a"], ["b", "b"], choices=("a", "b")) == pytest.approx(2 / 3)


def test_similarities_are_read_from_texts():
    found, targets = ["0.2", "3.0", "4.8", "2.4"], ["0.0", "3.4", "5.0", "1.8"]
    numbers, expected = [0.2, 3.0, 4.8, 2.4], [0.0, 3.4, 5.0, 1.8]
    assert score("pearson", found, targets) == pytest.approx(pearsonr(numbers, expected).statistic)
    assert score("spearman", found, targets) == pytest.approx(spearmanr(numbers, expected).statistic)


@pytest.mark.parametrize("text", ["very", "", "nan", "inf", "3,4"])
def test_what_is_no_number_counts_as_minus_one(text):
    targets, expected = ["0.0", "3.4", "5.0", "1.8"], [0.0, 3.4, 5.0, 1.8]
    found, numbers = ["0.2", text, "4.8", "2.4"], [0.2, -1.0, 4.8, 2.4]
    assert score("pearson", found, targets) == pytest.approx(pearsonr(numbers, expected).statistic)
    assert score("spearman", found, targets) == pytest.approx(spearmanr(numbers, expected).statistic)
    assert score("pearson", [text] * 4, targets) == 0.0


HYPOTHESES = ["The cat sat on the mat today .", "There is a house in the old town .", ""]
REFERENCES = ["The cat sat on a mat .", "There is a house in an old town .", "Nothing here ."]


def test_bleu_is_sacrebleus_over_the_whole_split():
    expected = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert 20 < expected < 80
    assert score("bleu", HYPOTHESES, REFERENCES) == pytest.approx(expected / 100)
    assert score("bleu", REFERENCES, REFERENCES) == 1.0
    assert score("bleu", ["x", "y", "z"], REFERENCES) == pytest.approx(0.0, abs=1e-6)


def test_bleu_of_several_references():
    others = ["The cat sat on the mat .", None, None]
    expected = sacrebleu.BLEU().corpus_score(HYPOTHESES, [REFERENCES, others]).score
    targets = [[REFERENCES[0], others[0]], REFERENCES[1], [REFERENCES[2]]]
    assert score("bleu", HYPOTHESES, targets) == pytest.approx(expected / 100)
    assert score("bleu", HYPOTHESES, targets) > score("bleu", HYPOTHESES, REFERENCES)


def test_rouge_of_sentences_takes_each_gold_sentence_for_itself():
    gold, found = "The cat sat. A dog ran off.", "A dog ran off. The cat sat."
    assert score("rougeLsum", [found], [gold]) == 1.0
    # The longest subsequence that is in this order is "a dog ran off", 4 of 7 words on either side.
    assert score("rougeL", [found], [gold]) == pytest.approx(4 / 7)
    scorer = RougeScorer(["rougeLsum"], use_stemmer=True)
    expected = scorer.score("Cats sit.\nDogs run!", "A cat sits.\nIt runs!")["rougeLsum"].fmeasure
    assert 0 < expected < 1
    assert score("rougeLsum", ["A cat sits. It runs!"], ["Cats sit.\nDogs run!"]) == pytest.approx(expected)


def test_without_sacrebleu_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(UserError, match=r"bleu needs sacrebleu: pip install 'taskloom\[generation\]'"):
        score("bleu", HYPOTHESES, REFERENCES)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman", "bleu"])
@pytest.mark.filterwarnings("error")
def test_random_answers_stay_in_range(metric):
    rng = np.random.default_rng(0)
    texts = np.array(["0", "1", "2.5", "no", ""])
    for _ in range(20):
        found, targets = rng.choice(texts, 7).tolist(), rng.choice(texts[:2], 7).tolist()
        assert -1.0 <= score(metric, found, targets) <= 1.0


def test_unknown_answers_and_metrics_are_refused():
    with pytest.raises(ValueError, match="`metrics` of task 't': the metric 'matthews' needs to know the answers"):
        score("matthews", ["a"], ["a"], choices="options")
    with pytest.raises(ValueError, match="the metric 'f1' is for two answers, found 3"):
        score("f1", ["a"], ["a"], choices=("a", "b", "c"))
    with pytest.raises(ValueError, match="there is no metric 'blue' for text2text tasks"):
        score("blue", ["a"], ["a"])
