import numpy as np
import pytest
import torch

from taskloom.auxiliary.history import HISTORY_FILE, WeightLog, read_weight_history
from taskloom.auxiliary.space import SearchSpace
from taskloom.auxiliary.weights import ObjectiveWeights
from taskloom.errors import RunError


def write(path, steps, name="with-illegal"):
    """Log the weights of a short training, and return what they were."""
    weights = ObjectiveWeights(SearchSpace.named(name), primary_lr=0.1, auxiliary_lr=1.0)
    log, seen = WeightLog(path), []
    for step in steps:
        weights.observe([0, 3], torch.tensor([0.1 * step, -0.2]), 0.5, -0.5)
        weights.step()
        log.append(step, weights)
        seen.append((weights.balance(), weights.stage_probabilities(), weights.probabilities().numpy()))
    return weights, seen


def test_what_is_written_is_read(tmp_path):
    weights, seen = write(tmp_path / HISTORY_FILE, [2, 4, 6])
    history = read_weight_history(tmp_path / HISTORY_FILE)
    assert history.steps.tolist() == [2, 4, 6]
    np.testing.assert_allclose(history.primary, [balance[0] for balance, _, _ in seen], rtol=1e-5)
    np.testing.assert_allclose(history.auxiliary, [balance[1] for balance, _, _ in seen], rtol=1e-5)
    assert {stage: tuple(values) for stage, values in history.stages.items()} == weights.space.stages
    for stage, values in history.stages.items():
        for value, series in values.items():
            np.testing.assert_allclose(series, [stages[stage][value] for _, stages, _ in seen], rtol=1e-5)
    assert list(history.objectives) == [objective.name for objective in weights.space]
    np.testing.assert_allclose(
        np.array(list(history.objectives.values())).T, [probabilities for *_, probabilities in seen], rtol=1e-5
    )


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_half_written_row_is_left_out_and_dropped_on_resuming(tmp_path, cut):
    path = tmp_path / HISTORY_FILE
    write(path, [1, 2, 3])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read_weight_history(path).steps.tolist() == [1, 2]
    WeightLog(path).truncate(5)
    assert read_weight_history(path).steps.tolist() == [1, 2]
    WeightLog(path).truncate(1)
    write(tmp_path / "again.csv", [1])
    assert path.read_bytes() == (tmp_path / "again.csv").read_bytes()


def test_a_resumed_log_goes_on_where_it_was_truncated(tmp_path):
    weights, _ = write(tmp_path / HISTORY_FILE, [1, 2, 3])
    log = WeightLog(tmp_path / HISTORY_FILE)
    log.truncate(2)
    log.append(4, weights)
    assert read_weight_history(tmp_path / HISTORY_FILE).steps.tolist() == [1, 2, 4]
    WeightLog(tmp_path / "none.csv").truncate(2)
    assert not (tmp_path / "none.csv").exists()


def test_a_file_that_was_changed_is_named(tmp_path):
    path = tmp_path / HISTORY_FILE
    with pytest.raises(RunError, match=r"objective_weights\.csv: there are no weights"):
        read_weight_history(path)
    write(path, [1, 2])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1].replace("0.", "x.", 1) + lines[2])
    with pytest.raises(RunError, match=r"objective_weights\.csv:2: not a row of numbers"):
        read_weight_history(path)
    path.write_text(lines[0] + lines[1] + "2,0.5,0.5\n")
    with pytest.raises(RunError, match=r"csv:3: 3 values under 31 columns"):
        read_weight_history(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RunError, match=r"csv:1: expected the columns step, primary, auxiliary first, found a, b"):
        read_weight_history(path)


def test_a_log_begins_with_the_first_weights_and_ends_with_the_last(tmp_path):
    weights = ObjectiveWeights(SearchSpace.named("basic"), primary_lr=0.1, auxiliary_lr=1.0)
    log = WeightLog(tmp_path / HISTORY_FILE)
    log.begin(0, weights)
    weights.observe([0], torch.tensor([1.0]), 0.5, -0.5)
    weights.step()
    log.append(2, weights)
    weights.observe([0], torch.tensor([1.0]), 0.5, -0.5)
    weights.step()
    for step in (3, 2):  # after a step that was not logged, and instead of one that was
        log.end(step, weights)
        history = read_weight_history(log.path)
        assert history.steps.tolist() == ([0, 2, 3] if step == 3 else [0, 2])
        np.testing.assert_allclose(history.primary[[0, -1]], [0.5, weights.balance()[0]], rtol=1e-5)
    log.begin(0, weights)  # a resumption without a checkpoint
    assert read_weight_history(log.path).primary.tolist() == [0.5]
