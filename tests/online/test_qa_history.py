"""The best of a history, and when to stop."""

import math

import pytest

from taskloom.online.qa_history import BestValue, best_value, deciding_metric, is_out_of_patience


def history(**metrics):
    length = len(next(iter(metrics.values())))
    return [{"step": 10 * place} | {name: metrics[name][place] for name in metrics} for place in range(length)]


def test_best_is_lowest_nll_and_highest_f1():
    entries = history(nll=[3.0, 1.0, 2.0], f1=[0.1, 0.0, 0.4])
    assert best_value(entries, "nll") == BestValue(10, 1.0)
    assert best_value(entries, "f1") == BestValue(20, 0.4)


def test_of_equal_values_the_earliest():
    assert best_value(history(f1=[0.1, 0.4, 0.4]), "f1") == BestValue(10, 0.4)
    assert best_value(history(nll=[2.0, 1.0, 1.0]), "nll") == BestValue(10, 1.0)


def test_what_is_not_finite_is_never_the_best():
    assert best_value(history(nll=[math.nan, 2.0, math.inf, -math.inf]), "nll") == BestValue(10, 2.0)
    assert best_value(history(nll=[math.nan]), "nll") is None


def test_a_metric_that_never_changes_leaves_the_decision_to_the_nll():
    assert deciding_metric(history(nll=[3.0, 2.0], exact_match=[0.0, 0.0]), "exact_match") == "nll"
    assert deciding_metric(history(nll=[3.0, 2.0], exact_match=[0.0, 0.1]), "exact_match") == "exact_match"


@pytest.mark.parametrize(
    ("nll", "patience", "stops"),
    [
        ([3.0, 2.0, 1.0], 1, False),
        ([3.0, 2.0, 2.0], 1, True),
        ([3.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.4], 2, True),
        ([3.0, 2.0, 2.5, 1.9], 2, False),
        ([3.0, 4.0, 5.0], None, False),
        ([math.nan, math.nan], 2, True),
    ],
)
def test_patience(nll, patience, stops):
    assert is_out_of_patience(history(nll=nll), "nll", patience) is stops


def test_patience_follows_the_deciding_metric():
    falling = [5.0, 4.0, 3.0, 2.0]
    assert not is_out_of_patience(history(nll=falling, f1=[0.0, 0.0, 0.0, 0.0]), "f1", 2), "the nll still falls"
    assert is_out_of_patience(history(nll=falling, f1=[0.0, 0.1, 0.0, 0.1]), "f1", 2)
