"""Running a trained model over examples: outputs, predictions and scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskloom.evaluation import primary, score_task
from taskloom.evaluation.candidates import Candidate
from taskloom.evaluation.generations import Generations
from taskloom.evaluation.prediction import classes, tags, values
from taskloom.evaluation.span import Answer, best_answers
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel
from taskloom.shares import over_processes
from taskloom.tasks import Examples, Task, TaskFeatures, TaskSuite

__all__ = ["Inference", "Outputs", "dev_splits", "mean_score"]

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for the items of one task, in their order.

    Attributes:
        logits: an array an item: ``[outputs]`` at sequence level, ``[tokens, outputs]`` at token level, without
            padding.
        loss: mean loss of the items; None without targets.
        candidates: of question answering by generation, the answers of each example's windows; otherwise None.
    """

    logits: list[np.ndarray]
    loss: float | None
    candidates: list[list[Candidate]] | None = None


class Inference:
    """A model with what it takes to feed it.

    Args:
        model: the model; it is put into evaluation mode for every call and back into its former mode.
        collator: makes batches of items.
        batch_size: items a forward pass.
        shared: whether several processes share the work. All of them must call then, and all get everything.
    """

    def __init__(
        self,
        model: MultiTaskModel | GenerativeModel,
        collator: Callable[..., Any],
        batch_size: int = 64,
        shared: bool = False,
    ) -> None:
        self.model = model
        self.collator = collator
        self.batch_size = batch_size
        self.shared = shared

    @torch.no_grad()
    def outputs(self, task: Task, features: TaskFeatures) -> Outputs:
        """Run the model over all items of one task, those of similar length together."""
        device = next(self.model.parameters()).device
        level = "token_logits" if task.kind in ("token", "span") else "logits"
        logits: list[Any] = [None] * len(features)

        def run(positions: list[int]) -> tuple[list[np.ndarray], Tensor | None]:
            batch = self.collator(features.__getitems__(positions))
            outputs = self.model(**{name: value.to(device) for name, value in batch.items()})
            lengths = batch["attention_mask"].sum(dim=1).tolist()
            found = outputs[level].float().cpu().numpy()
            if level == "token_logits":
                found = [row[:length] for row, length in zip(found, lengths, strict=True)]
            loss = outputs.get("example_loss")
            return list(found), None if loss is None else loss.cpu()

        batches = self._batches(features.lengths)
        training = self.model.training
        self.model.eval()
        try:
            found = over_processes(run, batches, self.shared)
        finally:
            self.model.train(training)
        for positions, (rows, _) in zip(batches, found, strict=True):
            for position, row in zip(positions, rows, strict=True):
                logits[position] = row
        losses = [loss for _, loss in found if loss is not None]
        return Outputs(logits, torch.cat(losses).mean().item() if losses else None)

    def _batches(self, lengths: np.ndarray) -> list[list[int]]:
        """Return positions of items of similar length, the longest first."""
        order = np.argsort(lengths, kind="stable")[::-1].tolist()
        return [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]

    def predict(self, task: Task, features: TaskFeatures, examples: Examples) -> tuple[list[Any], Outputs]:
        """Predict for all examples of one task.

        Returns:
            The predictions in the form of `Examples.targets` (class index, number, label index a word; answers as
            `taskloom.evaluation.span.Answer`), and the outputs they come from.
        """
        outputs = self.outputs(task, features)
        match task.kind:
            case "classification":
                return classes(task, np.stack(outputs.logits)).tolist(), outputs
            case "regression":
                return values(np.stack(outputs.logits)).tolist(), outputs
            case "token":
                seen = [[start for start in features.word_starts(item) if start >= 0] for item in range(len(features))]
                words = [len(text) for text in examples.texts]
                return tags(task, outputs.logits, seen, words), outputs
            case _:
                return self._answers(features, outputs, examples), outputs

    @staticmethod
    def _answers(features: TaskFeatures, outputs: Outputs, examples: Examples) -> list[Answer]:
        windows = features.windows
        assert windows is not None
        items = range(len(features))
        return best_answers(
            [logits[:, 0] for logits in outputs.logits],
            [logits[:, 1] for logits in outputs.logits],
            windows.examples.tolist(),
            [windows.offsets(item) for item in items],
            [windows.context_mask(item) for item in items],
            [context for _, context in examples.texts],
        )

    def _targets(self, task: Task, features: TaskFeatures, examples: Examples) -> Sequence[Any]:
        """Return what predictions are compared with."""
        return examples.targets or []

    def score(
        self,
        suite: TaskSuite,
        features: dict[tuple[str, str], TaskFeatures],
        generations: Generations | None = None,
    ) -> tuple[Scores, dict[str, float]]:
        """Score splits that have targets.

        Args:
            suite: the tasks and their examples.
            features: the items of each (task name, split).
            generations: takes in what a generative model answers.

        Returns:
            The metrics and the mean loss of each split, by its title (``mnli``, ``mnli/dev_mismatched``).
        """
        scores: Scores = {}
        losses = {}
        for (name, split), items in features.items():
            task, examples = suite[name], suite.examples(name, split)
            predictions, outputs = self.predict(task, items, examples)
            if task.kind == "span":
                predictions = [answer.text for answer in predictions]
            title = split_title(name, split)
            if generations is not None:
                generations.add(title, task, items, examples, predictions, outputs.candidates)
            scores[title] = score_task(task, predictions, self._targets(task, items, examples))
            losses[title] = outputs.loss if outputs.loss is not None else float("nan")
        return scores, losses


def split_title(name: str, split: str) -> str:
    """Return how a split is called in scores and logs: the task's name for the dev split itself."""
    return name if split == "dev" else f"{name}/{split}"


def dev_splits(suite: TaskSuite) -> Iterator[tuple[Task, str]]:
    """Yield every task with each of its dev splits."""
    return ((task, split) for task in suite for split in task.dev_splits)


def mean_score(suite: TaskSuite, scores: Scores) -> float:
    """Return the mean over the tasks of their primary metric on the first dev split (GLUE's average)."""
    return float(np.mean([primary(task, scores[split_title(task.name, task.dev_splits[0])]) for task in suite]))
