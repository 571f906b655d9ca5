"""A loader for each community's examples, in the form that `taskloom.affinity.collect_gradients` reads."""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from taskloom.graphs.examples import NodeTasks

__all__ = ["community_loaders", "community_margin"]


class _Examples(Dataset):
    """One task's nodes in one part, fetched a batch at a time."""

    def __init__(self, data: NodeTasks, task: int, part: str) -> None:
        self._data, self._task = data, task
        self._nodes = data.masks[part][:, task].nonzero().flatten()

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitems__(self, places: list[int]) -> dict[str, Tensor]:
        nodes = self._nodes[places]
        return {
            "x": self._data.inputs[nodes],
            "task": nodes.new_full((len(nodes),), self._task),
            "labels": self._data.labels[nodes, self._task].long(),
        }


def _whole(batch: Any) -> dict[str, Tensor]:
    return batch


def community_loaders(data: NodeTasks, part: str = "train", batch_size: int = 256) -> dict[str, DataLoader]:
    """One loader a task, in the order of `data.names`, without shuffling.

    A batch is ``{"x": Tensor[batch, ...], "task": LongTensor[batch], "labels": LongTensor[batch]}``: `task` is the
    task's place among `data.names`, hence the logit to read of a model that was trained on all of them.

    Args:
        data: the tasks.
        part: "train", "validation" or "test".
        batch_size: examples a batch.
    """
    return {
        name: DataLoader(_Examples(data, task, part), batch_size=batch_size, collate_fn=_whole)
        for task, name in enumerate(data.names)
    }


def community_margin(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The margin log p/(1-p) of the right answer, [batch]: the task's logit for members, minus it for others.

    Args:
        outputs: a model's logits [batch, tasks].
        batch: a batch of `community_loaders`.
    """
    logits = outputs.gather(1, batch["task"][:, None]).squeeze(1)
    return logits * (2 * batch["labels"] - 1)
