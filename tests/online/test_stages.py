"""The stages of online adaptation in their run folders: kill -9 anywhere in them, and what a run holds and refuses."""

import csv
import json
import shutil
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from taskloom.errors import RecipeError, RunError, UserError
from taskloom.online.adaptation import adapt
from taskloom.online.encode import encode_documents
from taskloom.online.questions import QuestionSet
from taskloom.online.stages.adapt import AdaptStage, adapt_stage
from taskloom.online.stages.meta import meta_train_stage
from taskloom.online.stages.parts import Stage, build_weighter, read_role, stage_folder
from taskloom.online.stages.sweep import choose_rate
from taskloom.online.stages.tune import tune
from taskloom.online.stream_run import DivergedError
from taskloom.online.weighters import LearnedWeighter, UniformWeighter
from taskloom.recipe import load_recipe
from tests.cli.command import files
from tests.kills import killed_at
from tests.online.tiny_project import write_project, write_questions

RUNS = {"tune-qa": tune, "meta-train": meta_train_stage, "adapt": adapt_stage}
BASE = ("weighter.kind=uniform", "adapt.base=lm", "answers.generate=false", "adapt.unrelated_questions=false")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working folder with the runs tune-qa and meta-train."""
    folder = write_project(tmp_path_factory.mktemp("trained"), dropout=0.1)
    stage(folder, "tune-qa")
    stage(folder, "meta-train")
    return folder


def stage(folder, verb, *settings, documents=None, **options):
    """Run a verb on the folder's recipe and return its run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe = load_recipe("r.yaml", list(settings))
        given = {} if verb != "adapt" else {"documents": documents}
        return RUNS[verb](recipe, quiet=True, **given, **options)


def copy(trained, folder, without=()):
    """Copy the working folder, but for the runs of some verbs."""
    return shutil.copytree(trained, folder, ignore=shutil.ignore_patterns(*without))


def compared(run):
    """What a run wrote, but for times, paths and how often it was resumed."""
    left_out = {"environment.json", "recipe.yaml", "finished.json", ".lock", "__pycache__"}
    project = str(run.path.parents[2]).encode()  # of which names of documents speak
    return {
        name: content and content.replace(project, b"PROJECT")
        for name, content in files(run.path).items()
        if name not in left_out
        and not name.endswith(".png")
        and not (name.startswith("checkpoints/") and "stream-" not in name)
    }


def weights(run, part="model"):
    return load_file(run.path / part / "model.safetensors")


# kill -9

#: Checkpoints often enough to have one before each kill.
OFTEN = "tune_qa.checkpoint_every=1"


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """Uninterrupted runs of tune-qa and meta-train by verb."""
    folder = copy(trained, tmp_path_factory.mktemp("whole") / "p", ["tune-qa"])
    runs = {"tune-qa": stage(folder, "tune-qa", OFTEN)}
    shutil.rmtree(folder / "runs/r/meta-train")
    return runs | {"meta-train": stage(folder, "meta-train", OFTEN)}


@pytest.mark.parametrize(
    ("verb", "place", "call"),
    [
        ("tune-qa", "taskloom.online.qa_trainer:QATrainer.compute_loss", 4),
        ("tune-qa", "taskloom.online.best_models:BestModels.keep", 4),
        ("tune-qa", "taskloom.online.qa_trainer:save_trained", 3),
        ("meta-train", "taskloom.online.meta_trainer:MetaTrainer.training_step", 4),
        ("meta-train", "taskloom.online.meta_trainer:MetaTrainer.evaluate", 2),
        ("meta-train", "taskloom.online.meta_trainer:save_file", 3),
    ],
)
def test_training_killed(trained, whole, tmp_path, verb, place, call):
    folder = copy(trained, tmp_path / "parts", [verb])
    killed_at(place, call, ["online", verb, "r.yaml", OFTEN], folder)
    checkpoints = folder / "runs/r" / verb / "checkpoints"
    if place.endswith("training_step"):  # between two resets of the base model
        assert any(name.startswith("base/") for name in load_file(checkpoints / "checkpoint-3/base.safetensors"))
    assert any(checkpoints.glob("checkpoint-*"))
    run = stage(folder, verb, OFTEN, resume=True)
    assert run.finished
    assert compared(run) == compared(whole[verb])


SWEEP = (
    *("adapt.learning_rate=[0.001, 0.01, 1e30]", "adapt.choose_on=nll", "adapt.evaluate_every=4"),
    "adapt.documents_per_update=2",
)
SCORE = "taskloom.online.stages.adapt:AdaptStage._score"
UPDATE = "taskloom.online.stages.adapt:Adaptation.update"


@pytest.fixture(scope="module")
def swept(trained, tmp_path_factory):
    return stage(copy(trained, tmp_path_factory.mktemp("swept") / "whole"), "adapt", *SWEEP)


@pytest.mark.parametrize(
    ("place", "call"),
    [
        (UPDATE, 11),  # the fifth document of the second trial
        (SCORE, 2),  # when the second trial is scored
        ("taskloom.online.stages.sweep:_write", 3),  # when all trials are done
        (SCORE, 4),  # half of what is asked before
        (UPDATE, 24),  # in the stream, the second document of an update
        (SCORE, 6),  # when it is scored after four documents
        (SCORE, 10),  # half of what is asked after it
        ("taskloom.runs:RunFolder.write_scores", 1),
    ],
)
def test_adapting_killed(trained, swept, tmp_path, place, call):
    folder = copy(trained, tmp_path / "parts")
    killed_at(place, call, ["online", "adapt", "r.yaml", *SWEEP], folder)
    run = stage(folder, "adapt", *SWEEP, resume=True)
    assert compared(run) == compared(swept)


def test_a_sweep_leaves_its_table(swept):
    with (swept.path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["learning_rate"]), row["status"]) for row in rows] == [
        *((0.001, "ok"), (0.01, "ok"), (1e30, "diverged"))
    ]
    assert [row["documents"] for row in rows[:2]] == ["6", "6"]
    best = min(rows[:2], key=lambda row: float(row["nll"]))
    assert swept.read_scores()["learning_rate"] == float(best["learning_rate"])
    assert not list(swept.path.glob("sweep/*/checkpoints"))
    assert {path.stem for path in (swept.path / "answers").glob("*.csv")} == {
        f"{name}{kind}" for name in ("before", "after-4", "after-8", "after") for kind in ("", "-unrelated")
    }


LIGHT = (
    *("light_tuning.enabled=true", "light_tuning.max_steps=3", "light_tuning.batch_size=4", "light_tuning.layers=1"),
    *("light_tuning.accumulation=1", "light_tuning.evaluate_every=1", "light_tuning.learning_rate=0.01"),
    *("adapt.epochs=2", "adapt.documents_per_update=3", *BASE[:3]),
)


@pytest.mark.parametrize("adapter", [(), ("adapter.method=lora", "adapter.r=4")], ids=["whole", "lora"])
def test_light_tuning_and_passes_killed(trained, tmp_path, adapter):
    settings = [*LIGHT, *adapter]
    if adapter:
        settings.remove("light_tuning.layers=1")
    whole = stage(copy(trained, tmp_path / "whole"), "adapt", *settings)
    folder = copy(trained, tmp_path / "parts")
    for place, call in (
        (UPDATE, 13),  # the second pass
        ("taskloom.online.qa_trainer:QATrainer.compute_loss", 3),
        ("taskloom.runs:RunFolder.write_scores", 1),  # when it has been tuned
    ):
        killed_at(place, call, ["online", "adapt", "r.yaml", *settings, "--resume"], folder)
    run = stage(folder, "adapt", *settings, resume=True)
    assert compared(run) == compared(whole)
    assert run.read_scores()["documents"]["applied"] == 16
    stream_only = stage(folder, "adapt", *settings, "light_tuning.enabled=false", "output=none")
    changed = {name for name, value in weights(stream_only).items() if not torch.equal(value, weights(run)[name])}
    if adapter:
        assert changed
    else:  # the last block, and what follows it
        assert changed
        assert all(name.startswith(("transformer.h.1.", "transformer.ln_f.")) for name in changed)


# What a run is


def by_hand(trained, texts, base="lm", weighter=None, **options):
    folder = trained / base
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    adapt(model, tokenizer, texts, weighter or UniformWeighter(), learning_rate=0.001, max_length=24, **options)
    return model.state_dict()


def agrees(found, expected):
    return all(torch.equal(found[name], expected[name]) for name in found)


def test_the_model_is_the_one_adapted_by_hand(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        recipe = load_recipe("r.yaml")
    texts = [document.text for document in read_role(recipe, "stream", "adapt").stream(None, 0).documents]
    run = stage(folder, "adapt", *BASE)
    assert agrees(weights(run), by_hand(trained, texts))
    scaled = stage(folder, "adapt", *BASE, "adapt.loss_length=100", "output=other")
    assert agrees(weights(scaled), by_hand(trained, texts, loss_length=100))
    assert not agrees(weights(scaled), weights(run))
    tuned = trained / "runs/r/tune-qa/best-nll"
    learned = LearnedWeighter.load(
        trained / "runs/r/meta-train/weighter", for_tokenizer=AutoTokenizer.from_pretrained(tuned)
    )
    run = stage(folder, "adapt", "answers.generate=false")
    assert agrees(weights(run), by_hand(trained, texts, "runs/r/tune-qa/best-nll", learned))
    assert sorted(run.read_scores()["before"]) == ["stream", "unrelated"]
    assert sorted(run.read_scores()["before"]["stream"]) == ["nll"]


def test_recomputed_activations_change_nothing(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    runs = [
        stage(
            folder,
            "adapt",
            *BASE,
            f"model.gradient_checkpointing={on}",
            f"output=checkpointing-{on}",
            "adapt.evaluate_before=false",
        )
        for on in ("false", "true")
    ]
    assert weights(runs[0]).keys() == weights(runs[1]).keys()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*(weights(run).values() for run in runs), strict=True))
    assert "before" in runs[0].read_scores()
    assert not runs[0].read_scores()["before"]


def test_adapters_are_merged_into_a_plain_model(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    run = stage(folder, "adapt", *BASE, "adapter.method=lora", "adapter.r=4", "adapt.learning_rate=0.05")
    start, found = (
        AutoModelForCausalLM.from_pretrained(folder / "lm"),
        AutoModelForCausalLM.from_pretrained(run.path / "model"),
    )
    assert start.state_dict().keys() == found.state_dict().keys()
    changed = {n for n, value in found.state_dict().items() if not torch.equal(value, start.state_dict()[n])}
    assert changed
    assert all(".c_attn.weight" in name for name in changed), changed
    meta = stage(
        folder,
        "meta-train",
        *("adapter.method=lora", "adapter.r=4", "meta_train.base=lm", "output=m", "meta_train.max_steps=2"),
    )
    assert LearnedWeighter.load(meta.path / "weighter")
    with pytest.raises(RecipeError, match=r"adapter\.method: ca_mtl belongs to training on tasks"):
        stage(folder, "adapt", *BASE, "adapter.method=ca_mtl", "output=other")


# Weighters


def test_a_weighter_of_another_tokenizer(trained, tmp_path):
    folder = copy(trained, tmp_path / "p", ["meta-train"])
    tokenizer = json.loads((folder / "lm/tokenizer.json").read_text())
    other = shutil.copytree(folder / "lm", folder / "other")
    vocabulary = tokenizer["model"]["vocab"]
    size = len(vocabulary)
    tokenizer["model"]["vocab"] = {
        token: index if index < 4 else size + 3 - index for token, index in vocabulary.items()
    }  # words have other ids
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    made = stage(folder, "meta-train", "weighter.model=other", "meta_train.max_steps=2")
    run = stage(folder, "adapt", "answers.generate=false", "adapt.unrelated_questions=false")
    assert run.read_scores()["documents"]["applied"] == 8
    weighter = LearnedWeighter.load(made.path / "weighter")
    assert weighter.tokenizer.convert_tokens_to_ids("film") != AutoTokenizer.from_pretrained(
        folder / "lm"
    ).convert_tokens_to_ids("film")
    own, base = LearnedWeighter.load(made.path / "weighter"), AutoTokenizer.from_pretrained(folder / "lm")
    carried = LearnedWeighter.load(made.path / "weighter", for_tokenizer=base)
    text = "the film was good"
    given = [encode_documents([text], each, 24)[0][0] for each in (own.tokenizer, base)]
    with torch.no_grad():
        expected, found = own(**given[0]), carried(**given[1])
    assert torch.allclose(expected, found, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["weighter.path=lm"], "holds a plain gpt2 model, not a weighter"),
        (["weighter.path=none"], "none: does not exist"),
        (["weighter.path=runs/r/tune-qa"], "runs/r/tune-qa"),
        (["adapt.layers=3"], "adapt.layers: `layers` must be from 1 to 2"),
        (["light_tuning.enabled=true", "light_tuning.layers=3"], "light_tuning.layers: `layers` must be"),
        (["adapt.learning_rate=[1e-3,1e-4]", "answers.generate=false"], "adapt.choose_on: is f1, but answers.generate"),
        (["adapt.learning_rate=[1e-3,1e-4]", "questions.meta_dev=null"], "questions.meta_dev"),
        (["questions.max_document_length=65"], "questions.max_document_length: 65 tokens are more than"),
        (["questions.max_question_length=62"], "questions.max_question_length: 68 tokens with an answer"),
        (["weighter.kind=tfidf", "weighter.corpus=none.txt"], "none.txt"),
        (["adapt.base=none"], "adapt.base"),
    ],
)
def test_mistakes_before_anything_is_written(trained, tmp_path, settings, message):
    folder = copy(trained, tmp_path / "p")
    before = files(folder)
    with pytest.raises(UserError) as told:
        stage(folder, "adapt", *settings)
    assert message in str(told.value)
    assert files(folder).keys() == before.keys()


def test_a_weighter_of_another_architecture(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    config = folder / "runs/r/meta-train/weighter/config.json"
    settings = json.loads(config.read_text())
    before = json.dumps(settings)
    config.write_text(before.replace('"n_layer": 2', '"n_layer": 3'))
    assert config.read_text() != before
    with pytest.raises(RunError, match=r"meta-train/weighter"):
        stage(folder, "adapt")


def test_meta_training_that_diverges_leaves_no_finished_run(trained, tmp_path):
    folder = copy(trained, tmp_path / "p", ["meta-train"])
    with pytest.raises(RunError, match=r"not finite at any step.*meta_train\.inner_lr"):
        stage(folder, "meta-train", "meta_train.inner_lr=1e30")
    assert not (folder / "runs/r/meta-train/finished.json").exists()


# Where stages are


def test_the_folders_of_stages_belong_together(trained, monkeypatch):
    monkeypatch.chdir(trained)

    def folders(*settings):
        recipe = load_recipe("r.yaml", list(settings))
        return [str(stage_folder(recipe, verb).relative_to(trained)) for verb in get_args(Stage)]

    assert folders() == ["runs/r/tune-qa", "runs/r/meta-train", "runs/r/adapt-learned"]
    assert folders("output=adapt-study") == [
        "adapt-study/tune-qa",
        "adapt-study/meta-train",
        "adapt-study/adapt-learned",
    ]
    assert folders("output=x/adapt-uniform", "weighter.kind=tfidf")[1:] == ["x/meta-train", "x/adapt-tfidf"]


def test_earlier_stages_that_are_missing(tmp_path):
    folder = write_project(tmp_path)
    before = files(folder)
    for verb, field in (("meta-train", "meta_train.base"), ("adapt", "adapt.base")):
        with pytest.raises(
            RunError, match=f"there is no tuned model here. Run `taskloom online tune-qa`.*{field}=FOLDER"
        ):
            stage(folder, verb)
    with pytest.raises(RunError, match=r"there is no weighter here\. Run `taskloom online meta-train`"):
        stage(folder, "adapt", "adapt.base=lm")
    assert files(folder) == before


# Mistakes on the way


def test_a_run_that_diverged_can_be_mended_in_its_folder(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    with pytest.raises(DivergedError, match=r"Lower adapt\.learning_rate"):
        stage(folder, "adapt", *BASE, "adapt.learning_rate=1e30")
    with pytest.raises(RunError, match=r"adapt\.learning_rate: the model diverged with every one of 1e\+30, 1e\+31"):
        stage(folder, "adapt", *BASE, "adapt.learning_rate=[1e30,1e31]", "adapt.choose_on=nll")
    assert stage(folder, "adapt", *BASE).finished


def test_a_mistake_in_a_long_stream_costs_nothing_that_was_done(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    lines = [document.text for document in read_rows(folder, "stream")]
    source = folder / "news.jsonl"
    rows = [json.dumps({"text": text}) for text in lines]
    source.write_text("\n".join([*rows[:5], "{", *rows[5:]]) + "\n")
    with pytest.raises(UserError, match=r"news\.jsonl:6"):
        stage(folder, "adapt", *BASE, documents="news.jsonl", strict=True)
    source.write_text("\n".join(rows) + "\n")
    run = stage(folder, "adapt", *BASE, documents="news.jsonl", strict=True, resume=True)
    assert agrees(weights(run), by_hand(trained, lines))


def read_rows(folder, role):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return read_role(load_recipe("r.yaml"), role, "adapt").documents


def test_a_stream_of_one_document_of_several_parts(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    write_questions(folder / "stream.jsonl", [" ".join(["the film was good ."] * 10)])
    run = stage(folder, "adapt", *BASE)
    (entry,) = [json.loads(line) for line in (run.path / "documents.jsonl").read_text().splitlines()]
    assert (entry["parts"], entry["tokens"]) == (3, 50)


def test_the_first_documents_are_drawn_with_their_weights(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    run = stage(folder, "adapt", "answers.generate=false", "adapt.pictures=3", "adapt.epochs=2")
    tokenizer = AutoTokenizer.from_pretrained(folder / "runs/r/tune-qa/best-nll")
    weighter = LearnedWeighter.load(folder / "runs/r/meta-train/weighter", for_tokenizer=tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stream = read_role(load_recipe("r.yaml"), "stream", "adapt").stream(None, 0)
    texts = [document.text for document in stream.documents[:3]]
    found = json.loads((run.path / "weights/documents.json").read_text())["documents"]
    for document, text in zip(found, texts, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert "".join(document["tokens"]).strip() == text
        assert document["weights"] == weighter(ids, torch.ones_like(ids))[0].tolist()
    page = (run.path / "weights/documents.html").read_text()
    assert all(document["title"] in page for document in found)
    assert (run.path / "weights/documents.png").stat().st_size > 1000


def test_nothing_is_drawn_where_nothing_is_asked_for(trained, tmp_path):
    folder = copy(trained, tmp_path / "p")
    run = stage(folder, "adapt", *BASE, "adapt.pictures=0")
    assert not (run.path / "weights").exists()


def test_of_equal_rates_the_lowest_and_of_done_ones_the_table(tmp_path):
    tried = []

    def trial(rate, folder):
        tried.append(rate)
        if rate == 3.0:
            raise DivergedError("diverged")
        return {"documents": 1, "nll": 1.0 if rate < 2 else float("nan"), "f1": 0.5}

    assert choose_rate([1.0, 0.5, 2.0, 3.0], "f1", trial, tmp_path) == 0.5
    assert choose_rate([1.0, 0.5, 2.0, 3.0], "nll", trial, tmp_path) == 0.5
    assert tried == [1.0, 0.5, 2.0, 3.0]
    with pytest.raises(RunError, match="every one of 2, 3"):
        choose_rate([2.0, 3.0], "f1", trial, tmp_path / "other")


def test_an_empty_question_set_streams_nothing():
    assert QuestionSet(()).stream().documents == ()


def test_the_stage_is_made_without_touching_the_disk(trained, tmp_path, monkeypatch):
    folder = copy(trained, tmp_path / "p")
    before = files(folder)
    monkeypatch.chdir(folder)
    from rich.console import Console

    recipe = load_recipe("r.yaml")
    made = AdaptStage(recipe, None, False, Console(quiet=True))
    assert isinstance(made.weighter, LearnedWeighter)
    assert isinstance(build_weighter(load_recipe("r.yaml", ["weighter.kind=uniform"]), made.tokenizer), UniformWeighter)
    assert files(folder) == before
