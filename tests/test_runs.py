"""The run folder: never half-written, never shared, never resumed under another recipe."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taskloom.errors import DataError, RunError
from taskloom.locks import FolderLock
from taskloom.recipe import Recipe, load_recipe
from taskloom.runs import RunFolder


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "one"


def make_recipe(folder: Path, **sections) -> Recipe:
    return Recipe.model_validate(
        {"name": "one", "output": folder, "model": {"path": "m"}, "tasks": ["glue/rte", "glue/mrpc"], **sections}
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_run_records_recipe_and_environment(folder):
    recipe = make_recipe(folder, seed=7)
    with RunFolder.create(folder, recipe) as run:
        assert not run.finished
    assert load_recipe(folder / "recipe.yaml") == recipe
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 7
    assert environment["command"] == sys.argv
    assert {"torch", "transformers", "peft"} <= environment["packages"].keys()
    assert environment["git"] is None  # the working folder of this test is no repository
    assert {"python", "platform", "device", "started", "cpus"} <= environment.keys()


def test_the_commit_of_the_working_folder_is_recorded(folder):
    for arguments in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", *arguments], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    with RunFolder.create(folder, make_recipe(folder)):
        pass
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["git"]["commit"] == commit
    assert environment["git"]["dirty"] is True  # the run folder itself is new here


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    for resume in (False, True):
        with pytest.raises(RunError, match=r"not empty \(it holds thesis\.tex\)"):
            RunFolder.create(folder, make_recipe(folder), resume)
        assert snapshot(folder) == {"thesis.tex": b"precious"}
    with pytest.raises(RunError, match="this is a file"):
        RunFolder.create(folder / "thesis.tex", make_recipe(folder))


def test_an_existing_run_needs_resume(folder):
    with RunFolder.create(folder, make_recipe(folder)):
        pass
    before = snapshot(folder)
    with pytest.raises(RunError, match="Continue it with --resume"):
        RunFolder.create(folder, make_recipe(folder))
    assert snapshot(folder) == before
    with RunFolder.create(folder, make_recipe(folder), resume=True):
        pass
    assert len(json.loads((folder / "environment.json").read_text())["resumed"]) == 1


@pytest.mark.parametrize("left_behind", [[], [".lock"], [".lock", "environment.json", ".recipe.yaml.ab12.partial"]])
def test_a_run_killed_before_it_began_can_be_started_or_resumed(folder, left_behind):
    for resume in (False, True):
        target = folder.with_name(f"resume-{resume}")
        target.mkdir(parents=True)
        for name in left_behind:
            (target / name).write_text("")
        with RunFolder.create(target, make_recipe(target), resume) as run:
            assert run.latest_checkpoint() is None
        assert not list(target.glob(".*.partial"))


def fail(folder, error, *folders):
    """Let `error` end a run that has logged one step and written `folders`."""

    def train():
        with RunFolder.create(folder, make_recipe(folder)) as run:
            run.append_metrics({"step": 1})
            for name in folders:
                (folder / name).mkdir(parents=True)
                (folder / name / "trainer_state.json").touch()
            raise error

    with pytest.raises(type(error)):
        train()


def test_a_mistake_found_before_any_result_leaves_no_run(folder):
    fail(folder, DataError("a target without tokens"), "checkpoints/partial")
    assert [path.name for path in folder.iterdir()] == [FolderLock.FILE_NAME]
    with RunFolder.create(folder, make_recipe(folder, seed=1)):  # mended, it starts in the same folder
        pass


@pytest.mark.parametrize(
    ("error", "folders"), [(DataError("x"), ["checkpoints/checkpoint-1"]), (DataError("x"), ["model"]), (OSError(), [])]
)
def test_results_are_kept_and_so_is_what_a_fault_leaves(folder, error, folders):
    fail(folder, error, *folders)
    assert (folder / "recipe.yaml").is_file()
    assert (folder / "metrics.jsonl").is_file()
    assert all((folder / name).is_dir() for name in folders)


def test_resume_of_a_missing_folder_starts_and_says_so(folder, caplog):
    with RunFolder.create(folder, make_recipe(folder), resume=True):
        assert "nothing to resume" in caplog.text


def test_resume_refuses_another_recipe_and_names_what_differs(folder):
    with RunFolder.create(folder, make_recipe(folder, training={"epochs": 3})):
        pass
    before = snapshot(folder)
    other = make_recipe(folder, training={"epochs": 5}, adapter={"method": "lora", "r": 8})
    with pytest.raises(RunError) as caught:
        RunFolder.create(folder, other, resume=True)
    assert "training.epochs: 3.0 -> 5.0" in str(caught.value)
    assert "adapter.method: none -> lora" in str(caught.value)
    assert "adapter.r: None -> 8" in str(caught.value)
    assert snapshot(folder) == before


def test_resume_refuses_another_task_list(folder):
    with RunFolder.create(folder, make_recipe(folder)):
        pass
    other = make_recipe(folder).model_copy(update={"tasks": ["glue/rte", {"preset": "glue/cola", "name": "c"}]})
    with pytest.raises(RunError, match=r"another task list: glue/rte, glue/mrpc; the recipe now lists glue/rte, c\."):
        RunFolder.create(folder, other, resume=True)


def test_resume_allows_what_does_not_change_the_training(folder):
    with RunFolder.create(folder, make_recipe(folder)):
        pass
    other = make_recipe(folder, description="x", data={"workers": 2}, training={"report_to": ["tensorboard"]})
    with RunFolder.create(folder, other, resume=True):
        pass


# --- one process a folder

HOLD = """
import sys, time
from pathlib import Path
from taskloom.locks import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_two_trainings_cannot_share_a_folder_and_a_dead_ones_lock_is_taken_over(folder):
    with RunFolder.create(folder, make_recipe(folder)):
        pass
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        before = snapshot(folder)
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
            RunFolder.create(folder, make_recipe(folder), resume=True)
        assert snapshot(folder) == before
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with RunFolder.create(folder, make_recipe(folder), resume=True):
        assert (folder / ".lock").read_text() == f"{os.getpid()}\n"


# --- what survives a kill


def checkpoint(run: RunFolder, name: str, complete: bool = True) -> Path:
    path = run.checkpoints / name
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("")
    if complete:
        (path / "trainer_state.json").write_text("{}")
    return path


def test_the_latest_complete_checkpoint_counts(folder):
    with RunFolder.create(folder, make_recipe(folder)) as run:
        assert run.latest_checkpoint() is None
        checkpoint(run, "checkpoint-9")
        newest = checkpoint(run, "checkpoint-10")
        checkpoint(run, "checkpoint-11", complete=False)
        checkpoint(run, "checkpoint-12.partial")
        checkpoint(run, ".checkpoint-13.0a1b2c3d.partial")
        checkpoint(run, "checkpoint-best")
        assert run.latest_checkpoint() == newest


def test_leftovers_are_removed_on_resume(folder):
    with RunFolder.create(folder, make_recipe(folder)) as run:
        kept = checkpoint(run, "checkpoint-10")
        checkpoint(run, "checkpoint-12.partial")
        checkpoint(run, ".checkpoint-13.0a1b2c3d.partial")
        (folder / ".scores.json.0a1b2c3d.partial").write_text("{")
    with RunFolder.create(folder, make_recipe(folder), resume=True) as run:
        assert list(run.checkpoints.iterdir()) == [kept]
        assert not list(folder.glob("*.partial"))


def test_metrics_are_appended_and_cut_back_on_resume(folder):
    with RunFolder.create(folder, make_recipe(folder)) as run:
        assert run.read_metrics() == []
        for step in (0, 5, 10, 15):
            run.append_metrics({"step": step, "loss": step / 3, "task": "é"})
        run.truncate_metrics(10)
        assert [entry["step"] for entry in run.read_metrics()] == [0, 5, 10]
        run.append_metrics({"step": 11})
        assert [entry["step"] for entry in run.read_metrics()] == [0, 5, 10, 11]
        assert run.read_metrics()[1] == {"step": 5, "loss": 5 / 3, "task": "é"}


@pytest.mark.parametrize("half", [b'{"step": 7, "lo', b'{"step": 7}', b'{"task": "\xc3'])
def test_a_half_written_last_line_is_dropped(folder, half):
    with RunFolder.create(folder, make_recipe(folder)) as run:
        run.append_metrics({"step": 5})
        with run.metrics_file.open("ab") as file:
            file.write(half)
        assert run.read_metrics() == [{"step": 5}]
        run.truncate_metrics(6)
        run.append_metrics({"step": 6})
        assert [json.loads(line) for line in run.metrics_file.read_text().splitlines()] == [{"step": 5}, {"step": 6}]


def test_a_changed_metrics_file_is_told_with_its_line(folder):
    with RunFolder.create(folder, make_recipe(folder)) as run:
        run.metrics_file.write_text('{"step": 1}\n{"step"\n')
        with pytest.raises(RunError, match=r"metrics\.jsonl:2: not a JSON object"):
            run.read_metrics()


APPEND = """
import sys
from pathlib import Path
from taskloom.recipe import load_recipe
from taskloom.runs import RunFolder
recipe = load_recipe(Path(sys.argv[1]) / "recipe.yaml")
run = RunFolder(Path(sys.argv[1]), recipe)
print("begun", flush=True)
for step in range(10**9):
    run.append_metrics({"step": step, "text": "x" * 2000})
    run.write_scores({"step": step, "text": "x" * 2000})
"""


def test_a_kill_at_any_moment_leaves_whole_files(folder):
    with RunFolder.create(folder, make_recipe(folder)):
        pass
    writer = subprocess.Popen([sys.executable, "-c", APPEND, str(folder)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    while not (folder / "metrics.jsonl").exists() or (folder / "metrics.jsonl").stat().st_size < 50_000:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with RunFolder.create(folder, make_recipe(folder), resume=True) as run:
        steps = [entry["step"] for entry in run.read_metrics()]
        assert steps == list(range(len(steps)))
        assert len(steps) > 1
        assert run.read_scores()["step"] in (steps[-1], steps[-1] - 1)
        assert not list(folder.glob(".*.partial"))


# --- results


def test_results_are_plain_files(folder):
    with RunFolder.create(folder, make_recipe(folder)) as run:
        with pytest.raises(RunError, match="no scores yet"):
            run.read_scores()
        run.write_scores({"rte": {"accuracy": 0.5, "loss": float("nan")}, "all": [float("inf"), 1.0]})
        assert run.read_scores() == {"rte": {"accuracy": 0.5, "loss": None}, "all": [None, 1.0]}
        run.write_summary("| task |\n")
        assert (folder / "summary.md").read_text() == "| task |\n"
        assert run.write_submission("RTE.tsv", ["entailment", "not_entailment"]) == folder / "predictions" / "RTE.tsv"
        assert (
            folder / "predictions" / "RTE.tsv"
        ).read_text() == "index\tprediction\n0\tentailment\n1\tnot_entailment\n"
        run.append_metrics({"step": 1, "loss": float("nan")})
        assert run.read_metrics() == [{"step": 1, "loss": None}]
        assert not run.finished
        run.mark_finished()
        assert run.finished


def test_a_run_is_opened_from_anywhere(folder, tmp_path):
    with RunFolder.create(folder, make_recipe(folder)):
        pass
    moved = folder.rename(tmp_path / "moved")
    run = RunFolder.open(moved)
    assert (run.path, run.recipe.tasks) == (moved, ["glue/rte", "glue/mrpc"])
    with pytest.raises(RunError, match="no such run folder"):
        RunFolder.open(folder)
    with pytest.raises(RunError, match=r"not a run folder: it has no recipe.yaml"):
        RunFolder.open(tmp_path)
    (tmp_path / "pipeline.json").write_text("{}")
    with pytest.raises(RunError, match=r"it is a pipeline; name one of its runs, such as \S*moved"):
        RunFolder.open(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(RunError, match=r"it is a sweep; name one of its runs$"):
        RunFolder.open(tmp_path / "sweep")
