"""Text-to-text tasks in whole runs: how answers are generated, a held-out test split, a preset on files."""

import pytest
import torch

import taskloom
from taskloom.evaluation import score_task
from taskloom.fit import evaluate, fit
from taskloom.generation import TextInference
from taskloom.generative import GenerativeModel
from taskloom.recipe import Recipe
from taskloom.tasks import Task
from taskloom.tasks.answers import longest_answer
from taskloom.tasks.examples import examples_from_inputs
from tests.tiny_language import save_tiny, tiny_language_model, tiny_tokenizer

BASE = {"name": "t", "kind": "text2text", "inputs": ("{text}",), "decoding": "generate"}
LABELS = {"labels": ("no", "yes"), "answers": {"no": "not so", "yes": "very true"}}


def generated(family, monkeypatch, task, prompts=("the film",), longest=7):
    """Return the answers, their numbers of tokens, and the options that `generate` was called with."""
    model = GenerativeModel(tiny_language_model(family), [task]).eval()
    tokenizer = tiny_tokenizer(family)
    calls = []
    generate = model.backbone.generate

    def spy(**options):
        answers = generate(**options)
        start = options["input_ids"].shape[1] if model.layout == "decoder" else 1
        calls.append((options, answers.shape[1] - start))
        return answers

    monkeypatch.setattr(model.backbone, "generate", spy)
    inference = TextInference(model, tokenizer, max_target_length=longest)
    examples = examples_from_inputs(task, list(prompts))
    suite = taskloom.TaskSuite([task])
    features = suite.encode("t", examples, tokenizer, 16, decoder_only=model.layout == "decoder")
    answers, _ = inference.predict(task, features, examples)
    ((options, tokens),) = calls
    return answers, tokens, options


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_generation_is_searched_as_the_task_says(family, monkeypatch):
    task = Task(**BASE, num_beams=3, min_target_length=4, max_generated_length=5)
    answers, tokens, options = generated(family, monkeypatch, task)
    assert (options["num_beams"], options["min_new_tokens"], options["max_new_tokens"]) == (3, 4, 5)
    assert 4 <= tokens <= 5
    assert len(answers) == 1
    _, tokens, options = generated(family, monkeypatch, Task(**BASE))
    assert (options["num_beams"], options["max_new_tokens"]) == (1, 7)


@pytest.mark.parametrize(("family", "needed"), [("t5", 3), ("gpt2", 3), ("llama", 3)])
def test_known_answers_say_how_long_generation_may_go_on(family, needed, monkeypatch):
    _, _, options = generated(family, monkeypatch, Task(**BASE, **LABELS))
    assert options["max_new_tokens"] == needed, "two words and the end"
    _, _, options = generated(family, monkeypatch, Task(**BASE, choices=("yes", "no")))
    assert options["max_new_tokens"] == 2
    _, _, options = generated(family, monkeypatch, Task(**BASE, **LABELS, max_generated_length=6))
    assert options["max_new_tokens"] == 6
    _, tokens, _ = generated(family, monkeypatch, Task(**BASE, **LABELS, min_target_length=5))
    assert tokens == 5, "an answer may be longer than the known ones where it must be"


def test_the_longest_answer_in_tokens():
    assert longest_answer(["yes", "is very good"], tiny_tokenizer("t5"), 9, decoder_only=False) == 4
    assert longest_answer(["yes", "is very good"], tiny_tokenizer("gpt2"), 9, decoder_only=True) == 4
    assert longest_answer(["is very good"], tiny_tokenizer("t5"), 3, decoder_only=False) == 3


def test_task_ids_reach_a_method_that_conditions_on_them(monkeypatch):
    tasks = [Task(**{**BASE, "name": name}) for name in ("first", "second")]
    model = GenerativeModel(tiny_language_model("t5"), tasks)
    seen = {}
    monkeypatch.setattr(model.backbone, "generate", lambda **options: seen.update(options) or options["input_ids"])
    ids = torch.tensor([[4, 1]])
    for conditions in (False, True):
        seen.clear()
        model.conditions_on_task = conditions
        model.generate(ids, torch.ones_like(ids), 3, task=torch.tensor([1]))
        assert ("task" in seen) == conditions
    assert seen["task"].tolist() == [1]


def write_rte(folder, size=60):
    """Write RTE in the benchmark's layout, with words that the tiny tokenizer knows; a text entails itself."""
    (folder / "glue/RTE").mkdir(parents=True)
    words = ["film", "book", "meal"]
    for split in ("train", "dev"):
        rows = ["index\tsentence1\tsentence2\tlabel"]
        for index in range(size):
            first, second = words[index % 3], words[index // 3 % 3]
            label = "entailment" if first == second else "not_entailment"
            rows.append(f"{index}\tthe {first}\tthe {second}\t{label}")
        (folder / f"glue/RTE/{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_preset_from_a_recipe_to_a_scored_test_split(tmp_path):
    save_tiny("t5", tmp_path / "t5")
    answers = {"entailment": "yes", "not_entailment": "no"}  # digits are no words of the tiny tokenizer
    recipe = Recipe.model_validate(
        {
            "name": "rte",
            "output": tmp_path / "run",
            "model": {"path": str(tmp_path / "t5")},
            "data": {
                "dir": write_rte(tmp_path / "data"),
                "cache": tmp_path / "cache",
                "split_validation_test": True,
                "max_length": 24,
                "max_target_length": 4,
            },
            "tasks": [{"preset": "text2text/rte", "answers": answers, "metrics": ["accuracy", "f1"]}],
            "training": {"max_steps": 60, "batch_size": 20, "learning_rate": 1e-2, "evaluate_every": 60},
        }
    )
    run = fit(recipe, quiet=True)
    held_out = evaluate(run.path, split="test")["rte/test"]
    assert set(held_out) == {"accuracy", "f1"}
    suite = taskloom.TaskSuite.load(recipe.tasks, data_dir=recipe.data.dir, split_validation_test=True)
    examples = suite.examples("rte", "test")
    assert len(examples) == 30
    again = taskloom.load(run.path, device="cpu").predict("rte", examples)
    texts = [record["answer"] for record in again]
    assert score_task(suite["rte"], texts, examples.targets) == held_out
    lines = (run.path / "predictions/rte-test.tsv").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{index}\t{text}" for index, text in enumerate(texts))]
