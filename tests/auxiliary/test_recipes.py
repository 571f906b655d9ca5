"""The recipes of published grids say what was published, and every recipe names a search space that there is."""

import json
import re

import pytest

from taskloom.auxiliary.space import SearchSpace
from taskloom.recipe import Recipe, load_recipe, packaged_recipes
from tests.support import real_data

NAMES = [name for name in packaged_recipes() if name.startswith("auxiliary/")]
GRIDS = {
    "partial_big", "partial_big_1", "hyperpartisan", "hyperpartisan_1", "partial_multi", "partial_onetask",
    "hyperpartisan_onetask", "full", "test",
}  # fmt: skip
#: The published names, and the fields that they are here.
FIELDS = {
    "auxlr": "auxiliary.auxiliary_lr",
    "soptlr": "auxiliary.primary_lr",
    "classflr": "training.head_learning_rate",
    "nconf_samp": "auxiliary.objectives_per_step",
    "auxbsz": "auxiliary.batch_size",
    "wfrac": "training.warmup",
}


def loaded(name: str) -> Recipe:
    given = ["data.dir=data"]
    if name.endswith("full-space"):
        given += ["auxiliary.in_domain=a.txt", "auxiliary.out_domain=[b.txt]"]
    return load_recipe(name, given)


def value(recipe: Recipe, field: str):
    section, name = field.split(".")
    return getattr(getattr(recipe, section), name)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_and_its_space_fits_its_tasks(name):
    recipe = loaded(name)
    tasks = [task["name"] if isinstance(task, dict) else task.rpartition("/")[2] for task in recipe.tasks]
    assert len(SearchSpace.read(recipe.auxiliary.space, tasks)) >= 1
    for field, values in recipe.sweep.grid.items():
        # The recipe as it stands is a setting of its grid; the first.
        assert value(recipe, field) == values[0]
    assert recipe.description


@pytest.mark.real_data
def test_the_grids_are_the_published_ones():
    text = real_data("..", "references", "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\{.*\}) \|$", text, re.M))
    assert set(rows) == GRIDS
    for name, row in rows.items():
        recipe, published = loaded(f"auxiliary/{name}"), {"wfrac": [0.06], **json.loads(row)}
        (primary,) = published.pop("primbsz")
        assert recipe.training.batch_size * recipe.training.gradient_accumulation == primary, name
        several = {FIELDS[key]: values for key, values in published.items() if len(values) > 1}
        assert recipe.sweep.grid == several, name
        for key, values in published.items():
            assert value(recipe, FIELDS[key]) == values[0], (name, key)


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_what_the_search_command_sets_for_every_grid(name):
    recipe = loaded(f"auxiliary/{name}")
    training, auxiliary = recipe.training, recipe.auxiliary
    assert (recipe.model.path, recipe.model.head_dropout) == ("roberta-base", 0.3)
    assert (recipe.data.max_length, recipe.sweep.seeds) == (512, 3)
    assert (training.learning_rate, training.weight_decay, training.warmup) == (1e-4, 0.01, 0.06)
    assert (training.epochs, training.early_stopping, training.evaluate_every) == (150, 10, 30)
    assert training.schedule == "linear"
    assert (auxiliary.step_every, auxiliary.transform_temperature, auxiliary.pure_transform) == (3, 0.5, True)
    assert (auxiliary.dev_batch_size, auxiliary.dev_head_weight_decay) == (32, 0.1)
    assert (auxiliary.probability, auxiliary.density, auxiliary.max_grad_norm) == (0.15, 0.6, 10)
    assert (auxiliary.factored, auxiliary.update) == (True, "additive")
    assert (auxiliary.final_finetuning, auxiliary.final_learning_rate, auxiliary.final_patience) == (True, 1e-6, 3)
