"""Forward selection and leave-one-out against fitting and evaluating each subset on its own."""

from itertools import pairwise

import pytest
import torch

from taskloom.affinity import GradientTable, SubsetSurrogate, forward_selection, leave_one_out
from tests.affinity.support import SIZES, logistic, table


def planted():
    """Return a source where `friend` pulls the target's way, `foe` the other way, and `other` sideways."""
    generator = torch.Generator().manual_seed(0)
    directions = {"target": [1.0, 0, 0], "friend": [1.0, 0.2, 0], "foe": [-1.0, 0, 0], "other": [0, 0, 1.0]}

    def split():
        return {
            task: logistic(torch.tensor(way) + 0.1 * torch.randn(50, 3, generator=generator), torch.zeros(50))
            for task, way in directions.items()
        }

    return GradientTable(split(), split())


def test_forward_selection_takes_the_friend_and_leaves_the_foe():
    found = forward_selection(SubsetSurrogate(planted()), "target")
    assert found.tasks[:2] == ("target", "friend")
    assert "foe" not in found.tasks
    assert list(found.estimates) == sorted(found.estimates, reverse=True)


@pytest.mark.parametrize("metric", ["loss", "auto"])
def test_forward_selection_is_greedy(metric):
    surrogate = SubsetSurrogate(table(), C=0.1)
    found = forward_selection(surrogate, "b", metric=metric)
    sign = -1 if metric == "loss" else 1

    def estimate(tasks):
        return sign * float(surrogate.evaluate(surrogate.fit([tasks]), metric, ["b"])[0, 1])

    chosen = ["b"]
    while True:
        trials = {task: estimate([*chosen, task]) for task in SIZES if task not in chosen}
        best = max(trials, key=trials.__getitem__) if trials else None
        if best is None or trials[best] <= estimate(chosen):
            break
        chosen.append(best)
    assert list(found.tasks) == chosen
    assert sign * found.estimates[-1] == pytest.approx(estimate(chosen))
    steps = [sign * (after - before) for before, after in pairwise(found.estimates)]
    assert [gain.value for gain in found.gains] == pytest.approx(steps)
    for number, gain in enumerate(found.gains, start=1):
        paired = surrogate.gains([chosen[: number + 1]], [chosen[:number]], metric)
        assert gain.stderr == pytest.approx(float(paired.stderr[0, 1]), rel=1e-5)


def test_forward_selection_stops_where_gains_are_within_their_error():
    surrogate = SubsetSurrogate(table())
    plain = forward_selection(surrogate, "b")
    sure = [gain.value > 2 * gain.stderr for gain in plain.gains]
    assert sure == [True, True, False]
    assert forward_selection(surrogate, "b", z=2).tasks == plain.tasks[:3]


def test_limits_and_candidates_of_forward_selection():
    surrogate = SubsetSurrogate(planted())
    assert forward_selection(surrogate, "target", max_tasks=1).tasks == ("target",)
    assert forward_selection(surrogate, "target", candidates=["foe"]).tasks == ("target",)
    with pytest.raises(ValueError, match="`max_tasks` must be at least 1"):
        forward_selection(surrogate, "target", max_tasks=0)
    with pytest.raises(ValueError, match=r"unknown task 'targt'\. Did you mean 'target'"):
        forward_selection(surrogate, "targt")


@pytest.mark.parametrize("metric", ["loss", "auto"])
def test_leave_one_out_is_the_difference_that_a_task_makes(metric):
    surrogate = SubsetSurrogate(table(), C=0.1)
    found = leave_one_out(surrogate, "a", metric=metric)
    sign = -1 if metric == "loss" else 1
    assert list(found) == ["b", "c", "r", "s"]
    for task, gain in found.items():
        subsets = [tuple(SIZES), tuple(other for other in SIZES if other != task)]
        whole, without = surrogate.evaluate(surrogate.fit(subsets), metric, ["a"])[:, 0].tolist()
        assert gain.value == pytest.approx(sign * (whole - without), abs=1e-7)
        paired = surrogate.gains(subsets[:1], subsets[1:], metric)
        assert gain.stderr == pytest.approx(float(paired.stderr[0, 0]), rel=1e-5)


def test_leave_one_out_knows_friend_from_foe_and_several_sources():
    gains = leave_one_out(SubsetSurrogate([planted(), planted()]), "target")
    assert gains["friend"].value > 0 > gains["foe"].value
    assert forward_selection(SubsetSurrogate([planted(), planted()]), "target").tasks[1] == "friend"
    with pytest.raises(ValueError, match="`tasks` must hold the target 'target'"):
        leave_one_out(SubsetSurrogate(planted()), "target", tasks=["friend", "foe"])
