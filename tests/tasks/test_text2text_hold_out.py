"""`split_validation_test`: sizes, disjointness, and the published formula computed here by hand."""

import json

import pytest
import torch

from taskloom.build import build_suite
from taskloom.errors import DataError
from taskloom.recipe import Recipe
from taskloom.tasks import TaskSuite
from tests.support import real_data

SIZES = {"train": 1203, "dev": 41, "test": 7}


def published_order(size):
    """The permutation of the published code: torch's generator with its data seed of 42."""
    generator = torch.Generator()
    generator.manual_seed(42)
    return torch.randperm(size, generator=generator).tolist()


@pytest.fixture
def folder(tmp_path):
    for split, size in SIZES.items():
        rows = [
            {"text": f"{split} {index}", "label": "ab"[index % 2] if split != "test" else -1} for index in range(size)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def a_task(rule, **fields):
    return {
        "name": "t",
        "kind": "text2text",
        "inputs": "{text}",
        "hold_out": rule,
        "splits": {split: f"{split}.jsonl" for split in SIZES},
        **fields,
    }


def load(folder, rule, split_validation_test=True, limits=None, **fields):
    task = a_task(rule, **fields)
    options = {"base_dir": folder, "limits": limits, "split_validation_test": split_validation_test}
    return TaskSuite.load([task], **options)


def texts(suite, split):
    return [text for (text,) in suite.examples("t", split).texts]


def test_half_of_the_dev_split_becomes_test(folder):
    suite = load(folder, "half_of_dev")
    order = published_order(41)
    assert texts(suite, "dev") == [f"dev {index}" for index in order[:20]]
    assert texts(suite, "test") == [f"dev {index}" for index in order[20:]]
    assert texts(suite, "train") == [f"train {index}" for index in range(1203)]
    assert suite.examples("t", "test").targets == ["ab"[index % 2] for index in order[20:]]
    assert suite["t"].splits == {"train": "train.jsonl", "dev": "dev.jsonl", "test": "dev.jsonl"}
    assert suite.examples("t", "test").where(0) == f"{folder}/dev.jsonl:{order[20] + 1}"


def test_a_thousand_of_train_become_dev_and_the_old_dev_split_is_test(folder):
    suite = load(folder, "thousand_of_train")
    order = published_order(1203)
    assert texts(suite, "dev") == [f"train {index}" for index in order[:1000]]
    assert texts(suite, "train") == [f"train {index}" for index in order[1000:]]
    assert texts(suite, "test") == [f"dev {index}" for index in range(41)]
    assert suite["t"].test_splits == ("test",)


@pytest.mark.parametrize("rule", ["half_of_dev", "thousand_of_train"])
def test_no_example_is_in_two_splits_and_none_is_lost(folder, rule):
    suite = load(folder, rule)
    parts = [set(texts(suite, split)) for split in suite["t"].splits]
    assert sum(map(len, parts)) == len(set.union(*parts)) == SIZES["train"] + SIZES["dev"]


@pytest.mark.parametrize(("rule", "asked"), [("half_of_dev", False), (None, True)])
def test_without_the_setting_or_a_rule_splits_stay(folder, rule, asked):
    suite = load(folder, rule, asked)
    assert {split: len(suite.examples("t", split)) for split in suite["t"].splits} == SIZES
    assert suite.examples("t", "test").targets is None


def test_a_task_that_stays_without_a_labelled_test_split_is_named(folder, caplog):
    load(folder, None)
    assert "task 't' has no test split with targets, and split_validation_test does not make one" in caplog.text
    caplog.clear()
    load(folder, None, splits={"train": "train.jsonl", "dev": "dev.jsonl", "test": "dev.jsonl"})
    assert not caplog.text


@pytest.mark.real_data
def test_presets_for_encoders_hold_out_the_same_examples():
    folder = real_data("glue")
    encoder = TaskSuite.load(["glue/mrpc", "glue/mnli"], data_dir=folder, split_validation_test=True)
    text = TaskSuite.load(["text2text/mrpc"], data_dir=folder.parent, split_validation_test=True)
    assert encoder.examples("mrpc", "test").lines == text.examples("mrpc", "test").lines
    assert encoder.examples("mrpc", "test").targets is not None
    assert encoder["mrpc"].submission == {}, "half of dev is nothing for the benchmark's server"
    assert set(encoder["mnli"].submission) == {"test", "test_mismatched"}


def test_limits_take_of_what_was_divided(folder):
    suite = load(folder, "half_of_dev", limits={"dev": 5, "test": 5})
    assert len(texts(suite, "dev")) == len(texts(suite, "test")) == 5
    assert set(texts(suite, "test")) <= {f"dev {index}" for index in published_order(41)[20:]}


def test_too_few_examples_are_named(folder):
    splits = {"train": "dev.jsonl", "dev": "dev.jsonl"}
    with pytest.raises(DataError) as caught:
        load(folder, "thousand_of_train", splits=splits)
    assert str(caught.value).startswith(
        f"{folder}/dev.jsonl: split_validation_test divides the train split of task 't', which has 41 examples, "
        "expected at least 1,001"
    )
    with pytest.raises(DataError, match="needs its dev split, which is not there"):
        load(folder, "half_of_dev", splits={"train": "train.jsonl"})


def test_a_recipe_turns_it_on(folder):
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"path": "none"},
            "data": {"dir": folder, "split_validation_test": True, "limits": {"train": 10}},
            "tasks": [a_task("half_of_dev")],
        }
    )
    suite = build_suite(recipe)
    assert {split: len(suite.examples("t", split)) for split in suite["t"].splits} == {
        "train": 10,
        "dev": 20,
        "test": 21,
    }


@pytest.mark.real_data
def test_rte_by_the_published_formula():
    folder = real_data("glue").parent
    whole = TaskSuite.load(["text2text/rte"], data_dir=folder).examples("rte", "dev")
    suite = TaskSuite.load(["text2text/rte", "text2text/sst2"], data_dir=folder, split_validation_test=True)
    order = published_order(277)
    assert suite.examples("rte", "dev").texts == [whole.texts[index] for index in order[: 277 // 2]]
    assert suite.examples("rte", "test").targets == [whole.targets[index] for index in order[277 // 2 :]]
    sizes = {split: len(suite.examples("sst2", split)) for split in suite["sst2"].splits}
    assert sizes == {"train": 9000, "dev": 1000, "test": 872}
