"""`taskloom affinity`, `group`, and `train groups=`, as a user types them."""

import json

import pytest

from tests.cli.command import files, refused, run


@pytest.fixture
def measured(project, capsys):
    outcome = run(capsys, "affinity", "tiny.yaml", "affinity.C=1.0")
    assert outcome.code == 0, outcome.err
    return project, outcome


def test_affinity_group_and_train(measured, capsys):
    project, outcome = measured
    assert "sentiment" in outcome.out
    assert "best with" in outcome.out
    assert "taskloom group" in outcome.err

    grouped = run(capsys, "group", "runs/tiny", "--k", "2", "--json")
    assert grouped.code == 0, grouped.err
    groups = json.loads(grouped.out)["groups"]
    assert len(groups) == 2

    trained = run(capsys, "train", "tiny.yaml", "groups=runs/tiny", "output=runs/grouped", "--json")
    assert trained.code == 0, trained.err
    scores = json.loads(trained.out)
    assert scores["mean"].keys() == {"groups", "all", "single"}
    assert scores["dev"]["groups"].keys() == {"sentiment", "same", "strength"}
    # The run that the groups came from is the model for all tasks; a group of one is the model of its task.
    assert scores["dev"]["all"] == json.loads((project / "runs/tiny/scores.json").read_text())["dev"]
    alone = next(group[0] for group in groups if len(group) == 1)
    assert scores["dev"]["groups"][alone] == scores["dev"]["single"][alone]
    folders = {path.name for path in (project / "runs/grouped").iterdir()}
    assert {"group-1", "group-2", "single", "summary.md", "scores.json", "finished.json"} <= folders
    assert "all" not in folders
    assert "| all |" in (project / "runs/grouped/summary.md").read_text().splitlines()[0]

    assert "holds a run already" in refused(capsys, "train", "tiny.yaml", "groups=runs/tiny", "output=runs/grouped")
    assert "one model a group" in refused(capsys, "evaluate", "runs/grouped")


def test_steps_are_shared_out_by_examples(measured, capsys):
    project, _ = measured
    (project / "groups.json").write_text('[["sentiment"], ["same", "strength"]]')
    settings = ("groups=groups.json", "group_against=[]", "output=runs/grouped")
    outcome = run(capsys, "train", "tiny.yaml", *settings, "--json")
    assert outcome.code == 0, outcome.err
    steps = []
    for number in (1, 2):
        log = project / f"runs/grouped/group-{number}/metrics.jsonl"
        steps.append(max(json.loads(line)["step"] for line in log.read_text().splitlines()))
    assert steps == [2, 4]  # six steps over 120 examples, 40 and 80 of them


def test_affinity_goes_on_from_a_run_folder(measured, capsys):
    project, _ = measured
    before = files(project / "runs/tiny/affinity/gradients")
    outcome = run(capsys, "affinity", "runs/tiny", "affinity.order=higher", "affinity.subset_size=2", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["tasks"] == ["sentiment", "same", "strength"]
    assert files(project / "runs/tiny/affinity/gradients") == before


def test_only_some_tasks(project, capsys):
    outcome = run(capsys, "train", "tiny.yaml", "only=[strength, sentiment]", "--json")
    assert outcome.code == 0, outcome.err
    assert list(json.loads(outcome.out)["dev"]) == ["sentiment", "strength"]
    told = refused(capsys, "train", "tiny.yaml", "only=[sentiments]", "output=runs/other")
    assert "only: there is no task 'sentiments' among the tasks. Did you mean 'sentiment'?" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("group", "runs/none"), "runs/none: there is no such run folder"),
        (("group", "runs/none", "--k", "two"), "expected a number of groups from 1 on, or auto; found 'two'"),
        (("affinity", "tiny.yaml", "only=[same]"), "there is only one; affinity is between two or more"),
        (
            ("affinity", "tiny.yaml", "affinity.subsets=9"),
            "belongs to affinity.order=higher, but the order is pairwise",
        ),
        (
            ("affinity", "tiny.yaml", "affinity.order=higher", "affinity.subset_size=2", "affinity.subsets=2"),
            "affinity.subsets: 2 subsets of 2 tasks cannot hold every pair of 3 tasks: expected 3 at least",
        ),
        (("affinity", "tiny.yaml", "affinity.members=3"), "is 3, which does not divide affinity.dimensions (200)"),
        (("affinity", "tiny.yaml", "affinity.C=-1"), "affinity.C"),
        (("train", "tiny.yaml", "groups=runs/none"), "groups: there is no file"),
        (("train", "tiny.yaml", "groups=broken.json"), "must hold lists of task names"),
        (("train", "tiny.yaml", "groups=twice.json"), "task 'same' is in 2 groups; each task must be in one"),
        (("train", "tiny.yaml", "groups=less.json"), "task 'strength' is in no group"),
        (("train", "tiny.yaml", "groups=more.json"), "the recipe has no task 'rte'"),
    ],
)
def test_mistakes(project, capsys, arguments, message):
    (project / "broken.json").write_text('{"groups": ["same"]}')
    (project / "twice.json").write_text('[["same", "sentiment"], ["same", "strength"]]')
    (project / "less.json").write_text('[["same", "sentiment"]]')
    (project / "more.json").write_text('[["same", "sentiment"], ["strength", "rte"]]')
    assert message in refused(capsys, *arguments)


def test_interrupted_collection_says_how_to_go_on(project, capsys, monkeypatch):
    from taskloom.affinity import collect

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, "write_shard", interrupted)
    outcome = run(capsys, "affinity", "tiny.yaml", "affinity.examples=9")
    assert outcome.code == 130
    assert "Continue with: taskloom affinity tiny.yaml affinity.examples=9" in outcome.err
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert run(capsys, "affinity", "tiny.yaml", "affinity.examples=9").code == 0
