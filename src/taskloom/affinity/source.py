"""What an estimate is made from: each task's projected gradients and outputs at the base model (Grad-TAG, section 3).

The first-order expansion of a model around its base parameters is linear in the change of the parameters. With the
change written as ``P c``, an example's output moves from ``output`` to ``output + g . c``, where ``g`` is the
example's gradient projected to a few hundred dimensions. So these few numbers an example are all that is needed to
estimate what training on any subset of tasks would do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from taskloom.errors import DataError

__all__ = ["NO_CLASS", "GradientSource", "GradientTable", "Loss", "TaskGradients", "check_source"]

Loss = Literal["logistic", "squared"]
NO_CLASS = -1
"""The label of an example whose answer is free text rather than one of a task's classes."""


@dataclass(frozen=True)
class TaskGradients:
    """The examples of one split of one task, as the base model sees them.

    Attributes:
        gradients: ``[examples, dimensions]``, the projected gradient of each example's output.
        outputs: ``[examples]``. Logistic: the base model's margin ``log p / (1 - p)`` of the **right** answer (for two
            classes the signed logit), so that the loss is ``softplus(-(output + g . c))``. Squared: its prediction.
        labels: ``[examples]``. Logistic: the right class, or `NO_CLASS` for free text. Squared: the target, so that
            the loss is ``(output + g . c - label) ** 2``.
        loss: the loss that the task is trained with.

    Raises:
        ValueError: the shapes disagree, or the loss is unknown.
    """

    gradients: Tensor
    outputs: Tensor
    labels: Tensor
    loss: Loss

    def __post_init__(self) -> None:
        if self.loss not in ("logistic", "squared"):
            raise ValueError(f"`loss` must be 'logistic' or 'squared', found {self.loss!r}")
        if self.gradients.ndim != 2:
            raise ValueError(f"`gradients` must be [examples, dimensions], found shape {list(self.gradients.shape)}")
        for name in ("outputs", "labels"):
            shape = list(getattr(self, name).shape)
            if shape != [len(self.gradients)]:
                raise ValueError(
                    f"`{name}` must hold one number per gradient ({len(self.gradients)}), found shape {shape}"
                )

    def __len__(self) -> int:
        return len(self.gradients)


class GradientSource(Protocol):
    """Where the gradients of a set of tasks are read from: a table in memory, or a store on disk."""

    @property
    def tasks(self) -> Sequence[str]: ...

    @property
    def dimensions(self) -> int: ...

    def train(self, task: str) -> TaskGradients: ...

    def validation(self, task: str) -> TaskGradients: ...


class GradientTable:
    """The gradients of some tasks, held in memory.

    Args:
        train: the training examples of each task; its order is the order of the tasks.
        validation: the held-out examples of the same tasks.

    Raises:
        ValueError: the two splits have other tasks, or the dimensions differ.
    """

    def __init__(self, train: Mapping[str, TaskGradients], validation: Mapping[str, TaskGradients]) -> None:
        if not train:
            raise ValueError("`train` must hold at least one task, found none")
        if set(train) != set(validation):
            only = sorted(set(train) ^ set(validation))
            raise ValueError(f"`train` and `validation` must hold the same tasks, found in one of them only: {only}")
        self.tasks: tuple[str, ...] = tuple(train)
        self.dimensions: int = train[self.tasks[0]].gradients.shape[1]
        for name, split in (("train", train), ("validation", validation)):
            for task, rows in split.items():
                if rows.gradients.shape[1] != self.dimensions:
                    raise ValueError(
                        f"`{name}` of task '{task}' has {rows.gradients.shape[1]} dimensions,"
                        f" task '{self.tasks[0]}' has {self.dimensions}"
                    )
        self._train = dict(train)
        self._validation = dict(validation)

    def train(self, task: str) -> TaskGradients:
        return self._train[task]

    def validation(self, task: str) -> TaskGradients:
        return self._validation[task]


def check_source(source: GradientSource) -> None:
    """Check that every task of a source can be estimated.

    Raises:
        DataError: a split has no examples, training examples are all of one class, or a number is not finite; the
            message names the task, the split and the example.
    """
    for task in source.tasks:
        splits = {"train": source.train(task), "validation": source.validation(task)}
        for split, rows in splits.items():
            _check_split(task, split, rows)
        if splits["train"].loss != splits["validation"].loss:
            raise DataError(
                f"Task '{task}' has the loss '{splits['train'].loss}' in training and '{splits['validation'].loss}' in"
                " validation. Collect both splits with the same output function."
            )
        _check_classes(task, splits["train"])


def _check_split(task: str, split: str, rows: TaskGradients) -> None:
    if not len(rows):
        raise DataError(
            f"Task '{task}' has no {split} examples; its affinity cannot be estimated. Add examples or leave it out."
        )
    for name, numbers in (("gradient", rows.gradients), ("output", rows.outputs), ("label", rows.labels)):
        # One sum first: it is finite unless something is wrong, and reads the rows once without a mask of their size.
        if numbers.is_floating_point() and not torch.isfinite(numbers.sum(dtype=torch.float64)):
            bad = ~torch.isfinite(numbers).reshape(len(rows), -1).all(1)
            raise DataError(
                f"Task '{task}', {split} example {int(bad.nonzero()[0])}: its {name} is not finite"
                f" ({int(bad.sum())} of {len(rows)} examples). Look at the base model's loss there,"
                " or collect again in float32."
            )


def _check_classes(task: str, rows: TaskGradients) -> None:
    if rows.loss == "logistic":
        first = rows.labels[0]
        if first != NO_CLASS and bool((rows.labels == first).all()):
            raise DataError(
                f"Task '{task}' has training examples of one class only (class {int(first)}, {len(rows)} examples);"
                " its affinity cannot be estimated. Add examples of another class or leave the task out."
            )
