"""Sweeps with a stand-in for the training: what is tried, what fails, what is resumed, and what is written."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from taskloom.errors import RecipeError, RunError
from taskloom.sweep import trial as trials
from taskloom.sweep.driver import collect, sweep, table
from taskloom.sweep.plan import SweepPlan
from taskloom.sweep.results import gather
from taskloom.sweep.space import Choice, Drawn
from taskloom.sweep.trial import Trial, read_metric

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
RATES = {"training.learning_rate": Choice((0.1, 0.3, 0.2))}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "COMMAND", STAND_IN)
    monkeypatch.setattr(trials, "POLL", 0.02)
    path = tmp_path / "r.yaml"
    path.write_text("model: {path: m}\ntasks: [glue/rte]\nseed: 5\n")
    return path


def run(recipe, plan, output="s", **options):
    return sweep(recipe, [f"output={output}", *options.pop("overrides", [])], plan, quiet=True, **options)


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_grid(recipe):
    folder, found = run(recipe, SweepPlan(RATES, seeds=3))
    assert [row.settings["training.learning_rate"] for row in found] == [0.3, 0.2, 0.1]
    assert found[0].values == pytest.approx({5: 3.05, 6: 3.06, 7: 3.07})
    assert (found[0].mean, found[0].std) == pytest.approx((3.06, 0.01))
    written = rows(folder)
    assert [row["training.learning_rate"] for row in written] == ["0.3", "0.2", "0.1"]
    assert float(written[0]["mean"]) == pytest.approx(3.06)
    assert float(written[0]["seed_6"]) == pytest.approx(3.06)
    assert pyarrow.parquet.read_table(folder / "results.parquet").column("mean").to_pylist() == [
        pytest.approx(float(row["mean"])) for row in written
    ]
    assert (folder / "sweep.png").stat().st_size > 5000
    assert (folder / "trials" / "learning_rate=0.3" / "seed-5" / "finished.json").is_file()
    headers, lines = table(found)
    assert headers == ["training.learning_rate", "value", "spread", "seeds", "status"]
    assert lines[0] == ["0.3", "3.0600", "0.0100", "3", "ok"]


def test_less_may_be_better(recipe):
    _, found = run(recipe, SweepPlan(RATES, minimize=True))
    assert [row.settings["training.learning_rate"] for row in found] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_drawn_settings_follow_from_the_seed(recipe, search):
    space = {"training.learning_rate": Drawn(1e-4, 1.0, log=True), "training.max_steps": Drawn(1, 9, integer=True)}
    found = [run(recipe, SweepPlan(space, search=search, trials=4, seed=3), output=name)[1] for name in ("a", "b")]
    assert [row.settings for row in found[0]] == [row.settings for row in found[1]]
    assert len({row.settings["training.learning_rate"] for row in found[0]}) == 4
    assert all(1e-4 <= row.settings["training.learning_rate"] <= 1 for row in found[0])
    assert all(isinstance(row.settings["training.max_steps"], int) for row in found[0])


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_is_marked_and_harms_no_other(recipe, jobs):
    space = {"description": Choice(("fine", "crash", "oom", "nan", "crash-once"))}
    folder, found = run(recipe, SweepPlan(space), jobs=jobs)
    status = {row.settings["description"]: (row.status, row.reason) for row in found}
    assert status["fine"] == status["crash-once"] == ("ok", "")
    assert status["crash"] == ("failed", "exit code 1: RuntimeError: something broke")
    assert status["oom"] == ("failed", "killed (out of memory?)")
    assert status["nan"] == ("failed", "mean is nan")
    assert {row.status for row in found[:2]} == {"ok"}
    starts = folder / "trials" / "description=crash" / "seed-5" / "starts"
    assert len(starts.read_text().splitlines()) == 2  # one more try
    assert [row["reason"] for row in rows(folder) if row["description"] == "oom"] == ["killed (out of memory?)"]


def test_a_metric_that_is_not_there(recipe):
    _, found = run(recipe, SweepPlan(RATES, metric="nll.y"), retries=0)
    assert all("has no 'nll.y': at 'y' there is x" in row.reason for row in found)
    (Path("s") / "scores.json").write_text('{"nll": {"x": 1}, "text": "a"}')
    assert read_metric(Path("s"), "nll.x") == 1.0
    for metric, words in {"text": "is no number", "nll": "is no number", "nll.x.z": "there is no more"}.items():
        with pytest.raises(RunError, match=words):
            read_metric(Path("s"), metric)


def test_the_worse_are_stopped_early(recipe):
    space = {"training.learning_rate": Choice((0.9, 0.1, 0.2, 0.15, 0.12))}
    slow = {**space, "description": Choice(("slow",)), "training.max_steps": Choice((12,))}
    folder, found = run(recipe, SweepPlan(slow, stop="asha"), output="t")
    statuses = [row.status for row in found]
    assert statuses[0] == "ok"
    assert "pruned" in statuses
    pruned = next(row for row in found if row.status == "pruned")
    rate = pruned.settings["training.learning_rate"]
    finished = folder / "trials" / f"learning_rate={rate},description=slow,max_steps=12" / "seed-5" / "finished.json"
    assert not finished.exists()


# --- folders


def test_a_finished_sweep_is_only_read(recipe):
    folder, found = run(recipe, SweepPlan(RATES))
    with pytest.raises(RunError, match="holds a sweep already"):
        run(recipe, SweepPlan(RATES))
    _, again = run(recipe, SweepPlan(RATES), resume=True)
    assert again == found
    starts = folder.glob("trials/*/seed-5/starts")
    assert [len(path.read_text().splitlines()) for path in starts] == [1, 1, 1]


def test_another_sweep_is_refused(recipe):
    run(recipe, SweepPlan(RATES))
    with pytest.raises(RunError, match="it differs in seeds"):
        run(recipe, SweepPlan(RATES, seeds=2), resume=True)
    recipe.write_text("model: {path: other}\ntasks: [glue/rte]\nseed: 5\n")
    with pytest.raises(RunError, match="it differs in the recipe"):
        run(recipe, SweepPlan(RATES), resume=True)
    Path("full").mkdir()
    Path("full", "thesis.tex").touch()
    with pytest.raises(RunError, match=r"not empty \(it holds thesis.tex\)"):
        run(recipe, SweepPlan(RATES), output="full")


def test_results_are_gathered_without_running(recipe):
    folder, found = run(recipe, SweepPlan(RATES))
    (folder / "results.csv").unlink()
    (folder / "sweep.db").unlink()
    assert collect(folder) == found
    assert (folder / "results.csv").is_file()
    Path("none").mkdir()
    with pytest.raises(RunError, match="no trial has come to an end"):
        collect(Path("none"))


SCRIPT = """
import sys
from taskloom.sweep import trial
from taskloom.sweep.driver import sweep
from taskloom.sweep.plan import SweepPlan
from taskloom.sweep.space import Choice
trial.COMMAND, trial.POLL = {command!r}, 0.02
space = {{"training.learning_rate": Choice((0.1, 0.2, 0.3))}}
space |= {{"description": Choice(("slow",)), "training.max_steps": Choice((5,))}}
try:
    sweep("r.yaml", ["output=s"], SweepPlan(space), quiet=True, resume=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_sweep_goes_on(recipe, number):
    script = SCRIPT.format(command=STAND_IN)
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ)
    second = Path("s/trials/learning_rate=0.2,description=slow,max_steps=5/seed-5/starts")
    while not (second.is_file() and second.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    process.wait()
    time.sleep(0.2)
    assert not list(Path("s").glob("trials/learning_rate=0.3*"))
    assert not second.with_name("finished.json").is_file()  # its process ended, too
    subprocess.run([sys.executable, "-c", script], check=True)
    found = gather(Path("s"))
    assert [row.settings["training.learning_rate"] for row in found] == [0.3, 0.2, 0.1]
    assert {row.status for row in found} == {"ok"}
    first = Path("s/trials/learning_rate=0.1,description=slow,max_steps=5/seed-5/starts")
    assert len(first.read_text().splitlines()) == 1
    assert len(second.read_text().splitlines()) == 2


def test_whole_recipes_are_tried_as_they_were_at_the_start(recipe):
    other = recipe.with_name("other.yaml")
    other.write_text("model: {path: another-model}\ntasks: [glue/rte]\nseed: 5\n")
    space = {"recipe": Choice(("r.yaml", "other.yaml")), "training.learning_rate": Choice((0.1, 0.2))}
    folder, found = run(recipe, SweepPlan(space))
    assert [(row.settings["recipe"], row.values) for row in found] == [
        ("other.yaml", {5: 2.05}),
        ("r.yaml", {5: 2.05}),
        ("other.yaml", {5: 1.05}),
        ("r.yaml", {5: 1.05}),
    ]
    (started,) = folder.glob("trials/recipe=other.yaml,learning_rate=0.2*/seed-5/recipe")
    copied = Path(started.read_text())
    assert copied.parent == folder / "recipes"
    assert "path: another-model\n" in copied.read_text()
    other.write_text("model: {path: changed}\ntasks: [glue/rte]\nseed: 5\n")
    with pytest.raises(RunError, match="it differs in the recipe"):
        run(recipe, SweepPlan(space), resume=True)


CLI = """
import sys
from taskloom.sweep import trial
from taskloom.cli import main
trial.COMMAND, trial.POLL = {command!r}, 0.02
main(["sweep", "r.yaml", "training.learning_rate=0.1,0.2,0.3", "description=slow", "training.max_steps=5", "output=s",
      *sys.argv[1:]])
"""


def test_an_interrupted_sweep_stops_says_how_to_go_on_and_does(recipe):
    script = [sys.executable, "-c", CLI.format(command=STAND_IN)]
    process = subprocess.Popen(script, stderr=subprocess.PIPE, text=True, start_new_session=True)
    second = Path("s/trials/learning_rate=0.2/seed-5/starts")
    while not (second.is_file() and second.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: its trainings get it, too
    _, told = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "--resume" in told
    assert "Traceback" not in told
    assert not Path("s/trials/learning_rate=0.3").exists()
    assert not second.with_name("finished.json").exists()
    subprocess.run([*script, "--resume", "--quiet"], check=True)
    assert [row.settings["training.learning_rate"] for row in gather(Path("s"))] == [0.3, 0.2, 0.1]
    assert len(Path("s/trials/learning_rate=0.1/seed-5/starts").read_text().splitlines()) == 1


def test_a_trial_is_a_plain_command(recipe, tmp_path):
    made = Trial(recipe, "online adapt", {"a.b": [1, "x"]}, 3, tmp_path / "s")
    assert made.overrides()[:2] == ['a.b=[1, "x"]', "seed=3"]
    made.run()
    log = (made.folder / "starts").read_text()
    assert log == "online adapt\n"
    assert json.loads(made.folder.with_name("settings.json").read_text()) == {"a.b": [1, "x"]}


def test_there_is_no_such_verb():
    from taskloom.sweep.driver import refuse_verb

    refuse_verb("online adapt")
    with pytest.raises(RecipeError, match="--verb demo: expected one of train"):
        refuse_verb("demo")
