"""A collection as a program of its own, to be launched several times over or killed: ``FOLDER [SECONDS A BATCH]``.

Beside the folder each process leaves ``process-N.examples`` at the end, how many it has run.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from taskloom.affinity import GradientStore, collect_gradients
from taskloom.affinity.outputs import signed_logit
from taskloom.gradients import Projection
from taskloom.processes import rank


def loader(seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(torch.randn(24, 3, generator=generator), torch.arange(24) % 2), batch_size=4)


class Margins:
    """The output function, which counts what it is asked for and may take its time."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.examples = 0

    def __call__(self, outputs: Tensor, batch: Any) -> Tensor:
        time.sleep(self.pause)
        self.examples += len(outputs)
        return signed_logit(outputs[:, 0], batch[1])


def collect(folder: str, margins: Margins | None = None) -> GradientStore:
    torch.manual_seed(0)
    return collect_gradients(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
        {"a": loader(1), "b": loader(2)},
        margins or Margins(0.0),
        folder=folder,
        validation={"a": loader(3), "b": loader(4)},
        projection=Projection(dimensions=5),
        shard_size=4,
    )


if __name__ == "__main__":
    # By its name elsewhere, not as __main__: the store says which function it was collected with.
    from tests.affinity import collecting

    store_folder, counting = Path(sys.argv[1]), collecting.Margins(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
    collecting.collect(str(store_folder), counting)
    (store_folder.parent / f"process-{rank()}.examples").write_text(str(counting.examples))
