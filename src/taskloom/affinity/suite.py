"""A run's tasks as `collect_gradients` wants them: loaders of chosen examples, outputs, and places for messages."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from taskloom.affinity.collect import collect_gradients
from taskloom.affinity.outputs import SuiteOutput
from taskloom.affinity.store import GradientStore
from taskloom.build import build_inference, layout
from taskloom.generative import GenerativeModel
from taskloom.gradients import Projection, projected_gradients
from taskloom.gradients.capture import Fallback
from taskloom.model import MultiTaskModel
from taskloom.recipe import Recipe
from taskloom.tasks import TaskFeatures, TaskSuite

__all__ = ["SuiteCollection"]

#: Above this many trainable parameters `affinity.factor=auto` compresses weight matrices to sides of FACTOR first.
DENSE_PARAMETERS = 1_000_000
FACTOR = 32


class SuiteCollection:
    """A run's model and its tasks' examples, as `collect_gradients` wants them.

    Args:
        recipe: its `affinity` section says how many examples.
        model: the run's model.
        tokenizer: the model's.
        suite: the tasks with their data.
    """

    def __init__(
        self, recipe: Recipe, model: MultiTaskModel | GenerativeModel, tokenizer: Any, suite: TaskSuite
    ) -> None:
        self.settings = recipe.affinity
        self.model = model
        self.suite = suite
        self.output = SuiteOutput(list(suite))
        collator = build_inference(recipe, model, suite, tokenizer, self.settings.batch_size).collator
        self._items: dict[tuple[str, str], _Items] = {}
        for task in suite:
            limits = {"train": self.settings.examples, task.dev_splits[0]: self.settings.validation_examples}
            for split, limit in limits.items():
                features = suite.task_features(task.name, split, tokenizer, **layout(recipe, self.model))
                key = f"{recipe.seed}/{task.name}/{split}"
                self._items[task.name, split] = _Items(features, limit, key, suite.examples(task.name, split).where)
        self.train, self.validation = (
            {
                task.name: DataLoader(
                    self._items[task.name, self._split(task.name, part)],
                    batch_size=self.settings.batch_size,
                    collate_fn=collator,
                    num_workers=recipe.data.workers,
                )
                for task in suite
            }
            for part in ("train", "validation")
        )

    def _split(self, task: str, part: str) -> str:
        return "train" if part == "train" else self.suite[task].dev_splits[0]

    def collect(self, folder: Path, console: Console | None) -> GradientStore:
        """Collect the gradients into a folder, or finish what was begun there."""
        settings = self.settings
        return collect_gradients(
            self.model,
            self.train,
            self.output,
            folder=folder,
            validation=self.validation,
            projection=Projection(settings.dimensions, settings.distribution, settings.projection_seed, self._factor()),
            losses=self.output.losses,
            labels_fn=self.output.labels,
            fallback=self._fallback,
            describe=lambda task, part, position: self._items[task, self._split(task, part)].where(position),
            console=console,
        )

    def rehearse(self) -> None:
        """Collect from two examples of each kind of task, to know before a long training that it will be possible.

        Raises:
            UserError: a trained module has no gradient rule, and the recipe names no fallback.
        """
        projection = Projection(dimensions=1, factor=1)
        self.model.eval()
        for task in {task.kind: task for task in self.suite}.values():
            loader = self.train[task.name]
            batch = loader.collate_fn([loader.dataset[position] for position in (0, -1)])
            projected_gradients(self.model, batch, self.output, projection, fallback=self._fallback)

    def forward(self, _model: Any, batch: Mapping[str, Tensor]) -> Any:
        """Run the model on a batch, on its device."""
        device = next(self.model.parameters()).device
        return self.model(**{name: value.to(device) for name, value in batch.items()})

    @property
    def _fallback(self) -> Fallback:
        return None if self.settings.fallback == "none" else self.settings.fallback

    def _factor(self) -> int | None:
        if self.settings.factor == "auto":
            trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
            return FACTOR if trained > DENSE_PARAMETERS else None
        return None if self.settings.factor == "none" else self.settings.factor


class _Items(Subset):
    """Some items of a split, drawn by a seeded choice, the longest first, so that batches hold little padding."""

    def __init__(self, features: TaskFeatures, limit: int | None, key: str, where: Callable[[int], str]) -> None:
        chosen = list(range(len(features)))
        if limit is not None and limit < len(chosen):
            chosen = random.Random(key).sample(chosen, limit)
        data: Dataset = features
        super().__init__(data, sorted(chosen, key=lambda item: (-features.lengths[item], item)))
        self._examples = features.examples
        self._where = where

    def where(self, position: int) -> str:
        """Return the file and line of an item."""
        return self._where(int(self._examples[self.indices[position]]))
