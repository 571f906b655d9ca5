import json
import random
import shutil
from pathlib import Path

import pytest
import yaml

from taskloom.errors import RecipeError, RunError
from taskloom.pipeline import dry_run, run_pipeline
from taskloom.recipe import load_recipe
from tests.kills import killed_at
from tests.tiny import tiny_encoder, tiny_tasks, write_jsonl

STAGES = ["train", "affinity", "group", {"stage": "train-groups", "name": "groups"}, "evaluate"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a recipe, whose pipeline was run once, and a copy of it."""
    folder = tmp_path_factory.mktemp("pipeline") / "project"
    folder.mkdir()
    (folder / "r.yaml").write_text(
        yaml.safe_dump(
            {
                "output": str(folder / "out"),
                "model": {"path": str(tiny_encoder(folder / "model", layers=1))},
                "tasks": tiny_tasks(folder / "data", examples=24),
                "data": {"max_length": 16, "cache": str(folder / "cache")},
                "training": {"max_steps": 4, "batch_size": 6, "evaluate_every": 2, "checkpoint_every": 2},
                "affinity": {"examples": 10, "validation_examples": 10, "dimensions": 8},
                "group_against": [],
                "pipeline": {"stages": STAGES},
            }
        )
    )
    run_pipeline(load_recipe(folder / "r.yaml"), quiet=True)
    shutil.copytree(folder, folder.with_name("copy"))
    return folder


@pytest.fixture
def project(made, monkeypatch):
    """The project as it was after that run, as the working folder: paths are part of a recipe."""
    monkeypatch.chdir(made.parent)
    shutil.rmtree(made)
    shutil.copytree(made.with_name("copy"), made)
    monkeypatch.chdir(made)
    return made


def run(*settings, **options):
    """Run the pipeline and return the names of the stages whose results were written."""
    before = written()
    run_pipeline(load_recipe("r.yaml", list(settings)), quiet=True, **options)
    return {name for name, time in written().items() if before.get(name) != time}


RESULTS = {
    "train": "train/finished.json",
    "affinity": "train/affinity/affinity.json",
    "groups": "groups/finished.json",
    "evaluate": "evaluate/scores.json",
}


def written():
    """Return when each result was written: a folder that moves keeps the time."""
    files = {name: Path("out", path) for name, path in RESULTS.items()}
    return {name: file.stat().st_mtime_ns if file.is_file() else None for name, file in files.items()}


def states(*settings):
    return {step.name: step.state for step in dry_run(load_recipe("r.yaml", list(settings)))}


def scores():
    return {path: json.loads(Path("out", path).read_text()) for path in ("groups/scores.json", "evaluate/scores.json")}


def test_nothing_runs_twice_and_what_changed_runs_again(project):
    first, times = scores(), written()
    assert run() == set()
    assert set(states().values()) == {"finished"}

    # Settings of affinity leave the model as it is.
    assert states("affinity.examples=12") == {
        "train": "finished",
        "affinity": "changed",
        "group": "waits",
        "groups": "waits",
        "evaluate": "waits",
    }
    assert "affinity" in run("affinity.examples=12") <= {"affinity", "groups", "evaluate"}
    assert written()["train"] == times["train"]

    # Back again: the former results are taken back, and nothing is computed.
    assert states()["affinity"] == "stored"
    run()
    assert written() == times
    assert scores() == first

    # Settings of the training concern everything.
    assert run("training.learning_rate=1e-3") == set(RESULTS)
    assert (Path("out") / "train" / "recipe.yaml").read_text().count("0.001")
    run()
    assert written() == times
    assert scores() == first


def test_settings_that_do_not_matter_and_names_are_no_change(project):
    assert run("data.workers=1", "training.keep_checkpoints=1", "sweep.seeds=2", "description=other") == set()
    assert run(f"pipeline.stages={json.dumps([*STAGES[:-1], {'stage': 'evaluate', 'split': 'dev'}])}") == set()


def test_the_content_of_the_data_counts_and_not_its_file(project):
    path = project / "data" / "sentiment" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_jsonl(path, rows)  # another time of change, the same rows
    assert run() == set()
    rows[0]["text"] = "not very good"
    write_jsonl(path, rows)
    (step, *_) = dry_run(load_recipe("r.yaml"))
    assert (step.name, step.state, step.changes) == ("train", "changed", ["content of tasks"])
    assert run() == set(RESULTS)


def test_the_content_of_the_model_counts(project):
    config = project / "model" / "config.json"
    config.write_text(config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-6'))
    (step, *_) = dry_run(load_recipe("r.yaml"))
    assert step.changes == ["content of model.path"]


def test_groups_are_trained_again_only_if_they_are_others(project):
    def grouped(k):
        return f"pipeline.stages={json.dumps([*STAGES[:2], {'stage': 'group', 'k': k}, *STAGES[3:]])}"

    run(grouped(2))
    assert run(grouped(3)) == {"groups", "evaluate"}
    assert sorted(len(group) for group in json.loads(Path("out/groups/scores.json").read_text())["groups"]) == [1, 1, 1]
    assert run(grouped(3)) == set()


def test_one_stage_alone_and_anew(project):
    Path("out/evaluate/scores.json").unlink()
    assert run(only=["evaluate"]) == {"evaluate"}
    assert run(again=["affinity"]) == {"affinity"}
    assert not (Path("out") / "set-aside").exists()  # of the same content there is one result
    shutil.rmtree("out/groups")
    with pytest.raises(RunError, match=r"--only evaluate: needs the stage 'groups', which is not finished"):
        run(only=["evaluate"])
    with pytest.raises(RunError, match=r"'train', which is not up to date \(training.max_steps: 4 -> 5\)"):
        run("training.max_steps=5", only=["evaluate"])
    with pytest.raises(RecipeError, match=r"--only evalute: the pipeline has no such stage. Did you mean 'evaluate'\?"):
        run(only=["evalute"])


def test_what_became_of_the_stages_is_written(project):
    content = json.loads(Path("out/pipeline.json").read_text())
    assert [stage["name"] for stage in content["stages"]] == ["train", "affinity", "group", "groups", "evaluate"]
    assert {stage["status"] for stage in content["stages"]} == {"done"}
    assert [stage["folder"] for stage in content["stages"]] == ["train", "train", "train", "groups", "evaluate"]
    assert all((Path("out") / stage["result"]).is_file() and stage["seconds"] > 0 for stage in content["stages"])
    evaluated = json.loads(Path("out/evaluate/scores.json").read_text())
    for name in ("train", "groups"):  # the best models score what their trainings say
        trained = json.loads(Path("out", name, "scores.json").read_text())["dev"]
        expected = trained if name == "train" else trained["groups"]
        assert evaluated["scores"][name] == {task: pytest.approx(found) for task, found in expected.items()}


def test_a_mistake_names_its_stage_and_stays_in_pipeline_json(project):
    with pytest.raises(RecipeError, match=r"stage 'affinity': affinity"):
        run("affinity.order=higher", "affinity.subset_size=9")
    found = {stage["name"]: stage for stage in json.loads(Path("out/pipeline.json").read_text())["stages"]}
    assert found["train"]["status"] == "done"
    assert (found["affinity"]["status"], found["groups"]["status"]) == ("failed", "waiting")
    assert "subset" in found["affinity"]["message"]
    assert run() >= {"affinity"}


def test_other_folders_are_refused(project):
    with pytest.raises(RunError, match="holds a run, not a pipeline"):
        run("output=out/train")
    Path("file").write_text("")
    with pytest.raises(RunError, match="but this is a file"):
        run("output=file")
    Path("new/train").mkdir(parents=True)
    Path("new/train/notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files that this pipeline did not write"):
        run("output=new")
    assert Path("new/train/notes.txt").read_text() == "mine"


def test_a_marker_that_was_half_written_is_no_foreign_file(project):
    shutil.rmtree("out/evaluate")
    Path("out/evaluate").mkdir()
    Path("out/evaluate/.stage.json.1234.partial").write_text("{")
    assert run() == {"evaluate"}


#: Before and after every move and every piece of work.
PLACES = [
    ("taskloom.pipeline.cache:set_aside", 1),
    ("taskloom.pipeline.cache:write_atomically", 1),
    ("taskloom.pipeline.cache:write_atomically", 2),
    ("taskloom.pipeline.driver:run_stage", 1),
    ("taskloom.pipeline.driver:run_stage", 2),
    ("taskloom.pipeline.driver:run_stage", 4),
    ("taskloom.pipeline.driver:write_atomically", 3),
    ("taskloom.training:MultiTaskTrainer.training_step", 3),
]


def test_killed_anywhere_it_ends_with_the_same_results(project):
    """Change settings, kill, change back half of the time, kill again: the results are those of an unharmed run."""
    run()
    first = scores()
    run("training.learning_rate=1e-3")
    second = scores()
    shutil.rmtree("out/set-aside")
    rng = random.Random(0)
    for number, (place, call) in enumerate(PLACES):
        other = number % 2 == 0
        shutil.rmtree("out/set-aside", ignore_errors=True)
        setting = [] if other else ["training.learning_rate=1e-3"]
        killed_at(place, call, ["run", "r.yaml", *setting], project, after=rng.random() < 0.5)
        run(*setting)
        assert scores() == (first if other else second)
