"""The final fine-tuning: what is kept, what is written, and that it can be interrupted anywhere."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.numpy import load_file

from taskloom.auxiliary import finetune
from taskloom.build import build_model, build_suite, recipe_tokenizer
from taskloom.fit import fit
from taskloom.recipe import Recipe
from taskloom.recipe.auxiliary import AuxiliarySection
from taskloom.runs import RunFolder
from tests.auxiliary.support import masked_encoder
from tests.tiny import tiny_tasks

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of two steps, its recipe and its data."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "output": folder / "run",
            "model": {"path": str(masked_encoder(folder / "encoder", layers=1))},
            "data": {"max_length": 16, "cache": folder / "cache"},
            "tasks": tiny_tasks(folder / "data", examples=16)[:1],
            "training": {"max_steps": 2, "batch_size": 8, "keep_checkpoints": 1},
            "auxiliary": {"space": "tapt", "final_epochs": 2, "final_learning_rate": 0.01},
        }
    )
    fit(recipe.model_copy(update={"auxiliary": AuxiliarySection()}), quiet=True)
    return recipe


def copied(trained: Recipe, folder: Path, dev: float) -> RunFolder:
    """Copy the run, and let its model have had a score on dev."""
    shutil.copytree(trained.output, folder)
    written = {"pre": {"sentiment": {"accuracy": 0.5}}, "post": None, "split": "test", "dev": dev, "kept": None}
    (folder / "auxiliary.json").write_text(json.dumps(written))
    return RunFolder.open(folder)


def record(recipe: Recipe, folder: RunFolder) -> dict:
    """Do as a new process does."""
    suite = build_suite(recipe)
    finetune.record_results(recipe, folder, suite, build_model(recipe, list(suite)), recipe_tokenizer(recipe), QUIET)
    return json.loads((folder.path / "auxiliary.json").read_text())


def weights(folder):
    return {path.name: load_file(path) for path in sorted(folder.rglob("*.safetensors"))}


def same(a, b) -> bool:
    return a.keys() == b.keys() and all((a[file][name] == b[file][name]).all() for file in a for name in a[file])


@pytest.fixture(scope="module")
def better(trained, tmp_path_factory):
    """A run that the fine-tuning made better, and its results."""
    folder = copied(trained, tmp_path_factory.mktemp("better") / "run", dev=-1.0)
    return folder, record(trained, folder)


def test_a_better_model_is_kept(trained, better):
    folder, results = better
    assert results["kept"] == "final"
    assert results["post"].keys() == {"sentiment"}
    assert same(weights(folder.model_folder), weights(folder.path / "final/model"))
    assert not same(weights(folder.model_folder), weights(trained.output / "model"))
    assert json.loads((folder.model_folder / "scores.json").read_text())["sentiment"]


def test_a_worse_model_is_not(trained, tmp_path):
    folder = copied(trained, tmp_path / "run", dev=2.0)
    results = record(trained, folder)
    assert (results["kept"], results["post"]) == ("auxiliary", results["pre"])
    assert same(weights(folder.model_folder), weights(trained.output / "model"))


def killed_in(name, monkeypatch, folder):
    """Let something that the fine-tuning calls end in an interruption."""
    original = getattr(finetune, name)

    def after(*args, **kwargs):
        original(*args, **kwargs)
        raise KeyboardInterrupt

    def between_two_renames(*_args):
        shutil.rmtree(folder.model_folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune, name, between_two_renames if name == "staged_folder" else after)


@pytest.mark.parametrize("name", ["train", "staged_folder", "_scores"])
def test_it_goes_on_after_a_kill(trained, better, tmp_path, monkeypatch, name):
    folder = copied(trained, tmp_path / "run", dev=-1.0)
    with monkeypatch.context() as patch:
        killed_in(name, patch, folder)
        with pytest.raises(KeyboardInterrupt):
            record(trained, folder)
    assert record(trained, folder) == better[1]
    assert same(weights(folder.model_folder), weights(better[0].model_folder))


def test_without_it_only_the_scores_are_written(trained, tmp_path):
    folder = copied(trained, tmp_path / "run", dev=0.0)
    (folder.path / "auxiliary.json").unlink()
    off = trained.model_copy(update={"auxiliary": trained.auxiliary.model_copy(update={"final_finetuning": False})})
    results = record(off, folder)
    assert results["split"] == "test"
    assert results["post"] is results["kept"] is None
    assert 0 <= results["pre"]["sentiment"]["accuracy"] <= 1
    assert not (folder.path / "final").exists()
