"""Whole runs of the command line in two processes: a mistake, a process that is killed, and how it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from taskloom.cli import main
from taskloom.fit import fit
from taskloom.recipe import load_recipe
from tests.distributed.trainings import make_data

STEPS = 40


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_data(folder)
    training = {"batch_size": 7, "eval_batch_size": 5, "max_steps": STEPS, "evaluate_every": 10, "log_every": 1}
    content = {
        "model": {"path": str(folder / "encoder"), "head_dropout": 0.0},
        "data": {"max_length": 32, "cache": str(folder / "cache")},
        "tasks": json.loads((folder / "tasks.json").read_text()),
        "training": {**training, "learning_rate": 1e-3},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "taskloom"]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def process_of(launcher: subprocess.Popen, rank: int) -> int:
    """Return the id of one of the launcher's processes."""
    for each in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        if f"RANK={rank}\0" in Path(f"/proc/{each}/environ").read_text().replace("LOCAL_RANK", "").replace("_RANK", ""):
            return int(each)
    raise AssertionError(f"no process of rank {rank}")


def losses(run: Path) -> dict[int, float]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_a_mistake_is_told_once_and_again_in_the_report(recipe, tmp_path):
    launcher = start("train", recipe, f"output={tmp_path / 'run'}", "training.batch_size=0")
    told, _ = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert told.count("error: ") == 1, told
    assert "training.batch_size" in told.split("Root Cause")[1], told
    assert "exitcode  : 2" in told
    assert not (tmp_path / "run").exists()


def test_a_killed_process_ends_the_others_and_another_number_goes_on(recipe, tmp_path):
    run = tmp_path / "run"
    launcher = start("train", recipe, f"output={run}")
    try:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "checkpoint-10").is_dir():
            assert launcher.poll() is None, launcher.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(process_of(launcher, 1), signal.SIGKILL)
    except BaseException:
        launcher.terminate()
        raise
    told, _ = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert "process 0 of 2 has lost another one" in told, told
    assert f"torchrun --standalone --nproc-per-node 2 -m taskloom train {run} --resume" in told
    assert not (run / "finished.json").exists()
    fit(load_recipe(run), resume=True, quiet=True)
    whole = fit(load_recipe(recipe, [f"output={tmp_path / 'whole'}"]), quiet=True)
    assert len(losses(run)) == STEPS
    assert losses(run) == pytest.approx(losses(whole.path), abs=1e-5)


@pytest.fixture
def second(monkeypatch):
    """Make this the second of two processes."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_verbs_that_do_not_share_their_work_are_done_by_the_main_process(second, capsys):
    for arguments in (["tasks"], ["recipes"], ["doctor"], ["predict", "run", "--task", "a", "--input", "a.csv"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert not ended.value.code
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_a_sweep_is_refused(second, recipe, monkeypatch, capsys):
    monkeypatch.setattr("taskloom.cli.errors.SILENCE", 0.0)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(recipe), "seed=1,2"])
    assert ended.value.code == 2
    assert "without a launcher" in capsys.readouterr().err
