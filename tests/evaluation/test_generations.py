"""What is written of an evaluation's answers, task by task."""

import json

import pytest

from taskloom.evaluation.generations import MEANS, Generations, predicted_answers_file
from taskloom.evaluation.metrics import METRICS, score_task
from taskloom.tasks import Examples, Task, TaskSuite
from tests.tiny_language import tiny_tokenizer

MOOD = Task(name="mood", kind="text2text", inputs="x", metrics=("accuracy", "token_f1", "bleu"))
ASKED = Task(name="asked", kind="text2text", inputs="x", id="name")


def add(generations, title, task, examples, predictions, candidates=None):
    suite = TaskSuite([task], {(task.name, "dev"): examples})
    features = suite.encode(task.name, examples, tiny_tokenizer("t5"), 16)
    generations.add(title, task, features, examples, predictions, candidates)


def read_lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_an_example_with_its_own_scores(tmp_path):
    generations = Generations()
    dev = Examples([("a film ?",), ("a “book” ?",)], ["good", ["bad", "very bad"]], [1, 2], "dev")
    add(generations, "mood/dev_two", MOOD, dev, ["good", "bad film"])
    add(generations, "mood/test", MOOD, Examples([("a meal ?",)], None, [1], "test"), ["good"])
    generations.write(tmp_path / "generations")
    assert read_lines(tmp_path / "generations" / "mood-dev_two.jsonl") == [
        {
            "input": "a film ?",
            "references": ["good"],
            "prediction": "good",
            "scores": {"accuracy": 1.0, "token_f1": 1.0},
        },
        {
            "input": "a “book” ?",
            "references": ["bad", "very bad"],
            "prediction": "bad film",
            "scores": {"accuracy": 0.0, "token_f1": pytest.approx(2 / 3)},
        },
    ]
    assert read_lines(tmp_path / "generations" / "mood-test.jsonl") == [{"input": "a meal ?", "prediction": "good"}]
    generations.write_predicted_answers(tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists(), "no question was answered"


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "generations"
    for title in ("one", "two"):
        generations = Generations()
        add(generations, title, MOOD, Examples([("a",)], ["good"], [1], "dev"), ["bad"])
        generations.write(folder)
        assert [path.name for path in folder.iterdir()] == [f"{title}.jsonl"]
    generations.write_into(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["generations"], "nothing temporary stays"


def test_candidates_by_the_id_of_their_question(tmp_path):
    generations = Generations()
    texts = [("a",), ("book",)]
    named = Examples(texts, ["x", "y"], [1, 2], "dev", ids=["q1", "q2"])
    add(generations, "asked", ASKED, named, ["x", ""], [[("x", 0.5)], [("", 1.5)]])
    unnamed = Examples(texts[:1], None, [7], "dev")
    add(generations, "asked/dev_two", ASKED, unnamed, ["z"], [[("z", float("inf"))]])
    generations.write_predicted_answers(tmp_path / predicted_answers_file(20))
    assert json.loads((tmp_path / "20predicted_answers.json").read_text()) == {
        "q1": [["x", 0.5]],
        "q2": [["", 1.5]],
        "asked/dev_two:7": [["z", None]],
    }
    assert predicted_answers_file(20, test=True) == "20predicted_answers_test.json"
    generations.write(tmp_path / "g")
    assert read_lines(tmp_path / "g" / "asked.jsonl")[0]["candidates"] == [{"text": "x", "score": 0.5}]


def test_only_tasks_that_answer_in_text_are_kept():
    generations = Generations()
    add(generations, "text", Task(name="text", kind="lm", inputs="x"), Examples([("a film",)], None, [1], "dev"), [2.0])
    assert len(generations) == 0


def test_the_metrics_of_single_examples_have_the_split_s_as_their_mean():
    pytest.importorskip("rouge_score")
    task = Task(name="t", kind="text2text", inputs="x", metrics=MEANS)
    predictions, targets = ["the cat sat", "a dog", "yes"], ["the cat sat down", ["no", "a dog runs"], "yes"]
    whole = score_task(task, predictions, targets)
    for name in MEANS:
        golds = [[target] if isinstance(target, str) else target for target in targets]
        single = [METRICS["text2text"][name]([found], [texts]) for found, texts in zip(predictions, golds, strict=True)]
        assert sum(single) / 3 == pytest.approx(whole[name])
