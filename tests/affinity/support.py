"""Small tables of gradients: three logistic and two squared tasks of different sizes."""

import torch

from taskloom.affinity import GradientTable, TaskGradients

DIMENSIONS = 12
SIZES = {"a": 40, "b": 25, "c": 60, "r": 30, "s": 18}


def logistic(gradients, outputs, generator=None):
    """Return logistic rows with classes 0 and 1 in turn, or drawn."""
    labels = (
        torch.arange(len(outputs)) % 2 if generator is None else torch.randint(2, outputs.shape, generator=generator)
    )
    return TaskGradients(gradients, outputs, labels, "logistic")


def squared(gradients, outputs, generator):
    targets = outputs + 0.5 * gradients[:, 0] + torch.randn(len(outputs), generator=generator)
    return TaskGradients(gradients, outputs, targets, "squared")


def table(seed=0, offset=1.0, kinds=("logistic", "squared"), order=None):
    """Return a source in which the right direction differs from task to task.

    Args:
        seed: of the numbers; a task's do not depend on the order of the tasks.
        offset: the size of the base model's outputs.
        kinds: the losses of the tasks to hold.
        order: the tasks' order.
    """
    splits = ({}, {})
    for number, (task, size) in enumerate(SIZES.items()):
        kind = "squared" if task in ("r", "s") else "logistic"
        if kind not in kinds:
            continue
        generator = torch.Generator().manual_seed(100 * seed + number)
        for split in splits:
            gradients = torch.randn(size, DIMENSIONS, generator=generator)
            gradients[:, number] += 0.5
            outputs = offset * torch.randn(size, generator=generator)
            rows = squared(gradients, outputs, generator) if kind == "squared" else logistic(gradients, outputs)
            split[task] = rows
    train, validation = ({task: split[task] for task in order or split} for split in splits)
    return GradientTable(train, validation)
