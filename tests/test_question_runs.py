"""Questions over windows of their contexts, from a recipe to a finished run and to its files of answers."""

import json
import shutil

import pytest

import taskloom
from taskloom.evaluation import exact_match, mrqa_scores, token_f1
from taskloom.evaluation.candidates import likeliest_answer
from taskloom.fit import evaluate, fit
from taskloom.recipe import Recipe
from tests.cli.command import refused
from tests.cli.command import run as command
from tests.tiny_language import FAMILIES, save_tiny

FILMS = "the film was good . the book was very bad . a meal is not good so the film was true"
BOOKS = "no book is bad : a book was good"


def mrqa_file(path, dataset, questions):
    """Write (question id, question, context, answer) as an MRQA file."""
    rows = [{"header": {"dataset": dataset}}]
    for name, question, context, answer in questions:
        start = context.index(answer)
        detected = [{"text": answer, "char_spans": [[start, start + len(answer) - 1]]}]
        qa = {"qid": name, "question": question, "answers": [answer], "detected_answers": detected}
        rows.append({"context": context, "qas": [qa]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    for family in FAMILIES:
        save_tiny(family, folder / family)
    mrqa_file(folder / "one.jsonl", "One", [("1a", "is it good ?", FILMS, "very bad"), ("1b", "film ?", BOOKS, "good")])
    mrqa_file(folder / "two.jsonl", "Two", [("2a", "yes no no ?", FILMS, "true"), ("2b", "a book ?", FILMS, "a meal")])
    return folder


def a_task(place, name, **fields):
    splits = {"train": f"{name}.jsonl", "dev": f"{name}.jsonl", "test": f"{name}.jsonl"}
    paths = {split: str(place / file) for split, file in splits.items()}
    return {"preset": "text2text/mrqa-SQuAD", "name": name, "where": {}, "splits": paths, **fields}


def a_recipe(place, output, family, fields=None, **training):
    return Recipe.model_validate(
        {
            "name": "questions",
            "output": output,
            "model": {"path": str(place / family)},
            "data": {"cache": output.parent / "cache", "max_length": 16, "stride": 2, "max_target_length": 4},
            "tasks": [a_task(place, name, max_generated_length=4, **(fields or {})) for name in ("one", "two")],
            "training": {"batch_size": 4, "schedule": "constant", "warmup": 0.0, **training},
        }
    )


def read_lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    """Two steps of the tiny T5: every answer is a wrong one, but everything is written."""
    output = tmp_path_factory.mktemp("runs") / "run"
    return fit(a_recipe(place, output, "t5", max_steps=2, evaluate_every=1, learning_rate=1e-2), quiet=True)


def test_the_answers_of_every_window_are_kept_at_every_evaluation(place, finished):
    for step in (1, 2):
        answers = json.loads((finished.path / f"{step}predicted_answers.json").read_text())
        assert list(answers) == ["1a", "1b", "2a", "2b"]
        # By hand: of the first, 16 tokens less the end and the six of "question: is it good ? context:" are 9 for the
        # context, of which two are shared: 21 words are the windows 0-9, 7-16 and 14-21.
        assert [len(windows) for windows in answers.values()] == [3, 1, 3, 3]
        for windows in answers.values():
            assert all(isinstance(text, str) and score > 0 for text, score in windows)
    [tested] = finished.path.glob("*predicted_answers_test.json")
    step = tested.name.removesuffix("predicted_answers_test.json")
    # The test split holds the same questions, and the best model answers them.
    dev = json.loads((finished.path / f"{step}predicted_answers.json").read_text())
    test = json.loads(tested.read_text())
    assert test.keys() == dev.keys()
    for name, windows in test.items():
        assert [text for text, _ in windows] == [text for text, _ in dev[name]]
        assert [score for _, score in windows] == pytest.approx([score for _, score in dev[name]], rel=1e-5)
    scores = finished.read_scores()["dev"]
    for name, dataset in (("one", "One"), ("two", "Two")):
        found = mrqa_scores(place / f"{name}.jsonl", finished.path / f"{step}predicted_answers.json")[dataset]
        assert found["em"] == pytest.approx(100 * scores[name]["exact_match"])
        assert found["f1"] == pytest.approx(100 * scores[name]["token_f1"])


def test_what_the_best_model_generated_is_kept(place, finished):
    folder = finished.path / "generations"
    assert sorted(file.name for file in folder.iterdir()) == [
        "one-test.jsonl", "one.jsonl", "two-test.jsonl", "two.jsonl",
    ]  # fmt: skip
    scores = finished.read_scores()["dev"]
    for name, ids in {"one": ["1a", "1b"], "two": ["2a", "2b"]}.items():
        records = read_lines(folder / f"{name}.jsonl")
        assert [record["id"] for record in records] == ids
        for record in records:
            candidates = [(candidate["text"], candidate["score"]) for candidate in record["candidates"]]
            assert record["prediction"] == likeliest_answer(candidates)
            assert record["scores"] == {
                "exact_match": exact_match(record["prediction"], record["references"]),
                "token_f1": token_f1(record["prediction"], record["references"]),
            }
            context = record["input"].partition(" context: ")[2]
            windows = [context[slice(*candidate["window"])] for candidate in record["candidates"]]
            assert windows[0].split()[0] == context.split()[0]
            assert windows[-1].split()[-1] == context.split()[-1]
        for metric in ("exact_match", "token_f1"):
            assert sum(record["scores"][metric] for record in records) / 2 == pytest.approx(scores[name][metric])
    assert read_lines(folder / "one.jsonl")[0]["references"] == ["very bad"]


def test_evaluating_and_predicting_later(place, finished, tmp_path, capsys):
    scores = finished.read_scores()["dev"]
    assert evaluate(finished.path, save=tmp_path / "saved") == scores
    saved = json.loads((tmp_path / "saved" / "predicted_answers.json").read_text())
    assert read_lines(tmp_path / "saved" / "one.jsonl")[0]["prediction"] == likeliest_answer(saved["1a"])
    message = refused(capsys, "evaluate", finished.path, "--save", tmp_path / "saved" / "one.jsonl")
    assert message.endswith("one.jsonl: is a file, expected a folder for the generated answers")
    predictor = taskloom.load(finished.path, device="cpu")
    [record] = predictor.predict("one", [{"question": "is it good ?", "context": FILMS}])
    assert record["answer"] == likeliest_answer(saved["1a"])
    assert [(candidate["text"], pytest.approx(candidate["score"], rel=1e-5)) for candidate in record["candidates"]] == [
        tuple(candidate) for candidate in saved["1a"]
    ]
    outcome = command(
        capsys,
        "predict",
        finished.path,
        "--task",
        "two",
        "--input",
        place / "one.jsonl",
        "--output",
        tmp_path / "p.json",
    )
    assert outcome.code == 0
    assert list(json.loads((tmp_path / "p.json").read_text())) == ["1a", "1b"]
    assert set(mrqa_scores(place / "one.jsonl", tmp_path / "p.json")) == {"One"}
    arguments = ("predict", finished.path, "--task", "one", "--input", place / "one.jsonl", "--output")
    assert command(capsys, *arguments, tmp_path / "p.csv").code == 0
    assert (tmp_path / "p.csv").read_text().startswith("prediction,candidates\n")


@pytest.mark.parametrize(("family", "shortest"), [("t5", None), ("t5", 1), ("llama", None)])
def test_answers_in_windows_are_learnt_by_heart(place, tmp_path, family, shortest):
    fields = {"min_target_length": shortest}
    recipe = a_recipe(place, tmp_path / "run", family, fields, max_steps=200, evaluate_every=200, learning_rate=1e-2)
    run = fit(recipe, quiet=True)
    assert run.read_scores()["mean"] == 1.0, (run.path / "200predicted_answers.json").read_text()
    answers = json.loads((run.path / "200predicted_answers.json").read_text())
    texts = [text for text, _ in sorted(answers["1a"], key=lambda candidate: candidate[1])]
    if shortest is None:
        assert set(texts) == {"", "very bad"}, "null windows are answered by nothing"
    else:
        assert texts[0] == "very bad"
        assert "" not in texts, "every window is answered, and that with the answer is the surest"
    shutil.rmtree(run.path)
