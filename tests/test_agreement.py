import numpy as np
import pytest
from studies.agreement import agreement, ceiling


def test_relative_errors_by_hand():
    truth = np.array([[1.0, np.nan, 3.0], [2.0, 4.0, np.nan], [1.0, np.nan, 1.0]])
    estimate = np.array([[1.5, 9.0, 3.0], [2.0, 2.0, 9.0], [1.0, 9.0, 1.0]])
    found = agreement(estimate, truth)
    assert found["error"] == pytest.approx((0.25 / 2 + 1 / 3 + 0) / 3)
    assert found["entry_error"] == pytest.approx((0.5 + 0 + 0 + 0.5 + 0 + 0) / 6)


def test_knowing_only_the_tasks_is_not_within_task_agreement():
    rng = np.random.default_rng(0)
    difficulty, effect = np.arange(5.0), rng.normal(size=(40, 5))
    truth = np.where(rng.random((40, 5)) < 0.5, difficulty + 0.1 * effect, np.nan)
    truth = truth[(~np.isnan(truth)).any(axis=1)]
    tasks_only = agreement(np.broadcast_to(difficulty, truth.shape), truth)
    assert tasks_only["pearson"] > 0.95
    assert np.isnan(tasks_only["within_pearson"])
    assert agreement(2 * truth + difficulty, truth)["within_pearson"] == pytest.approx(1)


def test_an_effect_of_size_alone_is_removed():
    rng = np.random.default_rng(0)
    held = rng.random((60, 6)) < 0.5
    held[:, 0] = True
    size = held.sum(axis=1, keepdims=True)
    truth = np.where(held, size + 0.1 * rng.normal(size=(60, 6)), np.nan)
    by_size = agreement(size + 0.1 * rng.normal(size=(60, 6)), truth)
    assert by_size["within_pearson"] > 0.9
    assert abs(by_size["sized_pearson"]) < 0.3


def test_the_ceiling_of_equal_seeds_is_perfect():
    rng = np.random.default_rng(0)
    seed = rng.normal(size=(20, 4))
    found = ceiling(np.stack([seed, seed, seed]))
    assert found["within_pearson"] == pytest.approx(1)
    assert found["error"] == pytest.approx(0)
