"""The declaration of a task: defaults, contradictions, and that it costs no heavy import."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from taskloom.errors import DataError
from taskloom.evaluation.metrics import METRICS
from taskloom.tasks.kinds import DEFAULT_METRICS
from taskloom.tasks.task import Task, task_from_mapping


@pytest.mark.parametrize(
    ("kind", "inputs", "target", "metrics"),
    [
        ("classification", ["a"], "label", ("accuracy",)),
        ("regression", ["a", "b"], "label", ("pearson", "spearman")),
        ("token", ["words"], "label", ("token_accuracy", "entity_f1")),
        ("span", ["question", "context"], "answers", ("exact_match", "token_f1")),
        ("text2text", ["a"], "label", ("exact_match",)),
        ("lm", ["text"], None, ("perplexity",)),
    ],
)
def test_defaults_follow_the_kind(kind, inputs, target, metrics):
    task = Task(name="t", kind=kind, inputs=inputs)
    assert (task.target, task.metrics) == (target, metrics)


def test_default_metrics_exist():
    for kind, metrics in DEFAULT_METRICS.items():
        assert set(metrics) <= METRICS[kind].keys()


def test_number_of_outputs():
    labels = ("a", "b", "c")
    assert Task(name="t", inputs=("x",), labels=labels).num_outputs == 3
    assert Task(name="t", kind="token", inputs=("x",), labels=labels).num_outputs == 3
    assert Task(name="t", kind="regression", inputs=("x",)).num_outputs == 1
    assert Task(name="t", kind="span", inputs=("q", "c")).num_outputs == 2
    assert Task(name="t", kind="lm", inputs=("x",)).num_outputs == 0
    with pytest.raises(ValueError, match="`labels` of task 't' are not known"):
        _ = Task(name="t", inputs=("x",)).num_outputs


def test_splits_are_told_apart_by_their_beginning():
    files = {name: f"{name}.tsv" for name in ("train", "dev", "dev_mismatched", "test", "test_mismatched")}
    task = Task(name="t", inputs=("x",), splits=files)
    assert task.dev_splits == ("dev", "dev_mismatched")
    assert task.test_splits == ("test", "test_mismatched")


def test_labels_written_as_yaml_booleans_and_numbers_become_text():
    task = task_from_mapping({"name": "t", "inputs": "x", "labels": [True, False], "label_values": [1, 0]}, "task 1")
    assert task.labels == ("true", "false")
    assert task.label_values == ("1", "0")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": ["x"]}, "unknown field 'input'. Did you mean 'inputs'?"),
        ({"kind": "clasification"}, "kind: Input should be 'classification'"),
        ({"inputs": ["a", "b", "c"]}, "has 1 or 2, found 3; join columns with a template"),
        ({"kind": "span", "inputs": ["a"]}, "inputs: a span task has 2, found 1"),
        ({"target": None}, "needs the name of its target column"),
        ({"labels": ["a"]}, "labels: at least two are needed, found 1"),
        ({"labels": ["a", "b", "a"]}, "labels: each may appear once, found a, b, a"),
        ({"labels": ["a", "b"], "label_values": ["0"]}, "label_values: as many as labels are needed, found 1 for 2"),
        ({"kind": "regression", "labels": ["a", "b"]}, "labels: a regression task has none"),
        ({"splits": {"validation": "v.tsv"}}, "'validation' is no split name; use train, dev, test"),
        ({"dataset": "a/b", "path": "c"}, "dataset and path exclude each other"),
        ({"name": "../t"}, "name '../t' may hold only letters"),
        ({"delimiter": "||"}, "delimiter: String should have at most 1 character"),
    ],
)
def test_a_wrong_declaration_is_one_message(fields, message):
    with pytest.raises(DataError) as raised:
        task_from_mapping({"name": "t", "inputs": ["x"], **fields}, "task 3")
    assert str(raised.value).startswith("task 3 ('")
    assert message in str(raised.value)


def test_a_task_cannot_be_changed():
    with pytest.raises(ValidationError):
        Task(name="t", inputs=("x",)).name = "u"


def test_tasks_are_declared_and_read_without_heavy_imports():
    code = (
        "import sys, taskloom.tasks.task, taskloom.tasks.suite, taskloom.tasks.presets;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'peft') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


VERBALISED = {"kind": "text2text", "labels": ["a", "b"], "answers": {"a": "yes", "b": "no"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answers": {"a": "yes", "b": " yes"}}, "answers: at least two different texts are needed, found yes,  yes"),
        ({"answers": {"a": "", "b": "no"}}, "answers: found the text '', expected one that is not blank"),
        ({"labels": None, "answers": None, "choices": ["x"]}, "choices: at least two different texts are needed"),
        ({"answers": None}, "labels: a text2text task needs `answers` beside them"),
        ({"num_beams": 4}, "num_beams: the answer is the likeliest of the choices and not generated"),
        ({"decoding": "rank", "min_target_length": 2}, "min_target_length: the answer is the likeliest of the choices"),
        ({"max_generated_length": 2}, "set `decoding: generate`"),
        ({"max_target_length": 1}, "max_target_length: Input should be greater than or equal to 2, found 1"),
    ],
)
def test_answers_that_cannot_be_given_are_refused(fields, message):
    with pytest.raises(DataError) as raised:
        task_from_mapping({"name": "t", "inputs": ["x"], **VERBALISED, **fields}, "task 3")
    assert message in str(raised.value)


def test_labels_may_share_a_text():
    labels = {"labels": ["yes", "maybe", "no"], "answers": {"yes": "true", "maybe": "false", "no": "false"}}
    task = task_from_mapping({"name": "t", "inputs": ["x"], "kind": "text2text", **labels, "num_beams": None}, "task 3")
    assert task.known_answers == ("true", "false", "false")
