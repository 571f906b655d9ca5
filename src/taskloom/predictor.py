"""Predicting with a finished run, without its training script or its training data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taskloom.build import build_inference, build_model, layout, recipe_tokenizer
from taskloom.errors import RunError
from taskloom.evaluation.prediction import answer_records, records
from taskloom.generative import GenerativeModel
from taskloom.inference import Inference
from taskloom.model import MultiTaskModel, read_declaration
from taskloom.recipe import Recipe
from taskloom.runs import RunFolder
from taskloom.tasks import Examples, TaskSuite
from taskloom.tasks.examples import examples_from_inputs

__all__ = ["Predictor", "load"]


class Predictor:
    """A trained model that answers for any of its tasks.

    Attributes:
        recipe: the recipe of the run.
        suite: the tasks, without data.
        model: the model, in evaluation mode.
    """

    def __init__(self, recipe: Recipe, suite: TaskSuite, folder: Path, device: str | torch.device) -> None:
        self.recipe = recipe
        self.suite = suite
        source = recipe
        generative = read_declaration(folder).family == "generative"
        if recipe.adapter.method == "none":
            # All weights are in the run: it does not depend on the backbone's files any more.
            home = GenerativeModel.backbone_folder if generative else MultiTaskModel.backbone_folder
            trained = {"path": str(folder / home), "revision": None, "gguf_file": None}
            model = recipe.model.model_copy(update=trained)
            source = recipe.model_copy(update={"model": model})
        self.tokenizer = recipe_tokenizer(source)
        self.model = build_model(source, list(suite))
        self.model.load(folder)
        self.model.eval().to(device)

    def inference(self, batch_size: int = 64, shared: bool = False) -> Inference:
        """Return the model with a collator for batches of `batch_size` examples; `shared` as for `Inference`."""
        return build_inference(self.recipe, self.model, self.suite, self.tokenizer, batch_size, shared)

    def predict(
        self,
        task: str,
        inputs: Sequence[str | Sequence[str] | Mapping[str, Any]] | Examples,
        batch_size: int = 64,
    ) -> list[dict[str, Any]]:
        """Predict for new examples of one task.

        Args:
            task: name of the task.
            inputs: for each example its text, its texts in the order of the task's `inputs`, or a mapping of columns.
                An instruction or a template is filled in for mappings; a text stands for the whole prompt.
                A token task takes lists of words or text that is split at white space. Or what `TaskSuite.read_inputs`
                read from a file.
            batch_size: examples a forward pass.

        Returns:
            One record an example: ``{"label": name, "probabilities": {name: share}}`` for classification,
            ``{"value": number}`` for regression (and for lm, the mean negative log-likelihood a token),
            ``{"tags": [names]}`` for token, ``{"answer": text}`` for span and text2text tasks, the latter with the
            ``probabilities`` of the choices if it has them. Where a text2text task answers questions, ``candidates``
            are the answers of the windows, ``{"text": text, "score": -log p}`` each.

        Raises:
            DataError: no task of that name, or an example that lacks a column.
        """
        declared = self.suite[task]
        examples = inputs if isinstance(inputs, Examples) else examples_from_inputs(declared, inputs)
        if not len(examples):
            return []
        features = self.suite.encode(task, examples, self.tokenizer, **layout(self.recipe, self.model))
        predictions, outputs = self.inference(batch_size).predict(declared, features, examples)
        if declared.kind == "lm":
            return [{"value": float(loss)} for loss in predictions]
        if declared.kind == "text2text":
            return answer_records(predictions, examples.choices, outputs.logits, outputs.candidates)
        logits = np.stack(outputs.logits) if declared.kind == "classification" else None
        return records(declared, predictions, logits)


def load(run: str | Path, device: str | torch.device | None = None) -> Predictor:
    """Load the best model of a run.

    Args:
        run: the run folder.
        device: where to put the model; None takes a GPU if there is one.

    Raises:
        RunError: the folder is no run, or holds no trained model yet.
    """
    folder = RunFolder.open(run)
    if folder.recipe.groups is not None:
        raise RunError(f"{folder.path}: holds one model a group; name one of them, such as {folder.path / 'group-1'}")
    if not folder.model_folder.is_dir():
        raise RunError(f"{folder.path}: holds no trained model yet. Finish it with: taskloom train ... --resume")
    suite = TaskSuite(read_declaration(folder.model_folder).tasks)
    # Of several processes on one machine each has its own GPU, which the process group has made the current one.
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(folder.recipe, suite, folder.model_folder, device)
