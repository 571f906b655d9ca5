"""Pipelines of questions and of auxiliary objectives, from the command line to the report."""

import json
import signal

import pytest
import yaml

from taskloom.online.qa_trainer import QATrainer
from tests.auxiliary.support import masked_encoder
from tests.cli.command import refused, run
from tests.online.tiny_project import write_project
from tests.tiny import tiny_tasks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_questions_are_tuned_on_then_weights_learned_then_the_stream_read(folder, capsys):
    stages = ["tune-qa", "meta-train", "adapt", {"stage": "adapt", "set": {"weighter.kind": "uniform"}}, "report"]
    write_project(
        folder, pipeline={"stages": stages}, answers={"generate": False}, adapt={"unrelated_questions": False}
    )
    outcome = run(capsys, "run", "r.yaml", "--json")
    assert outcome.code == 0, outcome.err
    done = json.loads(outcome.out)["stages"]
    assert [(stage["name"], stage["status"]) for stage in done] == [
        ("tune-qa", "done"),
        ("meta-train", "done"),
        ("adapt-learned", "done"),
        ("adapt-uniform", "done"),
        ("report", "done"),
    ]
    assert (folder / "runs" / "r" / "report.html").stat().st_size > 10_000

    told = run(capsys, "run", "r.yaml", "adapt.learning_rate=1e-5", "--dry-run").out
    for name, what in {
        "tune-qa": "up to date",
        "meta-train": "up to date",
        "adapt-learned": "runs again",
        "adapt-uniform": "runs again",
        "report": "after the stages that it needs",
    }.items():
        assert any(line.split()[0] == name and what in line for line in told.splitlines()), told
    assert "adapt.learning_rate: 0.001 -> 1e-05" in told


def test_learned_objectives_start_a_second_training(folder, capsys):
    masked_encoder(folder / "encoder", layers=1)
    (sentiment, *_) = tiny_tasks(folder / "data", examples=16)
    recipe = {
        "model": {"path": "./encoder"},
        "data": {"max_length": 16},
        "tasks": [sentiment],
        "training": {"max_steps": 2, "batch_size": 4, "evaluate_every": 1},
        "auxiliary": {"space": "tapt", "batch_size": 4, "final_finetuning": False, "step_every": 1},
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe))
    outcome = run(capsys, "run", "r.yaml", "--json")
    assert outcome.code == 0, outcome.err
    names = [stage["name"] for stage in json.loads(outcome.out)["stages"]]
    assert names == ["auxiliary", "retrain", "evaluate", "report"]
    out = folder / "runs" / "r"
    assert f"warm_start: {out / 'auxiliary'}" in (out / "retrain" / "recipe.yaml").read_text()
    assert set(json.loads((out / "evaluate" / "scores.json").read_text())["mean"]) == {"auxiliary", "retrain"}


def test_interrupted_it_says_how_to_go_on(folder, capsys, monkeypatch):
    write_project(folder, pipeline={"stages": ["tune-qa"]}, answers={"generate": False})
    step = QATrainer.training_step

    def interrupted(self, *arguments, **named):
        if self.state.global_step == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(QATrainer, "training_step", interrupted)
        outcome = run(capsys, "run", "r.yaml", "seed=0")
    assert outcome.code == 130
    assert outcome.err.splitlines()[-1] == "interrupted. Continue with: taskloom run r.yaml seed=0"
    (stage,) = json.loads((folder / "runs" / "r" / "pipeline.json").read_text())["stages"]
    assert stage["status"] == "interrupted"
    assert "Resuming after step 3" in run(capsys, "run", "r.yaml", "seed=0").err


def test_mistakes(folder, capsys):
    write_project(folder, pipeline={"stages": ["meta-train", "report"]})
    assert "stage 'meta-train'" in refused(capsys, "run", "r.yaml")
    assert "Did you mean 'report'?" in refused(capsys, "run", "r.yaml", "--only", "reprt")
    assert "expected train | affinity" in refused(capsys, "run", "r.yaml", "pipeline.stages=[tain]")
    assert "no such file" in refused(capsys, "run", "x.yaml")
