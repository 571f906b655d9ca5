"""Natural-Instructions files: prompts, right answers, labels, the split, and what is wrong with a file."""

import json

import pytest

from taskloom.errors import DataError
from taskloom.evaluation import score_task
from taskloom.tasks import TaskSuite
from tests.support import real_data


def content(outputs, **fields):
    return {
        "Definition": ["Say yes or {no}."],
        "Categories": ["Question Answering"],
        "Positive Examples": [
            {"input": "Is ice cold?", "output": "yes", "explanation": ""},
            {"input": "Is fire cold?", "output": "no", "explanation": ""},
        ],
        "Instances": [{"id": f"i{n}", "input": f"Question {n}", "output": output} for n, output in enumerate(outputs)],
        **fields,
    }


YES_NO = [["yes"], ["no"]] * 10


def write(folder, data, name="task1_questions.json"):
    (folder / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return folder


def load(folder, pattern="task1_questions.json", **spec):
    return TaskSuite.load([{"natural_instructions": pattern, **spec}], base_dir=folder)


def test_definition_and_examples_stand_before_the_input(tmp_path):
    suite = load(write(tmp_path, content(YES_NO)), examples=1)
    (task,) = suite
    texts = [text for split in ("train", "dev", "test") for (text,) in suite.examples(task.name, split).texts]
    assert (task.name, task.kind) == ("task1_questions", "text2text")
    example = "Example 1\nInput: Is ice cold?\nOutput: yes"
    assert f"Definition: Say yes or {{no}}.\n\n{example}\n\nInput: Question 3\nOutput:" in texts
    bare = load(tmp_path, examples=0).examples(task.name, "train").texts[0][0]
    assert bare.startswith("Definition: Say yes or {no}.\n\nInput: Question")


def test_the_split_is_seeded_and_a_partition(tmp_path):
    write(tmp_path, content(YES_NO))

    def lines(**spec):
        suite = load(tmp_path, **spec)
        return [suite.examples(suite.names[0], split).lines for split in ("train", "dev", "test")]

    train, dev, test = lines()
    assert (len(train), len(dev), len(test)) == (16, 2, 2)
    assert sorted(train + dev + test) == list(range(1, 21))
    assert lines() == [train, dev, test]
    assert lines(divide_seed=1) != [train, dev, test]
    halves = load(tmp_path, divide={"train": 0.5, "dev": 0.5})
    assert [len(halves.examples("task1_questions", split)) for split in ("train", "dev")] == [10, 10]


def test_any_output_is_a_right_answer(tmp_path):
    suite = load(write(tmp_path, content([["a cat", "the cat", "one"]] * 20)))
    (task,) = suite
    golds = suite.examples(task.name, "dev").targets
    assert golds == [["a cat", "the cat", "one"]] * 2
    assert score_task(task, ["one", "two"], golds) == {"exact_match": 0.5}
    assert task.choices is None


def test_few_different_outputs_are_labels(tmp_path):
    write(tmp_path, content(YES_NO))
    (task,) = load(tmp_path)
    assert task.choices == ("no", "yes")
    suite = load(tmp_path, **{"as": "classification"})
    (task,) = suite
    assert (task.kind, task.labels) == ("classification", ("no", "yes"))
    assert set(suite.examples(task.name, "train").targets) == {0, 1}


def test_outputs_that_are_no_labels_are_refused_for_an_encoder(tmp_path):
    write(tmp_path, content([[f"answer {n}"] for n in range(20)]))
    with pytest.raises(DataError, match=r"task1_questions.json: its outputs are no labels \(20 different ones in 20"):
        load(tmp_path, **{"as": "classification"})


def test_a_pattern_means_one_task_a_file(tmp_path):
    for name in ("task2_b.json", "task1_a.json", "other.json"):
        write(tmp_path, content(YES_NO), name)
    assert load(tmp_path, "task*.json").names == ("task1_a", "task2_b")
    with pytest.raises(DataError, match=r"task 1: no file matches 'tusk\*.json'"):
        load(tmp_path, "tusk*.json")
    with pytest.raises(DataError, match=r"no file 'task1_c.json' .* Did you mean 'task1_a.json'"):
        load(tmp_path, "task1_c.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "task1_questions.json: malformed JSON"),
        ({"Definition": "x"}, "the field 'Instances' is missing"),
        (content([]), "the field 'Instances' holds [], expected a list of examples"),
        (content(YES_NO, Definition=[]), "the field 'Definition' is missing or empty"),
        (content(YES_NO, Definition=3), "the field 'Definition' holds 3, expected a text or a list of texts"),
        (content(["yes"]), "record 1 of 'Instances': the field 'output' holds 'yes', expected a list of strings"),
        (content([*YES_NO, []]), "record 21 of 'Instances': the field 'output' holds [], expected a list of strings"),
        (content(YES_NO, Instances=[{"input": "x"}]), "record 1 of 'Instances': the field 'output' is missing"),
        (
            content(YES_NO, **{"Positive Examples": [{"input": "x"}]}),
            "record 1 of 'Positive Examples': expected the texts 'input' and 'output'",
        ),
    ],
)
def test_mistakes_name_the_file_and_the_field(tmp_path, data, message):
    with pytest.raises(DataError) as caught:
        load(write(tmp_path, data))
    assert message in str(caught.value)
    assert "task1_questions.json" in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"examples": -1}, "examples is -1, expected the number of examples"),
        ({"divide": {"train": 0.5}}, "divide: the shares must add up to 1, found 0.5"),
        ({"divide": {"train": 1.5, "dev": -0.5}}, "divide: the share of dev must be above 0"),
        ({"divide": {"train": 0.5, "other": 0.5}}, "divide: 'other' is no split name"),
    ],
)
def test_mistakes_beside_the_file(tmp_path, spec, message):
    write(tmp_path, content(YES_NO))
    with pytest.raises(DataError) as caught:
        load(tmp_path, **spec)
    assert message in str(caught.value)


@pytest.mark.real_data
def test_real_files():
    folder = real_data("natural_instructions")
    suite = TaskSuite.load([{"natural_instructions": "*.json"}], data_dir=folder)
    sizes = {name: sum(len(suite.examples(name, split)) for split in ("train", "dev", "test")) for name in suite.names}
    assert sizes["task1289_trec_classification"] == 300
    assert len(sizes) == 8
    assert {task.name for task in suite if task.ranks} == {
        "task1289_trec_classification",
        "task227_clariq_classification",
    }
    written = json.loads((folder / "task227_clariq_classification.json").read_text("utf-8"))
    lines = suite.examples("task227_clariq_classification", "dev").lines
    for line, (prompt,) in zip(lines, suite.examples("task227_clariq_classification", "dev").texts, strict=True):
        assert prompt.startswith(f"Definition: {written['Definition'][0]}\n\nExample 1")
        assert prompt.endswith(f"Input: {written['Instances'][line - 1]['input']}\nOutput:")
