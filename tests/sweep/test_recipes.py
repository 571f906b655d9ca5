"""The published sweeps as recipes: each plans the trials that were published, and nothing runs."""

import json
import re
from pathlib import Path

import pytest

from taskloom.affinity.subsets import random_subsets
from taskloom.recipe import load_recipe, packaged_recipes
from taskloom.tasks.presets import resolve_tasks
from tests.cli.command import refused, run
from tests.support import real_data

NEEDED = {
    "online/squad-gpt2-xl-rates": ["weighter.path=weighter", "adapt.base=tuned-model"],
    "auxiliary/full-space": ["auxiliary.in_domain=a.txt", "auxiliary.out_domain=[b.txt]"],
}
SWEPT = [name for name, path in packaged_recipes().items() if re.search(r"^sweep:", path.read_text("utf-8"), re.M)]


def plan(capsys, name, *arguments):
    outcome = run(capsys, "sweep", name, "data.dir=data", *NEEDED.get(name, []), *arguments, "--dry-run", "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.mark.parametrize("name", [name for name in SWEPT if name.startswith("auxiliary/")])
def test_every_grid_of_auxiliary_recipes(capsys, name):
    found = plan(capsys, name)
    recipe = load_recipe(name, ["data.dir=data", *NEEDED.get(name, [])])
    assert found["verb"] == "auxiliary"
    assert found["seeds"] == recipe.sweep.seeds
    combinations = 1
    for values in recipe.sweep.grid.values():
        combinations *= len(values)
    assert len(found["settings"]) == combinations == len({json.dumps(each) for each in found["settings"]})


def test_learning_rates_of_camels(capsys):
    found = plan(capsys, "online/squad-gpt2-xl-rates")
    assert (found["verb"], found["metric"], found["seeds"]) == ("online adapt", "after.stream.f1", 1)
    tried = {(each["weighter.kind"], each["adapt.learning_rate"]) for each in found["settings"]}
    rates = (1e-4, 2.5e-5, 6.25e-6, 1.5625e-6)
    assert tried == {(kind, rate) for kind in ("uniform", "salient", "tfidf", "learned") for rate in rates}


def test_ablations_of_hyperdecoders(capsys):
    found = plan(capsys, "hyperdecoders/ablations")
    published = [name for name in packaged_recipes() if name.startswith("hyperdecoders/glue_ablations/")]
    assert [each["recipe"] for each in found["settings"]] == published
    assert len(published) == 19
    # As it stands the recipe is the paper's main model.
    main = load_recipe("hyperdecoders/glue_ablations/glue_manual_generated").model_dump(
        exclude={"sweep", "name", "output", "description"}
    )
    own = load_recipe("hyperdecoders/ablations").model_dump(exclude={"sweep", "name", "output", "description"})
    assert own == main


def test_subset_runs_of_grad_tag(capsys):
    found = plan(capsys, "affinity/rte-templates-subsets")
    assert found["seeds"] == 3
    subsets = [tuple(each["only"]) for each in found["settings"]]
    specs = [{"preset": "instructions/rte", "as": "classification"}]
    names = [task.name for task, _ in resolve_tasks(specs, Path(), has_data_dir=True)]
    assert subsets == random_subsets(names, 10, 20, seed=0)


@pytest.mark.real_data
def test_learning_rates_are_the_published_ones(capsys):
    text = real_data("..", "references", "settings.md").read_text("utf-8")
    listed = re.search(r"learning rates ([\d., e-]+) swept on validation", text)
    assert listed
    published = {float(rate) for rate in listed[1].split(",")}
    tried = {each["adapt.learning_rate"] for each in plan(capsys, "online/squad-gpt2-xl-rates")["settings"]}
    assert tried == published


def test_a_dry_run_writes_nothing_and_refuses_what_a_sweep_refuses(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = run(capsys, "sweep", "ca-mtl/base", "training.learning_rate=1e-5,3e-5", "data.dir=data", "--dry-run")
    assert outcome.code == 0
    assert "1e-05" in outcome.out
    assert "3e-05" in outcome.out
    assert "2 settings x 1 seed of `taskloom train`" in outcome.err
    assert list(tmp_path.iterdir()) == []
    drawn = ["ca-mtl/base", "training.learning_rate=loguniform(1e-6,1e-4)", "data.dir=data", "--trials", "3"]
    outcome = run(capsys, "sweep", *drawn, "--search", "random", "--dry-run", "--json")
    assert len(json.loads(outcome.out)["settings"]) == 3
    assert "TPE" in refused(capsys, "sweep", *drawn, "--search", "tpe", "--dry-run")
    wrong = refused(capsys, "sweep", "ca-mtl/base", "training.learning_rat=1e-5,3e-5", "data.dir=data", "--dry-run")
    assert "learning_rate" in wrong
    assert "ca-mtl/bas" in refused(capsys, "sweep", "ca-mtl/base", "recipe=ca-mtl/bas,ca-mtl/large", "--dry-run")
