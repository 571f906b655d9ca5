"""Wrong inputs of every verb, and what the user is told: `python -m tests.cli.error_audit FILE` writes them as a table.

Each case is a command in a working folder of its own, which a mistake was made in. `test_error_audit.py` runs them all
and holds them to the rules: exit code 2, one message that names what is wrong, no traceback, no run left behind.
"""

import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import yaml

from taskloom.cli import main
from tests.cli.conftest import write_recipe
from tests.online.tiny_project import write_project
from tests.tiny import tiny_encoder, tiny_tasks

Mistake = Callable[[], AbstractContextManager[object] | None]


@dataclass(frozen=True)
class Case:
    """A command, the mistake that is made in its working folder first, and what its message must hold."""

    name: str
    command: Sequence[str]
    told: Sequence[str]
    mistake: Mistake = lambda: None


def make_project(folder: Path) -> None:
    """Write data, a model, recipes and a finished run, as the commands expect them in their working folder."""
    with contextlib.chdir(folder):
        tiny_encoder(folder / "encoder")
        tasks = [{**task, "path": os.path.relpath(task["path"])} for task in tiny_tasks(folder / "data")]
        write_recipe(Path("tiny.yaml"), Path("./encoder"), tasks, data={"cache": "cache"})
        for name in ("lm", "online"):
            Path(name).mkdir()
        write_project(Path("online"))
        assert outcome(["train", "tiny.yaml", "training.max_steps=2", "training.evaluate_every=1", "-q"]).code == 0


@dataclass(frozen=True)
class Told:
    """Exit code and what was printed."""

    code: object
    out: str
    err: str


def outcome(command: Sequence[str]) -> Told:
    """Run a command in this process and this working folder."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(command))
        except SystemExit as end:
            code: object = end.code
        except BaseException as error:
            code, message = type(error).__name__, str(error)
            err.write(f"TRACEBACK {message}")
    return Told(code, out.getvalue(), err.getvalue())


def run_case(case: Case, project: Path) -> Told:
    """Make the mistake in the project, run the command there, and put the project back as it was.

    A copy at another place would not do: runs know their data by absolute paths.
    """
    kept = project.with_name("kept")
    shutil.copytree(project, kept)
    try:
        with contextlib.chdir(project), contextlib.ExitStack() as stack:
            if (around := case.mistake()) is not None:
                stack.enter_context(around)
            return outcome(case.command)
    finally:
        shutil.rmtree(project)
        kept.rename(project)


# --- mistakes


def content(path: str, text: str | bytes) -> Mistake:
    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(text.encode() if isinstance(text, str) else text)

    return write


def more(path: str, text: str) -> Mistake:
    return lambda: content(path, Path(path).read_text("utf-8") + text)()


def cut(path: str) -> Mistake:
    """Leave the first half of a file, as a kill or a full disk may."""

    def halve() -> None:
        found = next(Path().glob(path))
        found.write_bytes(found.read_bytes()[: found.stat().st_size // 2])

    return halve


def both(first: Mistake, second: Mistake) -> Mistake:
    def make() -> None:
        first()
        second()

    return make


def removed(path: str) -> Mistake:
    def remove() -> None:
        found = next(Path().glob(path))
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return remove


def recipe(change: Callable[[dict], object], path: str = "tiny.yaml") -> Mistake:
    def rewrite() -> None:
        values = yaml.safe_load(Path(path).read_text("utf-8"))
        change(values)
        Path(path).write_text(yaml.safe_dump(values), "utf-8")

    return rewrite


def without(*modules: str) -> Mistake:
    """Be without these packages."""
    return lambda: mock.patch.dict(sys.modules, dict.fromkeys(modules))


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: what a full disk does, in a process of one's own."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


TRAIN = ("train", "tiny.yaml", "output=runs/new")
SENTIMENT = "data/sentiment/train.jsonl"
PREDICT = ("predict", "runs/tiny", "--task", "sentiment", "--input", "new.csv")
NEW = content("new.csv", "text\ngood film\n")

CASES = [
    # the command itself
    Case("unknown verb", ["trian", "tiny.yaml"], ["'trian'", "Did you mean 'train'?"]),
    Case("unknown verb below online", ["online", "adpt"], ["'adpt'", "Did you mean 'adapt'?"]),
    Case("unknown option", [*TRAIN, "--resum"], ["--resum", "--resume", "taskloom train --help"]),
    Case("option without its value", ["predict", "runs/tiny"], ["--task", "taskloom predict --help"]),
    Case("option of a wrong type", ["demo", "--seed", "x"], ["--seed"]),
    Case("choice that is none", ["group", "runs/tiny", "--method", "sdpp"], ["--method", "'sdpp'", "'spectral'"]),
    # the recipe
    Case("no such recipe file", ["train", "tinny.yaml"], ["tinny.yaml", "Did you mean 'tiny.yaml'?"]),
    Case("no such packaged recipe", ["train", "ca-mtl/bse"], ["ca-mtl/bse", "Did you mean 'ca-mtl/base'?"]),
    Case("folder that holds no recipe", ["train", "data"], ["data", "recipe"]),
    Case("not YAML", ["train", "bad.yaml"], ["bad.yaml:3: not valid YAML"], content("bad.yaml", "a: 1\nmodel: [\n")),
    Case("not UTF-8", ["train", "bad.yaml"], ["bad.yaml: not UTF-8"], content("bad.yaml", b"name: caf\xe9\n")),
    Case("a list", ["train", "bad.yaml"], ["bad.yaml", "mapping", "found a list"], content("bad.yaml", "- a\n")),
    Case("empty", ["train", "bad.yaml"], ["bad.yaml", "found an empty file"], content("bad.yaml", "")),
    Case(
        "unknown field in the file",
        TRAIN,
        ["tiny.yaml:", "training.epoch'", "Did you mean 'training.epochs'?"],
        recipe(lambda values: values["training"].update(epoch=1)),
    ),
    Case("unknown field", [*TRAIN, "training.epoch=3"], ["'training.epoch'", "Did you mean 'training.epochs'?"]),
    Case("wrong type", [*TRAIN, "training.epochs=many"], ["training.epochs", "'many'", "expected number"]),
    Case("out of range", [*TRAIN, "training.batch_size=0"], ["training.batch_size", "0"]),
    Case("no setting", [*TRAIN, "epochs"], ["'epochs'", "training.epochs=3"]),
    Case("no tasks", [*TRAIN, "tasks=[]"], ["tasks"]),
    Case("no model", TRAIN, ["model"], recipe(lambda values: values.pop("model"))),
    Case("contradiction", [*TRAIN, "training.bogus.deep=1"], ["training.bogus"]),
    Case("unknown sampling", [*TRAIN, "sampling.strategy=unifrom"], ["sampling.strategy", "Did you mean 'uniform'?"]),
    Case("unknown method", [*TRAIN, "adapter.method=lorra"], ["lorra", "Did you mean 'lora'?"]),
    Case(
        "unknown setting of a PEFT method",
        [*TRAIN, "adapter.method=lora", "adapter.lora_alfa=8"],
        ["lora_alfa", "Did you mean 'lora_alpha'?"],
    ),
    Case("fp16 without a GPU", [*TRAIN, "training.precision=fp16"], ["training.precision", "fp16 needs a GPU"]),
    Case("length beyond the model's", [*TRAIN, "data.max_length=65"], ["data.max_length", "65", "(64)"]),
    Case("unknown preset", [*TRAIN, "tasks=[glue/rtr]"], ["'glue/rtr'", "Did you mean 'glue/rte'?"]),
    Case("only a task that is none", [*TRAIN, "only=[sentimant]"], ["sentimant", "Did you mean 'sentiment'?"]),
    Case("unknown packaged recipe to show", ["recipes", "ca-mtl/bas"], ["Did you mean 'ca-mtl/base'?"]),
    # the data
    Case("missing file", TRAIN, ["sentiment", "dev"], removed("data/sentiment/dev.jsonl")),
    Case("missing data folder", [*TRAIN, "data.dir=nowhere"], ["nowhere"]),
    Case(
        "missing column",
        TRAIN,
        [SENTIMENT, "'texts'", "Did you mean 'text'?"],
        recipe(lambda values: values["tasks"][0].update(inputs=["texts"])),
    ),
    Case("empty file", TRAIN, ["dev.jsonl", "is empty"], content("data/sentiment/dev.jsonl", "")),
    Case("data not UTF-8", TRAIN, [SENTIMENT, "UTF-8"], content(SENTIMENT, b'{"text": "caf\xe9", "label": "pos"}\n')),
    Case(
        "label not in the list",
        TRAIN,
        [f"{SENTIMENT}:41", "'poss'", "'pos'"],
        more(SENTIMENT, '{"text":"a","label":"poss"}\n'),
    ),
    Case("half a line", TRAIN, [f"{SENTIMENT}:", "malformed JSON"], cut(SENTIMENT)),
    Case(
        "field too many",
        TRAIN,
        ["train.csv:3", "found 3 fields, expected 2"],
        both(content("data/sentiment/train.csv", "text,label\na,pos\na,pos,b\n"), removed(SENTIMENT)),
    ),
    Case(
        "no number",
        TRAIN,
        ["strength/train.jsonl:41", "score"],
        more("data/strength/train.jsonl", '{"text":"a","score":"x"}\n'),
    ),
    Case(
        "two tasks of one name",
        TRAIN,
        ["two tasks are named 'sentiment'"],
        recipe(lambda values: values["tasks"].append(values["tasks"][0])),
    ),
    Case(
        "task name that is no file name",
        TRAIN,
        ["'a/b'", "letters, digits"],
        recipe(lambda values: values["tasks"][0].update(name="a/b")),
    ),
    # the model
    Case("no model in the folder", [*TRAIN, "model.path=./data"], ["model.path", "data"]),
    Case("no such folder", [*TRAIN, "model.path=./encodr"], ["model.path", "encodr"]),
    Case("unknown hub id", [*TRAIN, "model.path=nobody/nothing"], ["nobody/nothing"]),
    Case("package that is not installed", [*TRAIN, "model.path=package:no-such/model"], ["no-such", "pip install"]),
    Case("half a model", TRAIN, ["encoder"], cut("encoder/model.safetensors")),
    Case("half a configuration", TRAIN, ["encoder"], cut("encoder/config.json")),
    # Without the package gguf it is that which is told, and with it the file.
    Case("gguf file that is missing", [*TRAIN, "model.gguf_file=none.gguf"], ["gguf"]),
    # the run folder
    Case("output is a file", ["train", "tiny.yaml", "output=tiny.yaml"], ["tiny.yaml", "file"]),
    Case("output below a file", ["train", "tiny.yaml", "output=tiny.yaml/run"], ["tiny.yaml"]),
    Case("output that cannot be made", ["train", "tiny.yaml", "output=/proc/run"], ["/proc/run"]),
    Case("output is not empty", ["train", "tiny.yaml", "output=data"], ["data", "not empty", "output=FOLDER"]),
    Case("run is there already", ["train", "tiny.yaml"], ["runs/tiny", "--resume"]),
    Case("resumed with another recipe", ["train", "tiny.yaml", "--resume", "seed=5"], ["runs/tiny", "seed: 0 -> 5"]),
    Case("resume of nothing", ["train", "runs/none", "--resume"], ["runs/none"]),
    Case(
        "half a recipe in the run",
        ["evaluate", "runs/tiny"],
        ["runs/tiny/recipe.yaml"],
        content("runs/tiny/recipe.yaml", "model: {path: ["),
    ),
    Case("full disk", TRAIN, ["runs/new", "File too large"], lambda: small_disk(2048)),
    Case("full disk at the checkpoint", TRAIN, ["runs/new", "File too large"], lambda: small_disk(8_000)),
    Case("full disk at the optimizer's state", TRAIN, ["runs/new", "is the disk full?"], lambda: small_disk(60_000)),
    # evaluate
    Case(
        "half a log",
        ["train", "runs/tiny", "--resume"],
        ["metrics.jsonl:1"],
        both(content("runs/tiny/metrics.jsonl", "half\n"), removed("runs/tiny/finished.json")),
    ),
    Case(
        "half the scores", ["train", "runs/tiny", "--resume", "--json"], ["scores.json"], cut("runs/tiny/scores.json")
    ),
    Case(
        "half a checkpoint",
        ["train", "runs/tiny", "--resume"],
        ["checkpoint-2"],
        both(cut("runs/tiny/checkpoints/checkpoint-2/encoder/model.safetensors"), removed("runs/tiny/finished.json")),
    ),
    Case(
        "half an optimizer's state",
        ["train", "runs/tiny", "--resume"],
        ["checkpoint-1"],
        both(
            both(removed("runs/tiny/checkpoints/checkpoint-2"), removed("runs/tiny/finished.json")),
            cut("runs/tiny/checkpoints/checkpoint-1/optimizer.pt"),
        ),
    ),
    Case(
        "run of a recipe that has gone on",
        ["train", "tiny.yaml", "--resume"],
        ["tasks", "text"],
        recipe(lambda values: values["tasks"][0].update(labels=["pos", "neg"])),
    ),
    Case("no such run", ["evaluate", "runs/none"], ["runs/none", "no such run folder"]),
    Case("not a run", ["evaluate", "data"], ["data: not a run folder"]),
    Case("no such split", ["evaluate", "runs/tiny", "--split", "tset"], ["'tset'", "test"]),
    Case("run without a model", ["evaluate", "runs/tiny"], ["runs/tiny"], removed("runs/tiny/model")),
    Case("half a trained model", ["evaluate", "runs/tiny"], ["runs/tiny"], cut("runs/tiny/model/**/*.safetensors")),
    Case("one file of two", ["evaluate", "mrqa", "gold.jsonl"], ["two files"]),
    Case(
        "gold file that is missing",
        ["evaluate", "squad", "gold.json", "p.json"],
        ["no file 'gold.json'"],
        content("p.json", "{}"),
    ),
    Case(
        "gold file that is no JSON",
        ["evaluate", "squad", "gold.json", "p.json"],
        ["gold.json:1", "malformed"],
        both(content("gold.json", "{"), content("p.json", "{}")),
    ),
    # predict
    Case(
        "unknown task",
        ["predict", "runs/tiny", "--task", "sentimant", "--input", "new.csv"],
        ["sentimant", "Did you mean"],
        NEW,
    ),
    Case("no such input", PREDICT, ["new.csv"]),
    Case("input without the column", PREDICT, ["new.csv", "'text'"], content("new.csv", "words\na\n")),
    Case("input not UTF-8", PREDICT, ["new.csv", "UTF-8"], content("new.csv", b"text\ncaf\xe9\n")),
    Case("unknown format", [*PREDICT, "--output", "y.xlsx"], ["'.xlsx'", ".jsonl"], NEW),
    Case(
        "output is a folder", [*PREDICT, "--output", "out.csv"], ["out.csv"], both(NEW, lambda: Path("out.csv").mkdir())
    ),
    Case("output is the input", [*PREDICT, "--output", "new.csv"], ["new.csv", "input file itself"], NEW),
    Case("batch of nothing", [*PREDICT, "--batch-size", "0"], ["--batch-size"], NEW),
    # affinity and group
    Case("affinity of one task", ["affinity", "tiny.yaml", "only=[same]", "output=runs/new"], ["task"]),
    Case(
        "affinity by an unknown order",
        ["affinity", "tiny.yaml", "affinity.order=pairwis"],
        ["affinity.order", "pairwise"],
    ),
    Case("group before affinity", ["group", "runs/tiny"], ["runs/tiny", "taskloom affinity"]),
    Case("groups of no number", ["group", "runs/tiny", "--k", "two"], ["--k", "'two'"]),
    Case(
        "half an affinity",
        ["group", "runs/tiny"],
        ["affinity.json"],
        content("runs/tiny/affinity/affinity.json", '{"tasks": ["a"'),
    ),
    Case("no groups", ["group", "runs/tiny", "--k", "0"], ["--k", "0"]),
    Case("train by groups of none", [*TRAIN, "groups=runs/none"], ["runs/none"]),
    Case("half a groups file", [*TRAIN, "groups=g.json"], ["g.json"], content("g.json", '[["sentiment"], ')),
    Case(
        "groups of an unknown task",
        [*TRAIN, "groups=g.json"],
        ["g.json", "sentimant"],
        content("g.json", '[["sentimant"]]'),
    ),
    # auxiliary
    Case("no search space", ["auxiliary", "tiny.yaml"], ["auxiliary.space", "tapt"]),
    Case(
        "unknown search space", ["auxiliary", "tiny.yaml", "auxiliary.space=tapd", "output=runs/new"], ["tapd", "tapt"]
    ),
    # sweep
    Case(
        "sweep over nothing known", ["sweep", "tiny.yaml", "training.epoch=1,2"], ["training.epoch", "training.epochs"]
    ),
    Case(
        "range that is none",
        ["sweep", "tiny.yaml", "training.epochs=range(3,1)"],
        ["training.epochs", "range(3,1)", "empty"],
    ),
    Case("random without a number", ["sweep", "tiny.yaml", "seed=1,2", "--search", "random"], ["--trials"]),
    Case("verb that does not train", ["sweep", "tiny.yaml", "--verb", "evaluate"], ["evaluate"]),
    Case("collect of nothing", ["sweep", "tiny.yaml", "--collect", "output=runs/none"], ["runs/none"]),
    Case(
        "sweep without Optuna",
        ["sweep", "tiny.yaml", "training.epochs=1,2", "output=runs/new"],
        ["taskloom[sweep]"],
        without("optuna"),
    ),
    Case(
        "Ray that is not installed",
        ["sweep", "tiny.yaml", "training.epochs=1,2", "--backend", "ray", "output=runs/new"],
        ["taskloom[sweep]"],
        without("ray"),
    ),
    # extras
    Case(
        "torchjd that is not installed",
        [*TRAIN, "training.aggregator=upgrad"],
        ["taskloom[aggregation]"],
        without("torchjd"),
    ),
    Case(
        "gguf that is not installed",
        [*TRAIN, "model.path=./lm", "model.gguf_file=model.gguf"],
        ["model.gguf_file", "taskloom[gguf]"],
        without("gguf"),
    ),
    # online
    Case("no questions", ["online", "tune-qa", "tiny.yaml", "output=runs/new"], ["questions"]),
    Case(
        "no such documents",
        ["online", "adapt", "online/r.yaml", "weighter.kind=uniform", "adapt.base=./online/lm", "--documents", "nws"],
        ["nws"],
    ),
    Case(
        "unknown weighter", ["online", "adapt", "online/r.yaml", "weighter.kind=unifrm"], ["weighter.kind", "uniform"]
    ),
    Case("weighter that was not trained", ["online", "adapt", "online/r.yaml"], ["taskloom online tune-qa"]),
    Case(
        "half a question file", ["online", "tune-qa", "online/r.yaml"], ["qa_train.jsonl"], cut("online/qa_train.jsonl")
    ),
    Case("no such text", ["online", "show", "online/r.yaml", "--text", "none.txt"], ["none.txt"]),
    Case(
        "text not UTF-8",
        ["online", "show", "online/r.yaml", "--text", "t.txt"],
        ["t.txt", "UTF-8"],
        content("t.txt", b"caf\xe9"),
    ),
    Case(
        "spaCy that is not installed",
        [
            "online",
            "adapt",
            "online/r.yaml",
            "weighter.kind=salient",
            "adapt.base=./online/lm",
            "--documents",
            "online/web.txt",
        ],
        ["taskloom[online]"],
        without("spacy"),
    ),
    # the others
    Case("demo into a file", ["demo", "--output", "tiny.yaml"], ["tiny.yaml"]),
    Case("demo of no model", ["demo", "--output", "runs/demo", "--model", "./none"], ["none"]),
    Case("doctor with no patience", ["doctor", "--hub-timeout", "0"], ["--hub-timeout"]),
    Case("report of nothing", ["report", "runs/none"], ["runs/none"]),
    Case("report of what is no run", ["report", "data"], ["data"]),
    Case("unknown stage", ["run", "tiny.yaml", "--only", "afinity", "output=runs/new"], ["afinity"]),
]


def write_table(path: Path) -> None:
    """Run every case and write a Markdown table of command, message and exit code."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        project = Path(place).resolve() / "project"
        project.mkdir()
        make_project(project)
        for case in CASES:
            told = run_case(case, project)
            message = told.err.strip().replace(str(project), "...").replace("\n", "<br>")
            command = " ".join(case.command)
            rows.append(f"| {case.name} | `taskloom {command}` | {message.replace('|', chr(92) + '|')} | {told.code} |")
    head = "| wrong input | command | what is printed | exit code |\n|---|---|---|---|\n"
    path.write_text(head + "\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
