"""What the user can mend is told in one message with exit code 2; a fault of ours keeps its traceback."""

import errno
import logging

import pytest

from taskloom.cli.errors import MOST_ALIKE, _WarningLine, plain_errors
from taskloom.errors import DataError, did_you_mean, listed
from tests.cli.command import refused, run


class OutOfMemoryError(RuntimeError):
    """Stands for torch.OutOfMemoryError, which is told by its name."""


def test_long_lists_are_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(task) for task in range(200)]).endswith("13, 14, and 185 more")
    assert did_you_mean("zzz", [f"task-{number}" for number in range(31)]).endswith("task-14, and 16 more.")


def test_of_many_warnings_of_one_kind_the_first_are_shown(capsys):
    logger = logging.Logger("of this test")
    logger.addHandler(_WarningLine())
    for task in range(50):
        logger.warning("%s and were cut", f"task {task}")
    logger.warning("another")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: task 0 and were cut"
    assert lines[MOST_ALIKE - 1] == f"warning: task {MOST_ALIKE - 1} and were cut (more of this kind are not shown)"
    assert lines[MOST_ALIKE:] == ["warning: another"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("dev.tsv:3: no label"), "error: dev.tsv:3: no label\n"),
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
            "error: out of memory. Lower training.batch_",
        ),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried"),
            "error: out of memory. Lower training.batch",
        ),
        (MemoryError(), "error: out of memory. Lower training.batch_size"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "error: runs/x: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs"), "error: /runs: Permission denied\n"),
    ],
)
def test_the_users_problems_are_one_message(capsys, error, message):
    with pytest.raises(SystemExit) as end, plain_errors():
        raise error
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(message)
    with pytest.raises(type(error)), plain_errors(debug=True):
        raise error


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shape mismatch"), FileNotFoundError(2, "gone", "x")])
def test_faults_of_ours_are_not_hidden(error):
    with pytest.raises(type(error)), plain_errors():
        raise error


def test_out_of_memory_of_this_torch_is_recognised(capsys):
    torch = pytest.importorskip("torch")
    with pytest.raises(SystemExit), plain_errors():
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert "out of memory" in capsys.readouterr().err


def test_debug_shows_the_traceback_wherever_it_stands(capsys):
    from taskloom.cli import main
    from taskloom.errors import RecipeError

    assert "no such file" in refused(capsys, "train", "nowhere.yaml")
    for arguments in (["--debug", "train", "nowhere.yaml"], ["train", "nowhere.yaml", "--debug"]):
        with pytest.raises(RecipeError, match="no such file"):
            main(arguments)


def test_a_recipe_mistake_names_file_line_and_nearest_key(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {path: m}\ntasks: [glue/rte]\ntraining:\n  epoch: 3\n")
    assert refused(capsys, "train", recipe) == (
        f"{recipe}:4: unknown key 'training.epoch'. Did you mean 'training.epochs'?"
    )
    recipe.write_text("model: {path: m}\ntasks: [glue/rte]\n")
    assert refused(capsys, "train", recipe, "sampling.strategie=uniform") == (
        "unknown key 'sampling.strategie'. Did you mean 'sampling.strategy'?"
    )


def test_a_packaged_recipe_asks_for_its_data(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused(capsys, "train", "ca-mtl/glue-minilm")
    assert told.endswith("data.dir is required: set it with data.dir=FOLDER")
    assert not list(tmp_path.iterdir())


def test_missing_runs_are_told(capsys, tmp_path):
    pytest.importorskip("torch")
    assert refused(capsys, "evaluate", tmp_path / "none") == f"{tmp_path / 'none'}: there is no such run folder"
    assert "not a run folder" in refused(capsys, "predict", tmp_path, "--task", "rte", "--input", "x.csv")


def test_predict_checks_its_output_before_anything_else(capsys, tmp_path):
    given = ["predict", tmp_path, "--task", "rte", "--input", tmp_path / "x.csv", "--output"]
    assert "unknown format '.xlsx', expected one of .jsonl, .csv, .tsv, .parquet" in refused(capsys, *given, "y.xlsx")
    assert "is the input file itself" in refused(capsys, *given, tmp_path / "x.csv")
    outcome = run(capsys, *given[:-1], "--batch-size", "0")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
