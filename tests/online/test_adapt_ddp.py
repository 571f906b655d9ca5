"""A stream read by two processes: the updates are made alike, the questions are shared, the files are written once."""

import json

from safetensors.torch import load_file

from taskloom.online.stages.adapt import adapt_stage
from taskloom.recipe import load_recipe
from tests.online.tiny_project import write_project
from tests.two_processes import launch


def test_two_processes_end_where_one_does(tmp_path, monkeypatch):
    folder = write_project(tmp_path)
    monkeypatch.chdir(folder)
    settings = ["weighter.kind=uniform", f"adapt.base={folder}/lm", "adapt.checkpoint_every=3"]
    one = adapt_stage(load_recipe("r.yaml", [*settings, f"output={folder}/one"]), quiet=True)
    launch("tests.online.adapt_processes", str(folder / "r.yaml"), *settings, f"output={folder}/two")
    two = folder / "two" / one.path.name

    assert json.loads((two / "scores.json").read_text()) == json.loads((one.path / "scores.json").read_text())
    assert (two / "documents.jsonl").read_text().count("\n") == (one.path / "documents.jsonl").read_text().count("\n")
    weights = sorted(path.relative_to(one.path) for path in one.path.rglob("*.safetensors"))
    assert weights
    for name in weights:
        before, after = load_file(one.path / name), load_file(two / name)
        assert before.keys() == after.keys()
        assert all(before[key].equal(after[key]) for key in before), name
