"""`taskloom online`, as a user types it."""

import csv
import importlib
import io
import json
import os
import shlex
import shutil
import signal
import sys
import threading
import time

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from taskloom.cli import main
from taskloom.online.weighters import LearnedWeighter
from tests.cli.command import files, refused, run
from tests.online.tiny_project import COUNTS, documents, write_project, write_questions
from tests.tiny_language import WORDS

UNIFORM = ("weighter.kind=uniform", "adapt.base=lm", "answers.generate=false", "adapt.unrelated_questions=false")
VERBS = ("tune-qa", "meta-train", "adapt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working folder in which the three verbs have run in order; what they printed is in `printed`."""
    folder = write_project(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for verb in VERBS:
            err = io.StringIO()
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as end:
                main(["online", verb, "r.yaml"])
            assert not end.value.code, err.getvalue()
            (folder / f"printed-{verb}").write_text(err.getvalue())
    return folder


@pytest.fixture
def project(trained, tmp_path, monkeypatch):
    """A copy of the working folder with the runs tune-qa and meta-train."""
    folder = shutil.copytree(trained, tmp_path / "p", ignore=shutil.ignore_patterns("adapt-*"))
    monkeypatch.chdir(folder)
    return folder


def scores(folder, verb="adapt-uniform"):
    return json.loads((folder / "runs/r" / verb / "scores.json").read_text())


def model(folder, verb="adapt-uniform"):
    return (folder / "runs/r" / verb / "model/model.safetensors").read_bytes()


# The three verbs in order


def test_each_verb_leaves_a_run(trained):
    tuned, learned, adapted = (trained / "runs/r" / name for name in ("tune-qa", "meta-train", "adapt-learned"))
    for folder in (tuned, learned, adapted):
        assert {"recipe.yaml", "environment.json", "finished.json", "scores.json"} <= {
            path.name for path in folder.iterdir()
        }
    for name in ("best-nll", "best-f1", "best-exact-match"):
        AutoModelForCausalLM.from_pretrained(tuned / name)
    assert scores(trained, "tune-qa")["model"] == "best-nll"
    assert LearnedWeighter.load(learned / "weighter")
    assert {path.name for path in (learned / "weights").iterdir()} == {
        f"step-{step:06d}.{kind}" for step in (0, 2, 4) for kind in ("html", "json", "png")
    }
    AutoModelForCausalLM.from_pretrained(adapted / "model")
    assert set(load_file(adapted / "model/model.safetensors")) == set(load_file(trained / "lm/model.safetensors"))
    assert scores(trained, "adapt-learned")["documents"] == {
        "applied": COUNTS["stream"],
        "duplicates": 0,
        "skipped": 0,
        "tokens": COUNTS["stream"] * 12,
    }
    with (adapted / "answers/after.csv").open() as file:
        assert len(list(csv.DictReader(file))) == COUNTS["stream"]
    assert (adapted / "answers/before-unrelated.csv").is_file()


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_printed(trained, verb):
    printed = (trained / f"printed-{verb}").read_text()
    assert "Run folder: " in printed
    for word in ("Traceback", "Warning", "shards", "Loading"):
        assert word not in printed
    assert not any(line.startswith(("train ", "adapt ")) for line in printed.splitlines())  # no progress in a pipe


def test_json_is_one_object_and_nothing_else(project, capsys):
    outcome = run(capsys, "online", "adapt", "r.yaml", *UNIFORM, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    found = json.loads(outcome.out)
    assert found["run"] == str(project / "runs/r/adapt-uniform")
    assert found["documents"]["applied"] == COUNTS["stream"]
    assert sorted(found["after"]) == ["stream"]


def test_finished_runs_and_folders_that_are_not_empty(trained, tmp_path, monkeypatch, capsys):
    project = trained  # in its place: a copy's paths are others
    monkeypatch.chdir(project)
    for verb in ("tune-qa", "meta-train"):
        before = files(project / "runs/r" / verb)
        assert "holds a run already. Continue it with --resume" in refused(capsys, "online", verb, "r.yaml")
        outcome = run(capsys, "online", verb, "r.yaml", "--resume")
        assert outcome.code == 0
        assert "is finished: there is nothing to resume" in " ".join(outcome.err.split())
        after = files(project / "runs/r" / verb)
        assert {name for name in after if after[name] != before[name]} <= {"environment.json", ".lock"}
    other = "tune_qa.learning_rate=0.5"
    message = refused(capsys, "online", "tune-qa", "r.yaml", other, "--resume")
    assert "cannot resume with another recipe" in message
    assert "tune_qa.learning_rate: 0.01 -> 0.5" in message
    # What the stage does not follow may change.
    assert run(capsys, "online", "tune-qa", "r.yaml", "adapt.learning_rate=0.5", "--resume").code == 0
    (tmp_path / "thesis/adapt-uniform").mkdir(parents=True)
    (tmp_path / "thesis/adapt-uniform/thesis.tex").write_text("Years of work")
    message = refused(capsys, "online", "adapt", "r.yaml", *UNIFORM, f"output={tmp_path / 'thesis'}")
    assert "not empty (it holds thesis.tex) and not a run" in message
    assert [path.name for path in (tmp_path / "thesis/adapt-uniform").iterdir()] == ["thesis.tex"]


def test_the_run_folder_stands_for_its_recipe(trained, project, capsys):
    settings = ("questions.downsample_to=4", *UNIFORM)
    assert run(capsys, "online", "adapt", "r.yaml", *settings).code == 0
    assert "nothing to resume" in run(capsys, "online", "adapt", "runs/r/adapt-uniform", "--resume").err
    assert run(capsys, "online", "adapt", "runs/r/adapt-uniform", "output=again").code == 0
    assert (project / "again/adapt-uniform/model/model.safetensors").read_bytes() == model(project)


# Interrupts


@pytest.mark.parametrize(
    ("verb", "settings", "place", "call"),
    [
        ("tune-qa", (), "taskloom.online.qa_trainer:QATrainer.compute_loss", 3),
        ("meta-train", (), "taskloom.online.meta_trainer:MetaTrainer.training_step", 3),
        ("adapt", ("adapt.unrelated_questions=false",), "taskloom.online.adaptation:Adaptation.update", 5),
        ("adapt", (), "taskloom.online.stages.adapt:AdaptStage._score", 3),
        ("adapt", UNIFORM, "taskloom.online.stages.adapt:load_base", 1),
    ],
)
def test_interrupted_it_says_how_to_go_on(trained, project, capsys, monkeypatch, verb, settings, place, call):
    name = {"adapt": "adapt-uniform" if settings == UNIFORM else "adapt-learned"}.get(verb, verb)
    shutil.rmtree(project / "runs/r" / name, ignore_errors=True)
    module, _, path = place.partition(":")
    owner, calls = importlib.import_module(module), []
    *parents, last = path.split(".")
    for part in parents:
        owner = getattr(owner, part)
    function = getattr(owner, last)

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, last, interrupted)
        outcome = run(capsys, "online", verb, "r.yaml", *settings)
    assert outcome.code == 130, outcome.err
    assert "Traceback" not in outcome.err
    command = outcome.err.split("Continue with: ")[1].strip()
    assert command.startswith(f"taskloom online {verb} r.yaml")
    assert command.endswith(" --resume")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    outcome = run(capsys, *shlex.split(command)[1:])
    assert outcome.code == 0, outcome.err
    if settings != UNIFORM:
        kept = {"tune-qa": "best-nll/model.safetensors", "meta-train": "weighter/model.safetensors"}
        file = f"runs/r/{name}/{kept.get(verb, 'model/model.safetensors')}"
        assert (project / file).read_bytes() == (trained / file).read_bytes()


class Pipe:
    """Standard input that a test writes to."""

    def __init__(self, monkeypatch):
        reading, self.writing = os.pipe()
        monkeypatch.setattr(sys, "stdin", os.fdopen(reading, "r"))

    def write(self, lines):
        os.write(self.writing, "".join(f"{line}\n" for line in lines).encode())


def test_standard_input_interrupted_while_waiting(project, capsys, monkeypatch):
    texts = documents(6, seed=20)
    assert run(capsys, "online", "adapt", "r.yaml", *UNIFORM, "--documents", lines(project, texts)).code == 0
    expected = model(project)
    shutil.rmtree(project / "runs/r/adapt-uniform")

    pipe, log = Pipe(monkeypatch), project / "runs/r/adapt-uniform/documents.jsonl"

    def interrupt():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (log.is_file() and log.read_text().count("\n") == 4):
            time.sleep(0.01)
        time.sleep(0.2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    pipe.write(texts[:4])
    thread = threading.Thread(target=interrupt)
    thread.start()
    outcome = run(capsys, "online", "adapt", "r.yaml", *UNIFORM, "--documents", "-")
    thread.join()
    assert outcome.code == 130
    assert outcome.err.strip().endswith("--documents - --resume")
    pipe = Pipe(monkeypatch)
    pipe.write(texts)  # all of them again
    os.close(pipe.writing)
    outcome = run(capsys, "online", "adapt", "r.yaml", *UNIFORM, "--documents", "-", "--resume")
    assert outcome.code == 0, outcome.err
    assert "Resuming after 4 documents applied" in outcome.err
    assert model(project) == expected


def lines(folder, texts):
    path = folder / "s.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path.name


# Documents


def bad_folder(folder):
    """Two good documents and four that cannot be used."""
    news = folder / "news"
    news.mkdir()
    good = documents(2, seed=30)
    (news / "a.txt").write_text(good[0])
    (news / "b-empty.txt").write_text("")
    (news / "c-huge.txt").write_text("film " * 1000)
    (news / "d-binary.txt").write_bytes(b"\x00\x01\x02" * 9)
    (news / "e-latin.txt").write_bytes("caf\xe9 film".encode("latin-1"))
    (news / "f.txt").write_text(good[1])
    return good


def test_documents_that_cannot_be_used(project, capsys):
    bad_folder(project)
    settings = ("online", "adapt", "r.yaml", *UNIFORM, "adapt.max_characters=1000", "--documents", "news")
    assert run(capsys, *settings).code == 0
    assert scores(project)["documents"]["applied"] == 2
    assert scores(project)["documents"]["skipped"] == 4
    entries = [json.loads(line) for line in (project / "runs/r/adapt-uniform/documents.jsonl").read_text().splitlines()]
    reasons = {entry["name"]: entry["reason"] for entry in entries if entry["status"] == "skipped"}
    assert list(reasons) == ["b-empty.txt", "c-huge.txt", "d-binary.txt", "e-latin.txt"]
    for name, word in zip(reasons, ("empty", "too large", "binary", "not UTF-8"), strict=True):
        assert word in reasons[name]
    message = refused(capsys, *settings, "--strict", "output=strict")
    assert "b-empty.txt: empty" in message


def test_a_dry_run_changes_nothing_and_needs_no_model(project, capsys):
    bad_folder(project)
    shutil.rmtree(project / "runs/r/meta-train/checkpoints")
    for weights in project.rglob("model.safetensors"):
        if weights.parent.name != "weighter":
            weights.unlink()
    before = files(project)
    outcome = run(capsys, "online", "adapt", "r.yaml", "--documents", "news", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "a.txt: 12 tokens, weights " in outcome.out
    assert "b-empty.txt: skipped: empty" in outcome.err
    outcome = run(capsys, "online", "adapt", "r.yaml", "--dry-run", "--json")
    found = json.loads(outcome.out)["documents"]
    assert len(found) == COUNTS["stream"]
    assert all(len(each["tokens"]) == len(each["weights"]) == 12 for each in found)
    assert "b-empty.txt: empty" in refused_after_output(capsys, "--documents", "news")
    assert files(project) == before


def refused_after_output(capsys, *arguments):
    outcome = run(capsys, "online", "adapt", "r.yaml", "--dry-run", "--strict", *arguments)
    assert outcome.code == 2
    return outcome.err


def test_all_baselines_adapt(project, capsys):
    settings = ("adapt.base=lm", "answers.generate=false", "adapt.unrelated_questions=false")
    assert run(capsys, "online", "adapt", "r.yaml", "weighter.kind=tfidf", *settings).code == 0
    sweep = ("adapt.learning_rate=[1e-3, 1e-2]", "adapt.choose_on=nll")
    assert run(capsys, "online", "adapt", "r.yaml", *UNIFORM, *sweep).code == 0
    assert (project / "runs/r/adapt-uniform/sweep.csv").is_file()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adapt", "r.yaml", "--documents", "nowhere"), "nowhere"),
        (("adapt", "r.yaml", "weighter.kind=tf-idf"), "weighter.kind"),
        (("adapt", "r.yaml", "weighter.path=lm"), "holds a plain gpt2 model, not a weighter"),
        (("adapt", "r.yaml", "adapt.epochs=2", "--documents", "-"), "adapt.epochs: is 2, but standard input"),
        (("adapt", "r.yaml", "adapt.learning_rates=1"), "Did you mean 'adapt.learning_rate'?"),
        (("tune-qa", "r.yaml", "questions.qa_train=null", "output=x"), "questions.qa_train: tune-qa needs it"),
        (("tune-qa", "r.yaml", "tune_qa.generate=false", "tune_qa.stop_on=f1", "output=x"), "stop_on is f1, but"),
        (("tune-qa", "r.yaml", "tune_qa.layers=9", "output=x"), "tune_qa.layers: `layers` must be from 1 to 2"),
        (("tune-qa", "r.yaml", "questions.qa_train=bad.csv", "output=x"), "bad.csv"),
        (("tune-qa", "r.yaml", "questions.qa_train=number.jsonl", "output=x"), "number.jsonl:2"),
        (("meta-train", "r.yaml", "weighter.kind=uniform", "output=x", "meta_train.base=lm"), "weighter.kind: is unif"),
        (("meta-train", "r.yaml", "questions.web_text=null", "output=x", "meta_train.base=lm"), "questions.web_text"),
        (("meta-train", "r.yaml", "output=x"), "there is no tuned model here. Run `taskloom online tune-qa`"),
        (("show", "lm", "--text", "web.txt"), "holds a plain gpt2 model, not a weighter"),
        (("show", "runs/r/meta-train", "--text", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("show", "runs/r/meta-train", "--text", "empty.txt"), "empty.txt: holds no text"),
        (("show", "runs/r/meta-train", "--text", "latin.txt"), "latin.txt: not UTF-8 text (byte 3)"),
        (("show", "runs/r/none", "--text", "web.txt"), "runs/r/none"),
    ],
)
def test_mistakes_are_one_message(project, capsys, arguments, message):
    (project / "bad.csv").write_text("text,question\na,b\n")
    (project / "number.jsonl").write_text(
        '{"document": "the film", "question": "is it ?", "answers": ["yes"]}\n'
        '{"document": "the book", "question": "is it ?", "answers": [3]}\n'
    )
    (project / "empty.txt").write_text(" \n")
    (project / "latin.txt").write_bytes(b"caf\xe9")
    assert message in refused(capsys, "online", *arguments)
    assert not list((project / "x").rglob("recipe.yaml"))
    assert not list(project.rglob("adapt-*/recipe.yaml"))


def test_a_pipeline_of_spacy_that_is_not_installed(project, capsys):
    message = refused(
        capsys, "online", "adapt", "r.yaml", "weighter.kind=salient", "weighter.language=xx_none", "adapt.base=lm"
    )
    assert "spacy" in message.lower()
    assert "python -m spacy download xx_none" in message or "pip install" in message


@pytest.mark.parametrize("verb", ["train", "affinity", "auxiliary"])
def test_verbs_on_tasks_want_tasks(project, capsys, verb):
    settings = ["auxiliary.space=tapt"] if verb == "auxiliary" else []
    assert "there are no tasks" in refused(capsys, verb, "r.yaml", "output=x", *settings)
    assert not (project / "x").exists() or not any((project / "x").rglob("recipe.yaml"))


# Looking


@pytest.mark.parametrize("what", ["runs/r/meta-train", "runs/r/meta-train/weighter", "r.yaml"])
def test_show_finds_the_weighter(project, capsys, what):
    (project / "text.txt").write_text("the film was <b> good </b> .")
    outcome = run(capsys, "online", "show", what, "--text", "text.txt", "--json")
    assert outcome.code == 0, outcome.err
    (found,) = json.loads(outcome.out)["documents"]
    expected = LearnedWeighter.load(project / "runs/r/meta-train/weighter")
    ids = expected.tokenizer("the film was <b> good </b> .", return_tensors="pt", return_token_type_ids=False)
    assert found["weights"] == pytest.approx(expected(**ids)[0].tolist(), abs=1e-6)


def test_show_draws(trained, project, capsys, monkeypatch):
    (project / "text.txt").write_text(" ".join(WORDS))
    adapted = trained / "runs/r/adapt-learned"
    outcome = run(capsys, "online", "show", adapted, "--text", "text.txt", "--html", "p.html", "--png", "p.png")
    assert (outcome.code, outcome.out) == (0, ""), outcome.err
    assert "<script src" not in (project / "p.html").read_text()
    assert (project / "p.png").read_bytes().startswith(b"\x89PNG")
    pipe = Pipe(monkeypatch)
    pipe.write(["the film"])
    os.close(pipe.writing)
    outcome = run(capsys, "online", "show", "runs/r/meta-train", "--text", "-")
    assert outcome.out.startswith("standard input: 2 tokens, weights ")
    assert len(outcome.out.splitlines()) == 3


@pytest.mark.parametrize("verb", [*VERBS, "show"])
def test_help(capsys, verb):
    outcome = run(capsys, "online", verb, "--help")
    assert outcome.code == 0
    assert f"taskloom online {verb}" in outcome.out
    assert ("--resume" in outcome.out) == (verb != "show")


def test_a_document_with_several_questions_is_applied_once(project, capsys):
    texts = documents(3, seed=40)
    write_questions(project / "stream.jsonl", [texts[0], *texts])
    assert run(capsys, "online", "adapt", "r.yaml", *UNIFORM).code == 0
    assert scores(project)["documents"]["applied"] == 3
