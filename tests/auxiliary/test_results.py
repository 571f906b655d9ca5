import csv
import json

import pytest

from taskloom.auxiliary.results import results_sheet
from taskloom.errors import RunError
from taskloom.recipe import Recipe
from taskloom.runs import RunFolder


def run(folder, name, seed, rate, f1=None, finished=True, split="test", tasks=("stance",)):
    """Make the folder of a run that scored `f1` before the final fine-tuning and 0.1 more after it."""
    recipe = Recipe.model_validate(
        {
            "name": name,
            "seed": seed,
            "output": folder / name,
            "model": {"path": "roberta-base"},
            "tasks": ["glue/rte"],
            "auxiliary": {"space": "tapt", "auxiliary_lr": rate},
        }
    )
    with RunFolder.create(folder / name, recipe) as made:
        if f1 is not None:
            scores = {task: {"f1": f1, "accuracy": f1 / 2} for task in tasks}
            after = {task: {"f1": f1 + 0.1, "accuracy": None} for task in tasks}
            (made.path / "auxiliary.json").write_text(json.dumps({"pre": scores, "post": after, "split": split}))
        if finished:
            made.mark_finished()
    return folder / name


def test_a_row_a_setting_over_its_seeds(tmp_path):
    folders = [
        run(tmp_path, "a0", 0, 0.1, 0.5),
        run(tmp_path, "b0", 0, 1.0, 0.8),
        run(tmp_path, "a1", 1, 0.1, 0.7),
        run(tmp_path, "a2", 2, 0.1, 0.6),
    ]
    sheet = results_sheet(folders)
    assert sheet.columns == (
        "auxiliary.auxiliary_lr", "split", "seeds",
        "pre.f1.mean", "pre.f1.std", "pre.accuracy.mean", "pre.accuracy.std", "post.f1.mean", "post.f1.std",
    )  # fmt: skip
    first, second = sheet.rows
    assert (first["auxiliary.auxiliary_lr"], first["seeds"], first["split"]) == (0.1, 3, "test")
    assert first["pre.f1.mean"] == pytest.approx(0.6)
    assert first["pre.f1.std"] == pytest.approx((0.02 / 3) ** 0.5)
    assert first["post.f1.mean"] == pytest.approx(0.7)
    assert (second["seeds"], second["pre.f1.mean"], second["pre.f1.std"]) == (1, 0.8, 0)
    assert sheet.notes == []
    sheet.write(tmp_path / "sheet.csv")
    with (tmp_path / "sheet.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["auxiliary.auxiliary_lr"] for row in rows] == ["0.1", "1"]
    assert rows[0]["pre.f1.std"] == "0.0816497"


def test_what_cannot_be_counted_is_said(tmp_path):
    folders = [
        run(tmp_path, "good", 0, 0.1, 0.5),
        run(tmp_path, "running", 1, 0.1, 0.9, finished=False),
        run(tmp_path, "plain", 2, 0.1),
        run(tmp_path, "twin", 0, 0.1, 0.7),
        run(tmp_path, "changed", 3, 0.1, 0.7),
        tmp_path / "nowhere",
    ]
    (tmp_path / "changed" / "auxiliary.json").write_text("[]")
    sheet = results_sheet(folders)
    assert [(row["seeds"], row["pre.f1.mean"]) for row in sheet.rows] == [(1, 0.5)]
    assert sheet.columns[:2] == ("split", "seeds")
    endings = [
        "running: this run is not finished",
        "plain: a run without auxiliary objectives: it has no auxiliary.json",
        "changed/auxiliary.json: expected the scores pre, post and the split: the file was changed",
        "nowhere: there is no such run folder",
        f"twin: the setting and seed of {tmp_path / 'good'} again",
    ]
    assert all(note.endswith(ending) for note, ending in zip(sheet.notes, endings, strict=True))
    with pytest.raises(RunError, match=r"no finished runs to compare\nleft out: .*running: this run is not finished"):
        results_sheet(folders[1:2])


def test_several_tasks_and_no_final_finetuning(tmp_path):
    folder = run(tmp_path, "two", 0, 0.1, 0.5, tasks=("rte", "stance"))
    written = json.loads((folder / "auxiliary.json").read_text())
    (folder / "auxiliary.json").write_text(json.dumps({**written, "post": None}))
    sheet = results_sheet([folder])
    assert [column for column in sheet.columns if column.endswith("mean")] == [
        "pre.rte.f1.mean", "pre.rte.accuracy.mean", "pre.stance.f1.mean", "pre.stance.accuracy.mean",
    ]  # fmt: skip


def test_scores_of_different_splits_are_not_mixed(tmp_path):
    folders = [run(tmp_path, "a", 0, 0.1, 0.5), run(tmp_path, "b", 1, 0.1, 0.9, split="dev")]
    assert [(row["split"], row["seeds"]) for row in results_sheet(folders).rows] == [("test", 1), ("dev", 1)]
