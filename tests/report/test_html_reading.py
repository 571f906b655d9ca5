"""What the report reads from run folders: kinds, settings, and what is damaged or missing."""

import json
from pathlib import Path

import pytest

from taskloom.errors import RunError
from taskloom.report.html.reading.affinities import read_affinity
from taskloom.report.html.reading.answers import read_answers
from taskloom.report.html.reading.files import Files, Notes, number
from taskloom.report.html.reading.find import find_runs
from taskloom.report.html.reading.settings import Spread, differing_fields, settings
from taskloom.report.html.reading.streams import token_weights
from taskloom.report.html.reading.sweeps import read_sweep
from tests.report.folders import (
    write_affinity,
    write_generations,
    write_json,
    write_objectives,
    write_pipeline,
    write_run,
    write_stream,
    write_sweep,
)


def names(*folders: Path) -> dict[str, str]:
    return {run.name: run.kind for run in find_runs(folders).runs}


def test_folders_are_told_apart(tmp_path):
    write_run(tmp_path / "demo" / "plain")
    write_run(tmp_path / "demo" / "aux", auxiliary={"space": "full"})
    write_sweep(tmp_path / "sweep")
    write_stream(tmp_path / "online")
    (tmp_path / "demo" / "tasks").mkdir()
    assert names(tmp_path / "demo", tmp_path / "sweep", tmp_path / "online") == {
        "demo/aux": "auxiliary",
        "demo/plain": "train",
        "sweep": "sweep",
        "online/adapt-learned": "adapt",
        "online/meta-train": "meta-train",
    }


def test_a_folder_that_all_runs_lie_in_is_not_named(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / "demo" / name)
    assert list(names(tmp_path / "demo")) == ["a", "b"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    write_run(tmp_path / "run")
    for folder, message in (("empty", "holds no run"), ("file", "a file, expected"), ("gone", "there is no such")):
        with pytest.raises(RunError, match=message):
            find_runs([tmp_path / "run", tmp_path / folder])


def test_the_same_folder_twice_is_one_run_and_equal_names_are_told_apart(tmp_path):
    write_run(tmp_path / "a" / "run")
    write_run(tmp_path / "b" / "run")
    assert list(names(tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "a" / "run")) == ["a/run", "b/run"]


def test_ways_of_a_grouped_run_have_its_scores_and_their_parts_logs(tmp_path):
    run = write_run(tmp_path / "grouped", groups="elsewhere")
    parts = {"group-1": {"rte": 0.6}, "group-2": {"mrpc": 0.9}}
    for name, scores in parts.items():
        write_run(run / name, scores)
    assert [each.name for each in find_runs([run]).runs] == ["grouped", "grouped"]  # not finished: one way, its groups
    dev = {"groups": {"rte": {"accuracy": 0.6}, "mrpc": {"accuracy": 0.9}}, "all": {"rte": {"accuracy": 0.5}}}
    content = {"groups": [["rte"], ["mrpc"]], "mean": {"groups": 0.75, "all": 0.5}, "dev": dev, "majority": {}}
    (run / "scores.json").write_text(json.dumps(content))
    whole, groups, everything = find_runs([run]).runs
    assert (whole.kind, whole.tasks, whole.mean) == ("groups", ["rte", "mrpc"], 0.75)
    assert (groups.name, everything.name) == ("grouped: groups", "grouped: all")
    assert (groups.kind, groups.mean, groups.dev["mrpc"]) == ("way", 0.75, {"accuracy": 0.9})
    assert groups.history.dev["mrpc"][-1] == (20, 0.9)
    assert groups.history.dev["rte"][-1] == (20, 0.6)
    assert (everything.mean, everything.dev) == (0.5, {"rte": {"accuracy": 0.5}})


def test_a_pipeline_shows_its_stages_runs_and_reads_nothing_outside_its_folder(tmp_path):
    write_run(tmp_path / "outside")
    folder = tmp_path / "pipeline"
    write_run(folder / "train")
    write_pipeline(folder, {"first": "train", "again": "train", "escape": "../outside", "gone": "nowhere"})
    found = find_runs([folder])
    assert [run.name for run in found.runs] == ["pipeline/first"]
    (pipeline,) = found.pipelines
    assert pipeline.name == "my pipeline"
    assert [(stage.name, stage.status) for stage in pipeline.stages][-1] == ("later", "failed")
    assert pipeline.stages[0].seconds == 61.5
    assert pipeline.stages[-1].message == "no disk left"


def test_seeds_of_one_recipe_are_one_setting(tmp_path):
    runs = [write_run(tmp_path / f"seed-{seed}", {"rte": 0.5 + seed / 10}, seed=seed) for seed in range(3)]
    other = write_run(tmp_path / "other", {"rte": 0.9}, training={"learning_rate": 0.5})
    found = find_runs([*runs, other]).runs
    first, second = settings(found)
    assert len(settings([*found, *found])) == 4  # the same seeds again are no further ones
    assert (first.name, first.seeds) == ("seed-0 (3 seeds)", 3)
    assert second.name == "other"
    spread = Spread(tuple(run.mean or 0 for run in first.runs))
    assert spread.mean == pytest.approx(0.6)
    assert spread.std == pytest.approx(0.1)
    assert differing_fields(found) == {
        "seed": [0, 1, 2, 0],
        "training.learning_rate": [0.001, 0.001, 0.001, 0.5],
    }


def test_damaged_files_are_named_with_their_line(tmp_path):
    run = write_run(tmp_path / "run")
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([*lines[:2], "{broken\n", *lines[3:], '{"step": 99, "loss"']))
    (run / "environment.json").write_text('{"a": 1,\n"b": }')
    (run / "scores.json").write_text("[1]")
    (run / "recipe.yaml").write_text("a: 1\nb: [\n")
    (found,) = find_runs([run]).runs
    assert found.history.steps == 20  # the cut last line is not damage
    assert len(found.history.whole["loss"]) == 9
    assert (found.environment, found.scores, found.recipe) == ({}, {}, {})
    notes = "\n".join(found.notes)
    assert f"{log}:3: not a JSON object" in notes
    assert f"{run / 'environment.json'}:2: not JSON" in notes
    assert f"{run / 'scores.json'}: expected a JSON object" in notes
    assert f"{run / 'recipe.yaml'}:3: not YAML" in notes
    assert len(found.notes) == 4


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "null", '"text"', "1e999", "", '{"mean": "x", "dev": [1], "majority": 3}']
)
def test_scores_of_any_kind_are_survived(tmp_path, content):
    run = write_run(tmp_path / "run")
    (run / "scores.json").write_text(content)
    (found,) = find_runs([run]).runs
    assert (found.mean, found.dev, found.majority) == (None, {}, {})


def test_numbers():
    assert [number(value) for value in (1, 2.5, "3", True, None, "x", float("nan"), "inf", [], 10**400)] == [
        1.0,
        2.5,
        3.0,
        *[None] * 7,
    ]


def test_csv_rows_of_another_width_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3\n4,5\n6,")
    notes = Notes()
    assert Files(tmp_path, notes).csv("a.csv") == [{"x": "1", "y": "2"}, {"x": "4", "y": "5"}]
    assert [line.removeprefix(str(tmp_path)) for line in notes] == ["/a.csv:3: 1 values under 2 columns: left out"]


def test_affinity_is_put_in_the_order_of_the_groups(tmp_path):
    run = write_run(tmp_path / "run")
    write_affinity(run, ["a", "b", "c"], [["c", "a"], ["b"]])
    (found,) = find_runs([run]).runs
    matrix = read_affinity(found)
    assert matrix is not None
    assert (matrix.tasks, matrix.groups) == (["c", "a", "b"], [[0, 1], [2]])
    stored = json.loads((run / "affinity" / "affinity.json").read_text())["gain"]
    assert matrix.gain[0][1] == stored[2][0]
    assert matrix.gain[1][2] == stored[0][1]


def test_damaged_affinity_and_groups_are_noted(tmp_path):
    run = write_run(tmp_path / "run")
    write_affinity(run, ["a", "b"], [["a"], ["a"]])
    (found,) = find_runs([run]).runs
    matrix = read_affinity(found)
    assert matrix is not None
    assert not matrix.grouped
    assert "is no partition" in next(iter(found.notes))
    content = json.loads((run / "affinity" / "affinity.json").read_text())
    (run / "affinity" / "affinity.json").write_text(json.dumps(content | {"gain": [[1, 2]]}))
    (found,) = find_runs([run]).runs
    assert read_affinity(found) is None
    assert "expected 2 rows of 2 numbers under 'gain'" in "\n".join(found.notes)


def test_answers_of_runs_to_one_question_stand_together(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    write_generations(runs[0], 3)
    write_generations(runs[1], 4, answer="Rome")
    questions = read_answers(list(find_runs(runs).runs))
    assert len(questions) == 4
    assert {name: answer for name, (answer, _) in questions[1].answers.items()} == {"a": "Paris", "b": "Rome"}
    assert list(questions[3].answers) == ["b"]


def test_a_sweep_is_sorted_and_survives_damage(tmp_path):
    folder = write_sweep(tmp_path / "sweep")
    (folder / "trials" / "t2" / "seed-0-outcome.json").write_text("{")
    (run,) = find_runs([folder]).runs
    sweep = read_sweep(run)
    assert [(row.settings["training.learning_rate"], row.status) for row in sweep.rows] == [
        (0.01, "ok"),
        (0.01, "ok"),
        (0.001, "ok"),
        (0.1, "ok"),
        (0.1, "failed"),
    ]
    assert sweep.rows[0].mean == pytest.approx(0.75)
    assert sweep.rows[0].std == pytest.approx(0.05 * 2**0.5)
    assert sweep.planned == 6
    assert any("t2/seed-0-outcome.json:1" in note for note in run.notes)


def test_token_weights_of_the_latest_step(tmp_path):
    folder = write_stream(tmp_path / "online", "a b")
    meta = folder / "meta-train"
    bad = {
        "documents": [
            {"title": "x", "tokens": ["a"], "weights": []},
            {"title": "y", "tokens": ["b"], "weights": [None]},
        ]
    }
    (meta / "weights" / "step-000010.json").write_text(json.dumps(bad))
    (run,) = find_runs([meta]).runs
    step, (document,) = token_weights(run)
    assert (step, document.title, document.finite) == (10, "y", [])
    assert "as many weights as tokens" in next(iter(run.notes))


def test_token_weights_of_a_streams_first_documents(tmp_path):
    adapt = write_stream(tmp_path / "online") / "adapt-learned"
    assert token_weights(find_runs([adapt]).runs[0]) == (None, [])
    documents = [{"title": "x", "tokens": ["a", "b"], "weights": [1.0, -2.0]}]
    write_json(adapt / "weights" / "documents.json", {"documents": documents})
    step, (document,) = token_weights(find_runs([adapt]).runs[0])
    assert (step, document.title, document.tokens, document.weights) == (None, "x", ["a", "b"], [1.0, -2.0])


def test_what_meta_training_writes_is_what_is_read(tmp_path):
    from taskloom.report.token_weights import TokenWeights

    written = vars(TokenWeights("t", ["a", "b"], [1.0, -2.0]))
    assert written == {"title": "t", "tokens": ["a", "b"], "weights": [1.0, -2.0]}


def test_objectives_of_a_run_without_a_ranking(tmp_path):
    from taskloom.report.html.reading.objectives import read_objectives

    run = write_run(tmp_path / "run", auxiliary={"space": "full"})
    write_objectives(run)
    (run / "objectives.csv").unlink()
    (found,) = find_runs([run]).runs
    objectives = read_objectives(found)
    assert objectives is not None
    assert objectives.ranking == []
    assert len(objectives.weights) == 12
    assert objectives.stages["transform"]["mask"][-1] == (45.0, 0.95)
    assert objectives.post == {"rte": {"f1": 0.65}}
