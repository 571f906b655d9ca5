"""The store of collected gradients: a folder of small, self-checking files.

    manifest.json                      the plan, and after the last shard each shard's hash
    shards/<task>-<split>-<number>.safetensors

A shard holds some hundred consecutive examples of one split of one task: ``gradients`` [examples, dimensions],
``outputs`` and ``labels`` [examples]. It is written under another name and renamed, and carries the hash of its
numbers and of the data that they came from. So a killed collection leaves whole shards only, any damage to a file is
noticed when it is read, and shards may be written by any number of processes in any order.
"""

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from taskloom.affinity.source import Loss, TaskGradients
from taskloom.errors import RunError, did_you_mean
from taskloom.gradients import Projection
from taskloom.storage import write_atomically

__all__ = ["GradientStore", "Plan", "ShardName", "Split", "TaskPlan"]

Split = Literal["train", "validation"]
FORMAT = 1
MANIFEST_FILE = "manifest.json"
SHARD_FOLDER = "shards"
HASHES = "hashes"
COLUMNS = ("gradients", "outputs", "labels")


class TaskPlan(BaseModel):
    """One task of a store: its name, its loss, and how many examples each split has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    loss: Loss
    train: int
    validation: int


class ShardName(BaseModel):
    """Which examples a shard holds: numbers `start` to `stop` (excluded) of a split of a task."""

    model_config = ConfigDict(frozen=True)

    task: int
    split: Split
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"{self.task:05d}-{self.split}-{self.start:08d}.safetensors"


class Plan(BaseModel):
    """What is collected, decided before the first example: two stores with equal plans hold the same numbers.

    Attributes:
        model: hash of the base model's parameters and buffers.
        output: name of the output function.
        projection: settings of the `Projection`.
        parameters: names and shapes of the trainable parameters, in the model's order.
        shard_size: most examples in a shard.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    model: str
    output: str
    projection: dict[str, Any]
    parameters: dict[str, list[int]]
    tasks: tuple[TaskPlan, ...]
    shard_size: int

    def shards(self) -> list[ShardName]:
        """Return the shards in order: task by task, training examples first."""
        return [
            shard
            for task in range(len(self.tasks))
            for split in ("train", "validation")
            for shard in self.shards_of(task, split)
        ]

    def shards_of(self, task: int, split: Split) -> list[ShardName]:
        """Return the shards of one split of one task, in order."""
        total = getattr(self.tasks[task], split)
        return [
            ShardName(task=task, split=split, start=start, stop=min(start + self.shard_size, total))
            for start in range(0, total, self.shard_size)
        ]


class GradientStore:
    """The gradients of a collection on disk; a `GradientSource`. `collect_gradients` makes one, `open` finds it again.

    Args:
        folder: the store's folder.
        plan: what it holds.
    """

    def __init__(self, folder: Path, plan: Plan, hashes: Mapping[str, str]) -> None:
        self.folder = folder
        self.plan = plan
        self.temporary: object = None  # whatever removes the folder when the store is gone
        self._hashes = hashes
        self._positions = {task.name: position for position, task in enumerate(plan.tasks)}

    @classmethod
    def open(cls, folder: Path | str) -> "GradientStore":
        """Open a finished store.

        Raises:
            RunError: there is none, it is not finished, or it was written by another version.
        """
        folder = Path(folder)
        found = read_manifest(folder)
        if found is None:
            raise RunError(f"{folder}: there is no store of gradients here (no {MANIFEST_FILE}). Collect them first.")
        plan, hashes = found
        missing = len(plan.shards()) - len(hashes)
        if missing:
            raise RunError(
                f"{folder}: the gradients are not all collected. Run the same collection again; it goes on where it "
                "stopped."
            )
        return cls(folder, plan, hashes)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order of their ids."""
        return tuple(self._positions)

    @property
    def projection(self) -> Projection:
        """The projection that the gradients went through, for `Projection.back`."""
        return Projection(**self.plan.projection)

    @property
    def dimensions(self) -> int:
        """Width of the projected gradients."""
        return self.projection.dimensions

    def train(self, task: str) -> TaskGradients:
        """Return a task's training examples."""
        return self._rows(task, "train")

    def validation(self, task: str) -> TaskGradients:
        """Return a task's validation examples."""
        return self._rows(task, "validation")

    def _rows(self, task: str, split: Split) -> TaskGradients:
        if task not in self._positions:
            raise RunError(f"{self.folder}: holds no task '{task}'.{did_you_mean(task, self._positions)}")
        position = self._positions[task]
        parts = [self._shard(shard) for shard in self.plan.shards_of(position, split)]
        empty = {"gradients": torch.zeros(0, self.dimensions), "outputs": torch.zeros(0), "labels": torch.zeros(0)}
        columns = {name: torch.cat([part[name] for part in parts]) if parts else empty[name] for name in COLUMNS}
        return TaskGradients(**columns, loss=self.plan.tasks[position].loss)

    def _shard(self, shard: ShardName) -> dict[str, Tensor]:
        path = self.folder / SHARD_FOLDER / shard.file
        found = read_shard(path)
        if found is None or found[1]["content"] != self._hashes[shard.file]:
            raise RunError(
                f"{path}: the file is missing or damaged. Run the same collection again; it replaces this file only."
            )
        return found[0]


def read_manifest(folder: Path) -> tuple[Plan, dict[str, str]] | None:
    """Return a store's plan and its shards' hashes (none until it is finished), or None if there is no store.

    Raises:
        RunError: the manifest cannot be read, or is of another version.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text("utf-8"))
        hashes = stored.pop("shards")
        plan = Plan.model_validate(stored)
    except (ValueError, KeyError, AttributeError, ValidationError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: is not the manifest of a store of gradients. Use another folder.") from error
    if plan.format != FORMAT:
        raise RunError(f"{path}: is of format {plan.format}, this version reads {FORMAT}. Collect again elsewhere.")
    return plan, hashes


def write_manifest(folder: Path, plan: Plan, hashes: Mapping[str, str]) -> None:
    """Write the plan and, when the store is finished, each shard's hash."""
    content = json.dumps({**plan.model_dump(mode="json"), "shards": dict(hashes)}, indent=1)
    _write(folder / MANIFEST_FILE, content.encode())


def write_shard(path: Path, columns: Mapping[str, Tensor], data: str) -> str:
    """Write one shard and return the hash of its numbers.

    Args:
        path: where to.
        columns: ``gradients``, ``outputs`` and ``labels``.
        data: hash of the examples that they came from.

    Raises:
        RunError: it cannot be written; what was there before is unharmed.
    """
    stored = {name: columns[name].detach().to("cpu", torch.float32).contiguous() for name in COLUMNS}
    content = content_hash(stored)
    # In one entry, because safetensors writes several in any order, and equal shards should be equal files.
    hashes = json.dumps({"content": content, "data": data})
    _write(path, save(stored, metadata={HASHES: hashes}))
    return content


def read_shard(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Return the columns and hashes of a shard, or None if it is missing, cut short or changed."""
    try:
        with safe_open(path, framework="pt") as file:
            hashes = json.loads((file.metadata() or {}).get(HASHES, "{}"))
            columns = {name: file.get_tensor(name) for name in COLUMNS}
    except (OSError, SafetensorError, ValueError):
        return None
    return (columns, hashes) if hashes.get("content") == content_hash(columns) else None


def content_hash(value: Any) -> str:
    """Return the SHA-256 of tensors in nested mappings and sequences, names and shapes included."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{list(plain.shape)}".encode())
        # Through bytes, because NumPy has no bfloat16.
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for name in value:
            digest.update(f"{name}=".encode())
            _feed(digest, value[name])
    elif isinstance(value, list | tuple):
        for part in value:
            _feed(digest, part)
    else:
        digest.update(repr(value).encode())


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise RunError(
            f"{path}: cannot be written: {reason}. What was collected so far is whole; make room and run the same "
            "command again, it goes on from there."
        ) from error
