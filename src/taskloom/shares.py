"""One batch, shared among processes: each has every n-th example, with the weight that it has in the whole batch.

The loss of a batch is a mean over the tasks that are in it, which no mean of the shares' own losses is: a task may be
in one share and not in another. So an example x of task t carries the weight

    w(x) = 1 / (tasks present * examples of t)        or, with `loss="examples"`,  w(x) = 1 / examples

of the whole batch, and the sum of w(x) * loss(x) over all shares is the loss of one process. Every process reads the
same order of batches, so that the weights need no exchange. A batch may have fewer examples than there are processes:
who is left without takes one of weight 0, since all must take part in each step.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from taskloom.processes import gather, rank, world_size
from taskloom.tasks import MultiTaskDataset

__all__ = ["WEIGHT", "SharedBatches", "collate_share", "example_weights", "over_processes", "own_positions"]

#: The column of a batch that holds its examples' weights.
WEIGHT = "weight"

MeanLoss = Literal["tasks", "examples"]
Given = TypeVar("Given")
Found = TypeVar("Found")


def example_weights(task: Tensor, num_tasks: int, loss: MeanLoss) -> Tensor:
    """Return the weight of each example of a whole batch in its loss, ``[batch]``; they add up to 1.

    Args:
        task: ``[batch]``, task ids.
        num_tasks: number of tasks of the suite.
        loss: a mean over the ``"tasks"`` present, or over ``"examples"``.
    """
    ones = torch.ones(task.shape, dtype=torch.float32, device=task.device)
    if loss == "examples":
        return ones / len(task)
    counts = torch.zeros(num_tasks, device=task.device).index_add(0, task, ones)
    return 1 / (counts[task] * (counts > 0).sum())


def own_positions(size: int) -> tuple[list[int], bool]:
    """Return which examples of a batch of `size` this process takes, and whether they count."""
    own = list(range(rank(), size, world_size()))
    return own or [0], bool(own)


class SharedBatches(Dataset):
    """A training set of which a process reads its own share of each batch; the items carry their weights.

    Args:
        whole: the training set.
        loss: the mean that the weights belong to.
    """

    def __init__(self, whole: MultiTaskDataset, loss: MeanLoss) -> None:
        self.whole = whole
        self.loss: MeanLoss = loss

    def __len__(self) -> int:
        return len(self.whole)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        task = torch.from_numpy(self.whole.task_ids[list(indices)])
        weights = example_weights(task, len(self.whole.parts), self.loss)
        own, counts = own_positions(len(indices))
        items = self.whole.__getitems__([indices[position] for position in own])
        return [{**item, WEIGHT: float(weights[place]) * counts} for item, place in zip(items, own, strict=True)]


def collate_share(collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]], items: list[Any]) -> dict[str, Tensor]:
    """Collate the items of a `SharedBatches` with their weights, ``[batch]``."""
    weights = torch.tensor([item[WEIGHT] for item in items])
    return {**collate([{k: v for k, v in item.items() if k != WEIGHT} for item in items]), WEIGHT: weights}


def over_processes(run: Callable[[Given], Found], batches: Sequence[Given], shared: bool) -> list[Found]:
    """Run a function over batches and return what it finds, in their order and in every process.

    Args:
        run: the function; its findings must be picklable.
        batches: the same in every process.
        shared: whether the processes share the work; all of them must be here then. All call `run` equally often, the
            last ones perhaps on the last batch once more: a model whose parameters are sharded needs all of them in
            each pass.
    """
    if not shared or world_size() == 1:
        return [run(batch) for batch in batches]
    own = []
    for first in range(0, len(batches), world_size()):
        number = first + rank()
        found = run(batches[min(number, len(batches) - 1)])
        if number < len(batches):
            own.append((number, found))
    return [found for _, found in sorted((pair for each in gather(own) for pair in each), key=lambda pair: pair[0])]
