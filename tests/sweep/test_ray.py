"""Sweeps on a Ray cluster of two nodes on this machine, one of which is lost."""

import sys
import threading
import time
from pathlib import Path

import pytest

from taskloom.errors import UserError
from taskloom.sweep import trial as trials
from taskloom.sweep.driver import sweep
from taskloom.sweep.plan import SweepPlan
from taskloom.sweep.space import Choice, Drawn

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed")

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "COMMAND", STAND_IN)
    monkeypatch.setattr(trials, "POLL", 0.05)
    path = tmp_path / "r.yaml"
    path.write_text("model: {path: m}\ntasks: [glue/rte]\nseed: 5\n")
    return path


def run(recipe, plan, output, **options):
    return sweep(recipe, [f"output={output}"], plan, quiet=True, **options)[1]


def test_a_lost_node_loses_no_trial(recipe):
    space = {
        "training.learning_rate": Choice((0.1, 0.2, 0.3, 0.4)),
        "training.max_steps": Choice((8, 9)),
        "description": Choice(("slow",)),
    }
    plan = SweepPlan(space)
    local = run(recipe, plan, "local", jobs=4)
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)

        def lose() -> None:
            while len(list(Path("ray").glob("trials/*/seed-5/starts"))) < 3:
                time.sleep(0.1)
            cluster.remove_node(second, allow_graceful=False)

        loss = threading.Thread(target=lose)
        loss.start()
        found = run(recipe, plan, "ray", backend="ray", address=cluster.address)
        loss.join()
    finally:
        cluster.shutdown()
    assert len(found) == 8
    assert {row.status for row in found} == {"ok"}
    assert [(row.settings, row.values) for row in found] == [(row.settings, row.values) for row in local]


def test_drawn_settings_and_failures_are_those_of_one_machine(recipe):
    space = {"training.learning_rate": Drawn(1e-4, 1.0, log=True), "description": Choice(("fine", "crash"))}
    plan = SweepPlan(space, search="random", trials=4, seed=1)
    local, ray = run(recipe, plan, "a"), run(recipe, plan, "b", backend="ray")
    assert {row.status for row in local} == {"ok", "failed"}
    assert sorted(map(repr, ray)) == sorted(map(repr, local))


def test_the_worse_are_stopped_early(recipe):
    space = {
        "training.learning_rate": Choice((0.9, 0.1, 0.2, 0.15, 0.12)),
        "description": Choice(("slow",)),
        "training.max_steps": Choice((12,)),
    }
    found = run(recipe, SweepPlan(space, stop="asha"), "s", backend="ray", resources={"cpu": 1})
    status = {row.settings["training.learning_rate"]: row.status for row in found}
    assert len(found) == 5
    assert status[0.9] == "ok"
    stopped = [row for row in found if row.status == "pruned"]
    assert stopped
    for row in stopped:
        rate = row.settings["training.learning_rate"]
        assert not Path(f"s/trials/learning_rate={rate},description=slow,max_steps=12/seed-5/finished.json").exists()
        assert 0 < row.mean < rate * 10 + 0.05  # what it had reached when it was stopped
    # A finished sweep is only read.
    again = run(recipe, SweepPlan(space, stop="asha"), "s", backend="ray", resources={"cpu": 1}, resume=True)
    assert sorted(map(repr, again)) == sorted(map(repr, found))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_a_cluster_that_does_not_answer(recipe, address):
    with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there"):
        run(recipe, SweepPlan({"training.epochs": Choice((1.0, 2.0))}), "s", backend="ray", address=address)
