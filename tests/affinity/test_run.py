"""From a run to its affinity: the right examples, the right gradients, both evaluations."""

import json

import numpy as np
import pytest
import torch

from taskloom.affinity.folder import AFFINITY_FOLDER, read_affinity
from taskloom.affinity.run import estimate_affinity, group_tasks
from taskloom.affinity.store import GradientStore
from taskloom.affinity.suite import SuiteCollection
from taskloom.build import build_suite
from taskloom.errors import DataError, RecipeError, RunError, UserError
from taskloom.fit import fit
from taskloom.gradients import rules
from taskloom.predictor import load
from taskloom.recipe import AdapterSection, load_recipe
from tests.cli.conftest import write_recipe
from tests.tiny import tiny_encoder, tiny_tasks


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("affinity")
    path = write_recipe(
        folder / "tiny.yaml",
        tiny_encoder(folder / "encoder"),
        tiny_tasks(folder / "data"),
        data={"cache": str(folder / "cache")},
        affinity={"examples": 12, "C": 1.0, "factor": "none"},
    )
    recipe = load_recipe(path, [f'output="{folder / "run"}"'])
    fit(recipe, quiet=True)
    return recipe


def a_collection(recipe):
    predictor = load(recipe.output)
    return SuiteCollection(recipe, predictor.model, predictor.tokenizer, build_suite(recipe))


def changed(recipe, **affinity):
    return recipe.model_copy(update={"affinity": recipe.affinity.model_copy(update=affinity)})


def test_rows_are_the_projected_gradients_of_the_suites_examples(recipe, tmp_path):
    collection = a_collection(recipe)
    store = collection.collect(tmp_path / "store", None)
    model = collection.model
    names, parameters = zip(
        *[(name, value) for name, value in model.named_parameters() if value.requires_grad], strict=True
    )
    for task in ("sentiment", "strength"):
        rows, loader = store.train(task), collection.train[task]
        assert len(rows) == 12
        item = loader.dataset[3]
        batch = loader.collate_fn([item])
        logits = model(**batch)["logits"][0]
        if task == "strength":
            output = logits[0]
            assert rows.labels[3] == batch["labels"][0]
        else:
            label = int(batch["labels"][0])
            output = logits[label] - logits[1 - label]
        torch.testing.assert_close(rows.outputs[3], output.detach(), rtol=1e-4, atol=1e-5)
        gradients = torch.autograd.grad(output, parameters, allow_unused=True)
        whole = {
            name: (torch.zeros_like(parameter) if gradient is None else gradient)[None]
            for name, parameter, gradient in zip(names, parameters, gradients, strict=True)
        }
        torch.testing.assert_close(rows.gradients[3], store.projection.project(whole)[0], rtol=1e-3, atol=1e-4)


def test_same_examples_are_chosen_every_time_and_the_longest_come_first(recipe):
    first, second = (a_collection(recipe) for _ in range(2))
    for task in ("sentiment", "same", "strength"):
        items = first.train[task].dataset
        assert items.indices == second.train[task].dataset.indices
        lengths = [len(item["input_ids"]) for item in items]
        assert lengths == sorted(lengths, reverse=True)


def test_forward_evaluation_agrees_with_the_linearised_one_for_small_changes(recipe):
    # The expansion's error is of second order: a hundredth of the change leaves a ten-thousandth of it.
    gaps = []
    for C in (1e-4, 1e-6):  # noqa: N806
        tables = {}
        for evaluation in ("linearized", "forward"):
            estimate_affinity(changed(recipe, C=C, evaluation=evaluation), quiet=True)
            tables[evaluation] = read_affinity(recipe.output)[0].values
        gaps.append(float((tables["forward"] - tables["linearized"]).abs().max()))
    assert gaps[0] > 0
    assert gaps[1] < max(gaps[0] / 1000, 2e-6)


def test_run_folder_holds_estimates_matrix_groups_and_pictures(recipe):
    run, affinity = estimate_affinity(changed(recipe, members=2), quiet=True)
    folder = run.path / AFFINITY_FOLDER
    rows = np.genfromtxt(folder / "estimates.csv", delimiter=",", dtype=None, encoding="utf-8", names=True)
    assert rows.dtype.names == ("task", "trained_on", "estimate", "stderr")
    assert len(rows) == 6 * 3  # three tasks alone, three pairs, each estimated on every task
    stored, order = read_affinity(run.path)
    assert order == "pairwise"
    for name in ("values", "stderr", "gain", "gain_stderr", "counts"):
        assert torch.equal(getattr(stored, name), getattr(affinity, name))
    pair = rows[(rows["task"] == "same") & (rows["trained_on"] == "sentiment+same")]
    i, j = affinity.tasks.index("same"), affinity.tasks.index("sentiment")
    assert float(pair["estimate"][0]) == pytest.approx(-float(affinity.values[i, j]), rel=1e-5)

    grouping = group_tasks(run.path, 2)
    assert sorted(name for group in grouping.groups for name in group) == sorted(affinity.tasks)
    assert json.loads((folder / "groups.json").read_text())["groups"] == grouping.groups
    assert {path.name for path in folder.iterdir()} == {
        *("gradients", "estimates.csv", "affinity.csv", "affinity.json", "groups.json", "heatmap.png", "heatmap.svg")
    }


def test_finished_store_is_used_again(recipe):
    estimate_affinity(recipe, quiet=True)
    shards = {path: path.stat().st_mtime_ns for path in (recipe.output / AFFINITY_FOLDER).rglob("*.safetensors")}
    assert shards
    estimate_affinity(changed(recipe, C=0.5), quiet=True)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


def test_store_of_another_projection_or_choice_of_examples_is_refused(recipe):
    estimate_affinity(recipe, quiet=True)
    with pytest.raises(RunError, match=r"another projection \(dimensions=200, now 100\)"):
        estimate_affinity(changed(recipe, dimensions=100), quiet=True)
    with pytest.raises(RunError, match=r"other tasks or examples \(sentiment, same, strength\)"):
        estimate_affinity(changed(recipe, examples=11), quiet=True)


def test_unsuited_metric_and_too_many_groups_are_refused(recipe):
    with pytest.raises(RecipeError, match="affinity: `metric` 'accuracy' does not suit task 'strength'"):
        estimate_affinity(changed(recipe, metric="accuracy"), quiet=True)
    estimate_affinity(recipe, quiet=True)
    with pytest.raises(DataError, match=r"has 3 tasks, too few for 4 groups: choose 1 to 3, or auto"):
        group_tasks(recipe.output, 4)


def test_regressions_that_do_not_converge_are_one_message(recipe, monkeypatch):
    from taskloom.affinity import run, surrogate

    def impatient(*arguments, **settings):
        return surrogate.SubsetSurrogate(*arguments, **settings, max_steps=1, tolerance=1e-12)

    monkeypatch.setattr(run, "SubsetSurrogate", impatient)
    with pytest.raises(RecipeError, match=r"affinity: The regressions of \d+ subsets have not converged.*smaller `C`"):
        estimate_affinity(changed(recipe, C=100.0), quiet=True)


def test_example_with_a_gradient_that_is_not_finite_is_named_by_its_line(recipe, tmp_path):
    collection = a_collection(recipe)
    with torch.no_grad():
        collection.model.heads.sequence.linear.weight.fill_(float("nan"))
    with pytest.raises(DataError, match=r"task 'sentiment', .*train.*:\d+: its output is not finite"):
        collection.collect(tmp_path / "store", None)
    with pytest.raises(RunError, match="not all collected"):
        GradientStore.open(tmp_path / "store")


def test_task_of_one_class_is_refused_before_the_training(recipe, tmp_path):
    declared = tiny_tasks(tmp_path / "data")
    train = tmp_path / "data/sentiment/train.jsonl"
    train.write_text(train.read_text().replace('"pos"', '"neg"'))
    other = recipe.model_copy(update={"tasks": declared, "output": tmp_path / "run"})
    with pytest.raises(DataError, match=r"train\.jsonl: all training examples of task 'sentiment' are of one class"):
        estimate_affinity(other, quiet=True)
    assert not (tmp_path / "run").exists()


def test_affinity_of_tasks_that_share_by_ca_mtl(recipe, tmp_path):
    adapter = AdapterSection(method="ca_mtl")
    other = changed(recipe).model_copy(update={"adapter": adapter, "output": tmp_path / "run"})
    _, affinity = estimate_affinity(other, quiet=True)
    assert bool(affinity.values.isfinite().all())


def test_modules_without_a_rule_are_refused_before_the_training(recipe, tmp_path, monkeypatch):
    adapter = AdapterSection(method="ca_mtl")
    other = changed(recipe).model_copy(update={"adapter": adapter, "output": tmp_path / "run"})
    monkeypatch.delitem(rules._RULES, "taskloom.adapters.ca_mtl.modules.ConditionalLayerNorm")
    with pytest.raises(UserError, match=r"no rule sees it.*affinity\.fallback=autograd"):
        estimate_affinity(other, quiet=True)
    assert not (tmp_path / "run").exists()
    _, affinity = estimate_affinity(changed(other, fallback="autograd"), quiet=True)
    assert bool(affinity.values.isfinite().all())
