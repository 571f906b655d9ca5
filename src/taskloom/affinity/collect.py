"""Collecting: every example's output and projected gradient at the base model, once (Grad-TAG, algorithm 1, step 1).

This is the only pass over the data that an affinity estimate needs. It is cut into shards of consecutive examples; a
shard depends on nothing but its examples, so a killed collection goes on with the missing shards, and any number of
processes (`accelerate launch`, `torchrun`) share these and write the same store as one process does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from taskloom.affinity.batches import cut, map_tensors, size_of
from taskloom.affinity.begin import begin_store
from taskloom.affinity.outputs import OutputFunction
from taskloom.affinity.source import Loss
from taskloom.affinity.store import (
    SHARD_FOLDER,
    GradientStore,
    Plan,
    ShardName,
    Split,
    TaskPlan,
    content_hash,
    read_shard,
    write_manifest,
    write_shard,
)
from taskloom.errors import DataError, RunError
from taskloom.gradients import Projection, projected_gradients
from taskloom.gradients.capture import Fallback
from taskloom.processes import gather, is_main, on_main, rank, together, world_size
from taskloom.progress import counted

__all__ = ["collect_gradients"]

#: Names an example for messages: (task, split, position in the loader's data set) -> text.
Describe = Callable[[str, str, int], str]

#: Shards that a process collects before the processes tell each other whether all is well.
SHARDS_A_ROUND = 4


def collect_gradients(
    model: nn.Module,
    loaders: Mapping[str, DataLoader],
    output_fn: OutputFunction,
    *,
    folder: Path | str | None = None,
    validation: Mapping[str, DataLoader] | None = None,
    projection: Projection | None = None,
    losses: Mapping[str, Loss] | None = None,
    labels_fn: Callable[[Any], Tensor] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    fallback: Fallback = None,
    shard_size: int = 512,
    describe: Describe | None = None,
    console: Console | None = None,
) -> GradientStore:
    """Collect the projected gradients of every task's examples into a store on disk, or finish one that was begun.

    Args:
        model: the base model. The gradients are of its parameters with `requires_grad`; it runs in evaluation mode.
        loaders: each task's training examples. Only the loader's data set, batch size, collate function and number
            of workers are used: examples are always read in the data set's order, so that every run gives the same.
        output_fn: ``(model's outputs, batch) -> [batch]``, the margin of the right answer for logistic tasks, the
            prediction for squared ones (see `taskloom.affinity.outputs`).
        folder: where the store is, or is to be; None keeps it in a temporary folder for as long as the answer lives.
        validation: each task's held-out examples; None collects none, and nothing can be estimated on them.
        projection: of the gradients; by default `Projection()`, 200 Rademacher dimensions.
        losses: each task's loss; by default all are logistic.
        labels_fn: ``batch -> [batch]``, class or regression target; by default ``batch["labels"]``, or the second
            part of a batch that is a tuple.
        forward: ``(model, batch) -> outputs``; by default ``model(**batch)``, or ``model(batch[0])`` for a tuple.
        fallback: what to do about trainable modules without a gradient rule, see `per_example_gradients`.
        shard_size: examples a file; what is lost at most when the process is killed.
        describe: names an example in messages about it.
        console: where the main process shows the progress of all; None shows none.

    Returns:
        The finished store, in every process.

    Raises:
        DataError: a task has no examples, or an example's output or gradient is not finite (it is named).
        RunError: the store is of another model, projection, output or data, or the disk is full.
        ValueError: the arguments do not fit together; several processes need a `folder`.
    """
    temporary = None
    if folder is None:
        if world_size() > 1:
            raise ValueError("`folder` must be given when several processes collect together")
        temporary = TemporaryDirectory(prefix="taskloom-gradients-")
        folder = temporary.name
    folder = Path(folder)
    collection = _Collection(
        model,
        _splits(loaders, validation),
        output_fn,
        labels_fn or _labels,
        forward,
        fallback,
        projection or Projection(),
        describe or _position,
        console if is_main() else None,
    )
    plan = collection.plan(losses or {}, shard_size)
    on_main(partial(begin_store, folder, plan))
    was_training = model.training
    model.eval()
    try:
        hashes = collection.collect_missing(folder, plan)
    finally:
        model.train(was_training)
    on_main(partial(write_manifest, folder, plan, hashes))
    store = GradientStore.open(folder)
    store.temporary = temporary
    return store


@dataclass
class _Collection:
    """The model and the data of one call, and how one shard is made from them."""

    model: nn.Module
    splits: Mapping[Split, Mapping[str, DataLoader]]
    output_fn: OutputFunction
    labels_fn: Callable[[Any], Tensor]
    forward: Callable[[nn.Module, Any], Any] | None
    fallback: Fallback
    projection: Projection
    describe: Describe
    console: Console | None
    pieces: int = 1  # doubled whenever a batch does not fit into the device's memory

    def plan(self, losses: Mapping[str, Loss], shard_size: int) -> Plan:
        tasks = []
        for name in self.splits["train"]:
            sizes = {split: len(self._data(loaders[name])) for split, loaders in self.splits.items()}
            empty = [split for split, size in sizes.items() if not size]
            if empty:
                raise DataError(f"task '{name}' has no {empty[0]} examples: add some, or leave the task out")
            tasks.append(
                TaskPlan(
                    name=name,
                    loss=losses.get(name, "logistic"),
                    train=sizes["train"],
                    validation=sizes.get("validation", 0),
                )
            )
        return Plan(
            model=content_hash(dict(self.model.state_dict())),
            output=_name(self.output_fn),
            projection={part.name: getattr(self.projection, part.name) for part in fields(Projection) if part.init},
            parameters={
                name: list(parameter.shape)
                for name, parameter in self.model.named_parameters()
                if parameter.requires_grad
            },
            tasks=tuple(tasks),
            shard_size=shard_size,
        )

    def collect_missing(self, folder: Path, plan: Plan) -> dict[str, str]:
        """Write the shards that are not there, together with the other processes; return the hashes of all of them."""
        shards = plan.shards()
        hashes = self._found(folder, plan, shards)
        shares = _shared_out([shard for shard in shards if shard.file not in hashes], world_size())
        with counted(self.console, "gradients", _examples(shards), "examples") as advance:
            advance(_examples([shard for shard in shards if shard.file in hashes]))
            for first in range(0, max(map(len, shares)), SHARDS_A_ROUND):
                of_round = [share[first : first + SHARDS_A_ROUND] for share in shares]
                with together():
                    for shard in of_round[rank()]:
                        hashes[shard.file] = self._collect(folder, plan, shard)
                        advance(_examples([shard]))
                advance(sum(_examples(others) for number, others in enumerate(of_round) if number != rank()))
        every = _merged(gather(hashes))
        return {shard.file: every[shard.file] for shard in shards}

    def _found(self, folder: Path, plan: Plan, shards: Sequence[ShardName]) -> dict[str, str]:
        """Return the hashes of the shards that are there, whole and of the same examples; each process reads some."""
        own = {}
        with together():
            for shard in shards[rank() :: world_size()]:
                found = read_shard(folder / SHARD_FOLDER / shard.file)
                if found is None:
                    continue
                task = plan.tasks[shard.task].name
                if found[1]["data"] != content_hash(list(self._batches(self.splits[shard.split][task], shard))):
                    raise RunError(
                        f"{folder}: was collected from other data: {shard.split} examples {shard.start} to "
                        f"{shard.stop - 1} of task '{task}' have changed. Use another folder, or delete this one."
                    )
                own[shard.file] = found[1]["content"]
        return _merged(gather(own))

    def _collect(self, folder: Path, plan: Plan, shard: ShardName) -> str:
        """Write a shard and return its hash."""
        task = plan.tasks[shard.task].name
        batches = list(self._batches(self.splits[shard.split][task], shard))
        columns: dict[str, list[Tensor]] = {"gradients": [], "outputs": [], "labels": []}
        for batch in batches:
            outputs, gradients = self._gradients(batch)
            columns["gradients"].append(gradients)
            columns["outputs"].append(outputs.float())
            columns["labels"].append(self.labels_fn(batch).float())
        # The processor waits for the device here, not after every batch.
        joined = {name: torch.cat(parts).cpu() for name, parts in columns.items()}
        self._refuse_non_finite(task, shard.split, shard.start, joined["outputs"], joined["gradients"])
        return write_shard(folder / SHARD_FOLDER / shard.file, joined, content_hash(batches))

    def _gradients(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the outputs and projected gradients of a batch, in as many pieces as the device's memory asks for."""
        device = next(self.model.parameters()).device
        while True:
            try:
                parts = [
                    projected_gradients(
                        self.model,
                        map_tensors(piece, lambda tensor: tensor.to(device)),
                        self.output_fn,
                        self.projection,
                        forward=self.forward,
                        fallback=self.fallback,
                    )
                    for piece in cut(batch, self.pieces)
                ]
                return torch.cat([outputs for outputs, _ in parts]), torch.cat([rows for _, rows in parts])
            except torch.OutOfMemoryError:
                size = size_of(batch)
                if self.pieces >= size:
                    raise
                self.pieces *= 2
            # Outside of the handler, whose traceback would keep the failed batch's tensors alive.
            if torch.accelerator.is_available():
                torch.accelerator.empty_cache()
            if self.console:
                per_piece = -(-size // self.pieces)
                self.console.print(f"The device is out of memory: going on with {per_piece} examples at a time.")

    def _batches(self, loader: DataLoader, shard: ShardName) -> Iterator[Any]:
        data, size = self._data(loader), loader.batch_size or 1
        positions = range(shard.start, shard.stop)
        return iter(
            DataLoader(
                data,
                batch_sampler=[list(positions[at : at + size]) for at in range(0, len(positions), size)],
                collate_fn=loader.collate_fn,
                num_workers=loader.num_workers,
            )
        )

    def _data(self, loader: DataLoader) -> Any:
        data: Dataset = loader.dataset
        if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
            raise ValueError(
                f"`loaders`: the data set {type(data).__name__} has no length and no positions, so a collection could "
                "not be resumed; give a map-style data set, such as list(data)"
            )
        return data

    def _refuse_non_finite(self, task: str, split: str, start: int, outputs: Tensor, gradients: Tensor) -> None:
        finite = outputs.isfinite() & gradients.isfinite().all(dim=1)
        if not finite.all():
            position = int((~finite).nonzero()[0])
            what = "gradient" if outputs[position].isfinite() else "output"
            raise DataError(
                f"task '{task}', {self.describe(task, split, start + position)}: its {what} is not finite. Look at "
                "this example and at the base model's loss on it; with fp16, collect in float32 or bfloat16."
            )


def _splits(
    loaders: Mapping[str, DataLoader], validation: Mapping[str, DataLoader] | None
) -> dict[Split, Mapping[str, DataLoader]]:
    if not loaders:
        raise ValueError("`loaders` is empty: give a loader of training examples for each task")
    if validation is None:
        return {"train": loaders}
    if set(loaders) != set(validation):
        only = ", ".join(sorted(set(loaders) ^ set(validation)))
        raise ValueError(f"`validation` must have the same tasks as `loaders`; in one of them only: {only}")
    return {"train": loaders, "validation": validation}


def _shared_out(shards: Sequence[ShardName], processes: int) -> list[list[ShardName]]:
    """Divide shards among processes, the largest first and each to whom has the least, so that all end together."""
    shares: list[list[ShardName]] = [[] for _ in range(processes)]
    sizes = [0] * processes
    for shard in sorted(shards, key=lambda shard: shard.start - shard.stop):
        least = sizes.index(min(sizes))
        shares[least].append(shard)
        sizes[least] += _examples([shard])
    return [sorted(share, key=lambda shard: (shard.task, shard.split, shard.start)) for share in shares]


def _examples(shards: Sequence[ShardName]) -> int:
    return sum(shard.stop - shard.start for shard in shards)


def _merged(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {name: value for part in parts for name, value in part.items()}


def _position(_task: str, split: str, position: int) -> str:
    return f"{split} example {position}"


def _labels(batch: Any) -> Tensor:
    return batch["labels"] if isinstance(batch, Mapping) else batch[1]


def _name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
