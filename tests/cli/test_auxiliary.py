"""`taskloom auxiliary`, as a user types it."""

import contextlib
import csv
import io
import json
import random
import shutil

import pytest
import yaml
from matplotlib.figure import Figure

from taskloom import load
from taskloom.cli import main
from tests.auxiliary.support import masked_encoder
from tests.cli.command import files, refused, run
from tests.tiny import sentence, tiny_encoder, write_jsonl

SPACE = {
    "data": ["task"],
    "transforms": ["mask", "noisy-embedding"],
    "representations": ["bidirectional", "left-to-right"],
    "outputs": ["denoise", "cap", "next-sentence"],
}


#: Settings of a run that is not about training.
SHORT = ("training.max_steps=1", "auxiliary.final_finetuning=false")


def documents(count: int, sentences: int, seed: int) -> list[dict]:
    """Rows whose texts have some sentences; the label is whether there is a good word."""
    rng = random.Random(seed)
    texts = [" ".join(f"{sentence(rng, 4).capitalize()}." for _ in range(sentences)) for _ in range(count)]
    return [{"text": text, "label": "pos" if "good" in text.lower() else "neg"} for text in texts]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A working folder with a task, text of its domain and the recipe `tiny.yaml`, whose run is in `runs/tiny`."""
    folder = tmp_path_factory.mktemp("trained")
    masked_encoder(folder / "encoder", layers=2)
    for split, count in {"train": 24, "dev": 8, "test": 8}.items():
        write_jsonl(folder / "data" / f"{split}.jsonl", documents(count, 3, seed=count))
    write(folder)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.setenv("TASKLOOM_CACHE", str(folder / "cache"))
        with pytest.raises(SystemExit):
            main(["auxiliary", "tiny.yaml"])
    (folder / "printed").write_text(printed.getvalue())
    return folder


@pytest.fixture
def project(trained, tmp_path, monkeypatch):
    """A copy of the working folder without the run, in which pictures are not drawn."""
    shutil.copytree(trained, tmp_path, ignore=shutil.ignore_patterns("runs", "cache"), dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda *_args, **_settings: None)
    return tmp_path


def write(folder, **sections):
    content = {
        "model": {"path": "encoder"},
        "data": {"max_length": 32},
        "tasks": [{"name": "opinion", "inputs": ["text"], "path": "data", "metrics": ["macro_f1", "accuracy"]}],
        "training": {"max_steps": 6, "batch_size": 8, "learning_rate": 1e-3, "log_every": 1, "evaluate_every": 3},
        "auxiliary": {"space": SPACE, "batch_size": 12, "final_epochs": 1},
    }
    for name, fields in sections.items():
        content[name] = content.get(name, {}) | fields if isinstance(fields, dict) else fields
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_weights_ranking_pictures_and_scores(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    found = trained / "runs/tiny"
    assert "Auxiliary objectives by weight" in (trained / "printed").read_text()
    ranking = rows(found / "objectives.csv")
    assert len(ranking) == 10  # 2 transforms x (3 outputs bidirectional, 2 in order)
    assert sum(float(row["weight"]) for row in ranking) == pytest.approx(1, abs=1e-4)
    assert sum(int(row["sampled"]) for row in ranking) == 6 * 3
    history = rows(found / "objective_weights.csv")
    assert [int(row["step"]) for row in history] == [0, 1, 2, 3, 4, 5, 6]
    assert float(history[0]["primary"]) == 0.5 != float(history[-1]["primary"])
    assert (found / "stages.png").stat().st_size > 1000
    assert (found / "objectives.png").stat().st_size > 1000
    results = json.loads((found / "auxiliary.json").read_text())
    assert results["split"] == "test"
    assert set(results["pre"]["opinion"]) == set(results["post"]["opinion"]) == {"macro_f1", "accuracy"}
    assert results["kept"] in ("final", "auxiliary")
    assert (found / "final" / "finished.json").is_file()
    # The run is one like any other.
    assert load(found).predict("opinion", ["Good."])[0]["label"] in ("pos", "neg")
    assert run(capsys, "evaluate", "runs/tiny", "--split", "test").code == 0


#: What the same recipe writes alike.
COMPARED = ("objective_weights.csv", "objectives.csv", "auxiliary.json", "model/heads.safetensors")


def test_train_does_the_same(trained, project, capsys):
    assert run(capsys, "train", "tiny.yaml").code == 0
    for name in COMPARED:
        assert (trained / "runs/tiny" / name).read_bytes() == (project / "runs/tiny" / name).read_bytes(), name


def test_a_second_command_resumes_each_part(trained, project, capsys, monkeypatch):
    import taskloom.auxiliary.fit as fitting

    def stop(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "record_results", stop)
        outcome = run(capsys, "auxiliary", "tiny.yaml", "output=parts")
        assert outcome.code == 130
        assert "taskloom auxiliary tiny.yaml output=parts --resume" in outcome.err
    assert "parts: holds a run already" in refused(capsys, "auxiliary", "tiny.yaml", "output=parts")
    assert run(capsys, "auxiliary", "tiny.yaml", "output=parts", "--resume").code == 0
    for name in COMPARED:
        assert (trained / "runs/tiny" / name).read_bytes() == (project / "parts" / name).read_bytes(), name


def test_seeds_are_runs_of_their_own_with_one_sheet(project, capsys):
    command = ("auxiliary", "tiny.yaml", "--seeds", "2", "output=seeds", "training.max_steps=1")
    outcome = run(capsys, *command)
    assert outcome.code == 0, outcome.err
    sheet = rows(project / "seeds/results.csv")
    assert sheet[0]["seeds"] == "2"
    assert {"pre.macro_f1.mean", "pre.macro_f1.std", "post.accuracy.mean"} <= set(sheet[0])
    assert (project / "seeds/seed-1/finished.json").is_file()
    before = files(project / "seeds")
    assert run(capsys, *command, "--resume").code == 0
    changed = {name for name, content in files(project / "seeds").items() if content != before.get(name)}
    assert changed == {"seed-0/environment.json", "seed-1/environment.json"}  # which note each resumption
    assert "holds a run already" in refused(capsys, *command)


def test_weights_are_handed_on(trained, project, capsys):
    start = f"auxiliary.warm_start={trained / 'runs/tiny'}"
    outcome = run(capsys, "auxiliary", "tiny.yaml", "output=again", start, *SHORT)
    assert outcome.code == 0, outcome.err
    learned = rows(trained / "runs/tiny/objective_weights.csv")[-1]
    first = rows(project / "again/objective_weights.csv")[0]
    names = [name for name in learned if "/" in name]
    assert [first[name] for name in names] == [learned[name] for name in names]
    assert len({learned[name] for name in names}) > 1
    assert first["primary"] == "0.5"
    assert "another search space" in refused(
        capsys, "auxiliary", "tiny.yaml", "output=x", f"{start}/objective_weights.safetensors", "auxiliary.space=tapt"
    )


def test_objectives_that_cannot_be_are_dropped_or_refused(project, capsys):
    for split, count in {"train": 40, "dev": 16}.items():
        write_jsonl(project / "data" / f"{split}.jsonl", documents(count, 1, seed=1))
    outcome = run(capsys, "auxiliary", "tiny.yaml", *SHORT)
    assert outcome.code == 0, outcome.err
    assert "Dropped 2 objectives: output next-sentence of task: " in " ".join(outcome.err.split())
    asked = "auxiliary.objectives=[task/mask/bidirectional/next-sentence]"
    assert "auxiliary.objectives: task/mask/bidirectional/next-sentence cannot be made" in refused(
        capsys, "auxiliary", "tiny.yaml", "output=x", asked
    )
    alone = "auxiliary.space={data: [task], transforms: [mask], representations: [none], outputs: [NSP, SO]}"
    assert "none of its 2 objectives can be made" in refused(capsys, "auxiliary", "tiny.yaml", "output=x", alone)
    assert not (project / "x").exists()


def test_what_no_objective_uses_is_told(project, capsys):
    (project / "domain.txt").write_text("The film was good.\n")
    other = "auxiliary.tasks=[{name: other, inputs: [text], path: data}]"
    space = "auxiliary.space={data: [task], transforms: [mask], representations: [none], outputs: [denoise, opinion]}"
    outcome = run(capsys, "auxiliary", "tiny.yaml", "auxiliary.in_domain=domain.txt", other, space, *SHORT)
    assert outcome.code == 0, outcome.err
    told = " ".join(outcome.err.split())
    assert "auxiliary.in_domain is not used: the search space has no in-domain text." in told
    assert "auxiliary.tasks: 'other' is not used" in told
    assert "the output opinion is not used: the data task has no labels of opinion." in told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["auxiliary=null"], "auxiliary"),
        (["auxiliary.space=tatp"], "Did you mean 'tapt'?"),
        (["auxiliary.space=full"], "auxiliary.in_domain: the search space has in-domain text"),
        (["auxiliary.space=vbasic", "auxiliary.in_domain=nowhere.txt"], "nowhere.txt"),
        (["auxiliary.space={data: [task], transforms: [mask], representations: [l2r], outputs: [denoise]}"], "'l2r'"),
        (
            ["auxiliary.space={data: [task], transforms: [mask], representations: [left-to-right], outputs: [NSP]}"],
            "is legal",
        ),
        (["auxiliary.space=supervised"], "mnli"),
        (["auxiliary.objectives=[task/mask/bidirectional/tf]"], "task/mask/bidirectional/tf"),
        (["auxiliary.dev_split=dev_other"], "auxiliary.dev_split: task 'opinion' has no dev split 'dev_other'"),
        (["auxiliary.cosine_layers=3"], "auxiliary.cosine_layers"),
        (["adapter.freeze_layers=all", "model.pooling=mean"], "adapter.freeze_layers: nothing but the tasks' heads"),
        (["auxiliary.max_length=65"], "auxiliary.max_length: 65 tokens are more than "),
        (["auxiliary.warm_start=runs/none"], "runs/none"),
        (["sampling.strategy=uncertainty"], "sampling.strategy"),
        (["auxiliary.primary_lr=-1"], "auxiliary.primary_lr"),
        (["auxiliary.tasks=[opinion]"], "auxiliary.tasks: task 1: unknown task 'opinion'"),
        (["auxiliary.tasks=[{name: opinion, inputs: [text], path: data}]"], "'opinion' is one of `tasks` already"),
    ],
)
def test_mistakes_are_one_message(project, capsys, settings, message):
    assert message in refused(capsys, "auxiliary", "tiny.yaml", *settings)
    assert not (project / "runs").exists() or not any((project / "runs").rglob("recipe.yaml"))


def test_a_label_that_only_dev_has_and_a_row_without_text(project, capsys):
    write_jsonl(project / "data/dev.jsonl", [{"text": "Good.", "label": "pos"}, {"text": "Odd.", "label": "mixed"}])
    message = refused(capsys, "auxiliary", "tiny.yaml")
    assert "dev.jsonl:2" in message
    assert "'mixed'" in message
    write_jsonl(project / "data/dev.jsonl", documents(8, 1, seed=0))
    (project / "domain.jsonl").write_text('{"text": "Good."}\n{"texts": "Bad."}\n')
    message = refused(
        capsys, "auxiliary", "tiny.yaml", "auxiliary.space=citation.ext", "auxiliary.in_domain=domain.jsonl"
    )
    assert "domain.jsonl:2" in message


def test_a_recipe_that_names_no_space(project, capsys):
    content = yaml.safe_load((project / "tiny.yaml").read_text())
    (project / "tiny.yaml").write_text(yaml.safe_dump({**content, "auxiliary": {}}))
    assert "tiny.yaml: auxiliary.space: names no search space" in refused(capsys, "auxiliary", "tiny.yaml")


def test_a_tokenizer_without_a_mask_token(project, capsys):
    tiny_encoder(project / "encoder")
    outcome = run(capsys, "auxiliary", "tiny.yaml", *SHORT)
    assert "transform mask: the model's tokenizer has no mask token" in " ".join(outcome.err.split())
    assert outcome.code == 0, outcome.err
    assert "no mask token" in refused(capsys, "auxiliary", "tiny.yaml", "output=x", "auxiliary.space=tapt")


def test_labelled_data_and_adapters(project, capsys):
    for split, count in {"train": 30, "dev": 10}.items():
        write_jsonl(project / "other" / f"{split}.jsonl", documents(count, 2, seed=count))
    space = {
        "data": ["opinion", "other"],
        "transforms": ["none"],
        "representations": ["none", "random-factorized"],
        "outputs": ["opinion", "other", "denoise"],
    }
    write(
        project,
        auxiliary={"space": space, "tasks": [{"name": "other", "inputs": ["text"], "path": "other"}]},
        adapter={"method": "ca_mtl"},
    )
    outcome = run(capsys, "auxiliary", "tiny.yaml", *SHORT)
    assert outcome.code == 0, outcome.err
    names = {row["objective"] for row in rows(project / "runs/tiny/objectives.csv")}
    assert "other/none/random-factorized/other" in names
    assert "other/none/bidirectional/opinion" not in names
    assert len(names) == 8
