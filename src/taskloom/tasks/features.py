"""Tokenised examples as PyTorch data sets: of one task, and of all tasks of a suite one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from torch.utils.data import Dataset

from taskloom.tasks.encoding import ITEM_COLUMNS
from taskloom.tasks.task import Task

__all__ = ["MultiTaskDataset", "TaskFeatures", "Windows", "token_counts"]


@dataclass(frozen=True)
class Windows:
    """Where the items of a span task lie in their examples' contexts, to decode predicted positions.

    Attributes:
        examples: Example of each item, shape [items]; the windows of one example follow each other.
    """

    examples: np.ndarray
    _offsets: datasets.Dataset

    def offsets(self, item: int) -> np.ndarray:
        """Return the [start, end) of each token in the context, in characters; -1 outside of it; [tokens, 2]."""
        stored = self._offsets[int(item)]
        return np.stack([stored["starts"], stored["ends"]], axis=1)

    def context_mask(self, item: int) -> np.ndarray:
        """Return whether each token belongs to the context, shape [tokens]."""
        return self.offsets(item)[:, 0] >= 0


class TaskFeatures(Dataset):
    """One split of one task as items: dicts of `input_ids`, perhaps `token_type_ids`, `task` and the target's key.

    Attributes:
        task: The task.
        lengths: Tokens of each item, those of a generated answer included, shape [items].
        examples: Example of each item, shape [items]; several items of one example follow each other.
        windows: Of a span task, the place of each item; otherwise None.
    """

    def __init__(self, task: Task, task_id: int, stored: datasets.Dataset) -> None:
        self.task = task
        self.task_id = task_id
        self._stored = stored
        self._items = stored.select_columns([name for name in ITEM_COLUMNS if name in stored.column_names])
        self.lengths = token_counts(stored)
        if "target_ids" in stored.column_names:
            self.lengths = self.lengths + token_counts(stored, "target_ids")
        windowed = "example" in stored.column_names
        self.examples = np.asarray(stored.data.column("example")) if windowed else np.arange(len(stored))
        self.windows = (
            Windows(self.examples, stored.select_columns(["starts", "ends"])) if task.kind == "span" else None
        )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._items[int(index)], "task": self.task_id}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        columns = self._items[[int(index) for index in indices]]
        rows = zip(*columns.values(), strict=True)
        return [{**dict(zip(columns, row, strict=True)), "task": self.task_id} for row in rows]

    def characters(self, index: int) -> list[int]:
        """Return the [start, end) of a text2text item's window in its context."""
        return self._stored[int(index)]["window"]

    def word_starts(self, index: int) -> list[int]:
        """Return, for an item of a token task, the position of each word's first piece, -1 for words cut off."""
        return self._stored[int(index)]["word_starts"]


class MultiTaskDataset(Dataset):
    """The same split of several tasks, one after the other.

    Attributes:
        parts: The features of each task.
        sizes: Items of each task.
        offsets: Index of each task's first item.
        lengths: Tokens of each item, shape [items].
        task_ids: Task of each item, shape [items].
    """

    def __init__(self, parts: Sequence[TaskFeatures]) -> None:
        self.parts = list(parts)
        self.sizes = [len(part) for part in self.parts]
        self.offsets = [sum(self.sizes[:index]) for index in range(len(self.sizes))]
        self.lengths = np.concatenate([part.lengths for part in self.parts])
        self.task_ids = np.repeat([part.task_id for part in self.parts], self.sizes)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` is {index}, but there are {len(self)} items")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        positions = np.asarray(indices, dtype=np.int64)
        part_of = np.searchsorted(self.offsets, positions, side="right") - 1
        items: list[Any] = [None] * len(positions)
        for part in np.unique(part_of):
            places = np.flatnonzero(part_of == part)
            found = self.parts[part].__getitems__(positions[places] - self.offsets[part])
            for place, item in zip(places, found, strict=True):
                items[place] = item
        return items


def token_counts(stored: datasets.Dataset, name: str = "input_ids") -> np.ndarray:
    """Return the number of tokens of each stored item, shape [items], without reading the tokens."""
    chunks = stored.data.column(name).chunks
    return np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in chunks]).astype(np.int64)
