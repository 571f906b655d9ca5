"""kill -9 at awkward moments: the resumed run ends with the files of an uninterrupted one, bit for bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from taskloom.fit import fit
from taskloom.recipe import load_recipe
from tests.tiny import tiny_encoder, tiny_tasks


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kill")
    settings = {
        "model": {"path": str(tiny_encoder(folder / "encoder"))},
        "data": {"cache": str(folder / "cache"), "max_length": 32},
        "tasks": tiny_tasks(folder / "data"),
        "adapter": {"method": "ca_mtl", "freeze_layers": "0"},
        "sampling": {"strategy": "uncertainty", "max_pool": 2},
        "training": {"max_steps": 120, "batch_size": 8, "evaluate_every": 10, "log_every": 5, "learning_rate": 1e-3},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def killed_when(moment, recipe: Path, output: Path) -> None:
    """Start (or resume) the run in a process of its own and kill it as soon as `moment` holds."""
    code = "from taskloom.cli import main; main()"
    command = [sys.executable, "-c", code, "train", str(recipe), f"output={output}", "--resume", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while not moment() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()


def test_killed_in_a_step_and_in_a_checkpoint(recipe, tmp_path):
    whole = fit(load_recipe(recipe, [f"output={tmp_path / 'whole'}"]), quiet=True)

    parts = tmp_path / "parts"
    checkpoints = parts / "checkpoints"
    killed_when(lambda: (checkpoints / "checkpoint-20").exists(), recipe, parts)
    killed_when(lambda: any(checkpoints.glob(".checkpoint-[4-9]0.partial/*/optimizer.pt")), recipe, parts)
    unfinished = list(checkpoints.glob(".*.partial"))
    assert unfinished, "the second kill came in the middle of a checkpoint"
    resumed = fit(load_recipe(recipe, [f"output={parts}"]), resume=True, quiet=True)

    assert not list(checkpoints.glob(".*"))
    last = "checkpoints/checkpoint-120"
    for file in (f"{last}/heads.safetensors", f"{last}/encoder/adapter_model.safetensors", "model/heads.safetensors"):
        before, after = load_file(whole.path / file), load_file(resumed.path / file)
        assert before.keys() == after.keys()
        assert all((before[name] == after[name]).all() for name in before), file
    assert whole.read_scores() == resumed.read_scores()
    steps = [entry["step"] for entry in resumed.read_metrics() if "loss" in entry]
    assert steps == sorted(set(steps)), "no step is logged twice"


@pytest.mark.parametrize("settings", [{"max_steps": 6}, {"max_steps": 40, "early_stopping": 1}])
def test_killed_after_the_last_step(recipe, tmp_path, settings):
    """Nothing is left to train, though what follows the training has to be done again."""
    fields = {
        **settings,
        "evaluate_every": 2,
        "learning_rate": 1e-5,
    }  # so low that no evaluation is better than the first
    run = fit(
        load_recipe(recipe, [f"output={tmp_path}", *(f"training.{k}={v}" for k, v in fields.items())]), quiet=True
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    scores, steps = run.read_scores(), [entry["step"] for entry in run.read_metrics()]
    assert max(steps) < 10
    for name in ("finished.json", "scores.json", "summary.md"):
        (tmp_path / name).unlink()
    run = fit(run.recipe, resume=True, quiet=True)
    assert run.finished
    assert (run.read_scores(), [entry["step"] for entry in run.read_metrics()]) == (scores, steps)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
