"""Train, resume, evaluate and predict through the command line."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest

from taskloom.cli import main
from tests.cli.command import files, refused, run
from tests.cli.conftest import write_recipe
from tests.tiny import tiny_tasks


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder):
    """A finished CA-MTL run on three tiny tasks."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(
        folder / "tiny.yaml",
        encoder,
        tiny_tasks(folder / "data"),
        adapter={"method": "ca_mtl"},
        data={"cache": str(folder / "cache")},
    )
    with pytest.raises(SystemExit) as end:
        main(["train", str(recipe), "--output", str(folder / "run"), "--json"])
    assert end.value.code == 0
    return folder / "run"


def test_train_prints_one_json_object_and_writes_the_run_folder(project, capsys):
    outcome = run(capsys, "train", "tiny.yaml", "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["run"] == str(project / "runs" / "tiny")
    assert result["dev"].keys() == {"sentiment", "same", "strength"}
    written = {path.name for path in (project / "runs" / "tiny").iterdir()}
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints", "model", "scores.json"} <= written
    assert {"summary.md", "curves.png", "predictions", "finished.json"} <= written
    assert {path.name for path in project.iterdir()} == {"data", "tiny.yaml", "runs"}
    told = refused(capsys, "train", "tiny.yaml")
    assert "holds a run already. Continue it with --resume" in told


def test_options_are_short_for_fields(project, encoder, capsys):
    relative = [
        {**task, "path": os.path.relpath(task["path"], project / "data")} for task in tiny_tasks(project / "data")
    ]
    write_recipe(project / "relative.yaml", encoder, relative[:1])
    folder = project / "out: with, odd [signs]"
    outcome = run(capsys, "train", "relative.yaml", "training.max_steps=1", "--output", folder, "--data-dir", "data")
    assert outcome.code == 0, outcome.err
    assert (folder / "finished.json").is_file()


def test_evaluate(trained, capsys):
    scores = json.loads((trained / "scores.json").read_text())
    outcome = run(capsys, "evaluate", trained, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["scores"] == scores["dev"]
    table = run(capsys, "evaluate", trained).out
    assert f"accuracy {scores['dev']['sentiment']['accuracy']:.4f}" in table
    assert json.loads(run(capsys, "evaluate", trained, "--split", "test", "--json").out)["split"] == "test"
    assert "there are no generated answers to save" in refused(capsys, "evaluate", trained, "--save", trained / "saved")
    assert not (trained / "saved").exists()


def test_predict_writes_every_format_alike(trained, tmp_path, capsys):
    source = tmp_path / "new.csv"
    source.write_text('text,note\n"good film, very good",x\nawful meal,y\nthe a was,z\n')
    given = ["predict", trained, "--task", "sentiment", "--input", source]
    outcome = run(capsys, *given)
    assert outcome.code == 0, outcome.err
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert row.keys() == {"prediction", "probability_neg", "probability_pos"}
        assert row["probability_neg"] + row["probability_pos"] == pytest.approx(1)
        assert row["prediction"] == ("pos" if row["probability_pos"] > row["probability_neg"] else "neg")
    for extension in ("jsonl", "csv", "tsv", "parquet"):
        output = tmp_path / f"out.{extension}"
        outcome = run(capsys, *given, "--output", output, "--batch-size", "2")
        assert (outcome.code, outcome.out) == (0, "")
        written = read_rows(output)
        assert [row["prediction"] for row in written] == [row["prediction"] for row in rows]
        assert [float(row["probability_pos"]) for row in written] == pytest.approx(
            [row["probability_pos"] for row in rows], abs=1e-5
        )


def test_predict_as_one_json_object(trained, tmp_path, capsys):
    source = tmp_path / "new.csv"
    source.write_text("text\ngood film\nawful meal\n")
    given = ["predict", trained, "--task", "sentiment", "--input", source]
    rows = [json.loads(line) for line in run(capsys, *given).out.splitlines()]
    told = {"run": str(trained), "task": "sentiment", "examples": 2}
    assert json.loads(run(capsys, *given, "--json").out) == told | {"predictions": rows}
    output = tmp_path / "out.jsonl"
    assert json.loads(run(capsys, *given, "--json", "--output", output).out) == told | {"output": str(output)}
    assert [json.loads(line) for line in output.read_text().splitlines()] == rows
    quiet = run(capsys, *given, "--quiet", "--output", output)
    assert (quiet.out, quiet.err) == ("", "")


def test_quiet_prints_nothing_and_seed_is_the_recipes_seed(project, capsys):
    given = ("train", "tiny.yaml", "training.max_steps=1", "data.max_length=32")
    outcome = run(capsys, *given, "--quiet", "--seed", "7")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert "seed: 7" in (project / "runs" / "tiny" / "recipe.yaml").read_text()
    assert "seed: 0 -> 7" in refused(capsys, *given, "--resume", "seed=0").replace("7 -> 0", "0 -> 7")


def test_a_pipe_holds_no_progress_and_no_colours(project, capsys):
    outcome = run(capsys, "train", "tiny.yaml", "training.max_steps=2")
    assert outcome.code == 0
    assert "steps/s" not in outcome.err
    assert "━" not in outcome.err
    assert "\x1b" not in outcome.out + outcome.err


def read_rows(path):
    match path.suffix:
        case ".jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()]
        case ".parquet":
            return pyarrow.parquet.read_table(path).to_pylist()
        case extension:
            return list(csv.DictReader(io.StringIO(path.read_text()), delimiter="," if extension == ".csv" else "\t"))


def test_predict_for_pairs_and_numbers(trained, tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"a": "good film", "b": "bad book"}\n')
    outcome = run(capsys, "predict", trained, "--task", "same", "--input", tmp_path / "pairs.jsonl")
    assert json.loads(outcome.out).keys() == {"prediction", "probability_False", "probability_True"}
    (tmp_path / "texts.tsv").write_text("text\ngood film\n")
    outcome = run(capsys, "predict", trained, "--task", "strength", "--input", tmp_path / "texts.tsv")
    row = json.loads(outcome.out)
    assert row.keys() == {"prediction"}
    assert isinstance(row["prediction"], float)


def test_predict_refuses_what_it_cannot_read(trained, tmp_path, capsys):
    source = tmp_path / "new.csv"
    source.write_text("sentence\ngood film\n")
    given = ["--input", source, "--output", tmp_path / "out.csv"]
    before = files(trained)
    assert "Did you mean 'sentiment'?" in refused(capsys, "predict", trained, "--task", "sentimant", *given)
    assert "'text'" in refused(capsys, "predict", trained, "--task", "sentiment", *given)
    source.write_text("text\na,b\n")
    assert f"{source}:2" in refused(capsys, "predict", trained, "--task", "sentiment", *given)
    assert "nowhere.csv" in refused(capsys, "predict", trained, "--task", "sentiment", "--input", "nowhere.csv")
    assert not (tmp_path / "out.csv").exists()
    assert files(trained) == before


def test_predict_before_the_first_model_is_told(trained, tmp_path, capsys):
    for name in ("recipe.yaml", "environment.json"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    told = refused(capsys, "predict", tmp_path, "--task", "sentiment", "--input", "x.csv")
    assert "no trained model yet" in told


# --- interruption


def start(project, *arguments):
    command = [sys.executable, "-c", "from taskloom.cli import main; main()", "train", "tiny.yaml", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_interrupted_run_says_how_to_go_on(project):
    metrics = project / "runs" / "tiny" / "metrics.jsonl"
    process = start(project, "training.max_steps=100000", "training.evaluate_every=50000")
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 5, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"taskloom train {project / 'runs' / 'tiny'} --resume" in err
    assert "Traceback" not in err
    assert list((project / "runs" / "tiny" / "checkpoints").glob("checkpoint-*"))
