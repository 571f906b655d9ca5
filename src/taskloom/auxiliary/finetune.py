"""After the objectives: the best model trained further on the tasks alone, and kept if that helps.

The published procedure ends so (learning rate 1e-6, a constant one, an evaluation an epoch, patience 3). It is a run of
its own in the folder ``final/``, with checkpoints of its own.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from taskloom.auxiliary.results import RESULTS_FILE
from taskloom.build import build_inference, layout
from taskloom.evaluation.generations import GENERATIONS_FOLDER
from taskloom.fit import train
from taskloom.generative import GenerativeModel
from taskloom.inference import Scores, dev_splits, mean_score, split_title
from taskloom.model import MultiTaskModel
from taskloom.plain_json import to_json
from taskloom.processes import on_main
from taskloom.recipe import Recipe
from taskloom.recipe.auxiliary import AuxiliarySection, NeuralLMSection, SweepSection
from taskloom.runs import RunFolder
from taskloom.storage import staged_folder, write_atomically
from taskloom.tasks import TaskSuite
from taskloom.training import SCORES_FILE

__all__ = ["record_results"]

FINAL_FOLDER = "final"

Model = MultiTaskModel | GenerativeModel


def record_results(
    recipe: Recipe, run: RunFolder, suite: TaskSuite, model: Model, tokenizer: Any, console: Console
) -> None:
    """Fine-tune the run's best model as the recipe says, and write `auxiliary.json`: scores before and after.

    Can be called again after an interruption at any moment. The scores are those of the test splits that have targets,
    else of the dev splits.
    """
    path = run.path / RESULTS_FILE
    results = on_main(lambda: json.loads(path.read_text("utf-8")) if path.is_file() else {})
    if "pre" not in results:
        model.load(run.model_folder)
        splits = _scored_splits(suite)
        scores = _scores(recipe, suite, model, tokenizer, splits)
        dev = json.loads((run.model_folder / SCORES_FILE).read_text("utf-8"))
        results = {"pre": scores, "post": None, "split": splits[0][1], "dev": mean_score(suite, dev), "kept": None}
        _write(path, results)
    if not recipe.auxiliary.final_finetuning or results["post"] is not None:
        return
    final = _final_recipe(recipe, run)
    with RunFolder.create(final.output, final, resume=(final.output / "recipe.yaml").is_file()) as further:
        if not further.finished:
            console.print("Final fine-tuning on the tasks alone.")
            model.load(run.model_folder)
            train(final, further, suite, model, tokenizer, console)
            further.mark_finished()
    dev = mean_score(suite, json.loads((further.model_folder / SCORES_FILE).read_text("utf-8")))
    better = dev > results["dev"]
    if better:
        on_main(lambda: _take_over(run, further))
        model.load(run.model_folder)
        results["post"] = _scores(recipe, suite, model, tokenizer, _scored_splits(suite))
    else:
        results["post"] = results["pre"]
    results |= {"dev_post": dev, "kept": FINAL_FOLDER if better else "auxiliary"}
    _write(path, results)


def _write(path: Path, results: Mapping[str, Any]) -> None:
    on_main(lambda: write_atomically(path, to_json(results, indent=2) + "\n"))


def _take_over(run: RunFolder, further: RunFolder) -> None:
    """Let the model of the final fine-tuning be that of the run."""
    for name in (run.model_folder.name, GENERATIONS_FOLDER):
        if (further.path / name).is_dir():
            with staged_folder(run.path / name) as folder:
                shutil.copytree(further.path / name, folder, dirs_exist_ok=True)


def _final_recipe(recipe: Recipe, run: RunFolder) -> Recipe:
    settings = recipe.auxiliary
    training = recipe.training.model_copy(
        update={
            "learning_rate": settings.final_learning_rate,
            "head_learning_rate": None,
            "schedule": "constant",
            "warmup": 0.0,
            "warmup_steps": None,
            "max_steps": -1,
            "epochs": float(settings.final_epochs),
            "evaluate_every": None,
            "checkpoint_every": None,
            "early_stopping": settings.final_patience,
        }
    )
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}/{FINAL_FOLDER}",
            "output": run.path / FINAL_FOLDER,
            "training": training,
            "auxiliary": AuxiliarySection(),
            "neural_lm": NeuralLMSection(),
            "sweep": SweepSection(),
        }
    )


def _scored_splits(suite: TaskSuite) -> list[tuple[str, str]]:
    """Return (task, split) of the test splits with targets if every task has one, else of the dev splits."""
    tests = [
        (task.name, split)
        for task in suite
        for split in task.test_splits
        if task.kind == "lm" or suite.examples(task.name, split).targets is not None
    ]
    if {name for name, _ in tests} == set(suite.names):
        return tests
    return [(task.name, split) for task, split in dev_splits(suite)]


def _scores(recipe: Recipe, suite: TaskSuite, model: Model, tokenizer: Any, splits: list[tuple[str, str]]) -> Scores:
    inference = build_inference(recipe, model, suite, tokenizer, recipe.training.eval_batch_size, shared=True)
    features = {
        (name, split): suite.task_features(name, split, tokenizer, **layout(recipe, model)) for name, split in splits
    }
    scores, _ = inference.score(suite, features)
    # A task with one such split is called by its own name.
    names = Counter(name for name, _ in splits)
    titles = {split_title(*key): key[0] if names[key[0]] == 1 else split_title(*key) for key in splits}
    return {titles[title]: metrics for title, metrics in scores.items()}
