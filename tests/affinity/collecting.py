"""A collection as a program of its own, to be launched several times over or killed: ``FOLDER [SECONDS A BATCH]``."""

import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from taskloom.affinity import GradientStore, collect_gradients
from taskloom.affinity.outputs import signed_logit
from taskloom.gradients import Projection


def loader(seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(torch.randn(24, 3, generator=generator), torch.arange(24) % 2), batch_size=4)


def collect(folder: str, pause: float = 0.0) -> GradientStore:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def margins(outputs: Tensor, batch: Any) -> Tensor:
        time.sleep(pause)
        return signed_logit(outputs[:, 0], batch[1])

    return collect_gradients(
        model,
        {"a": loader(1), "b": loader(2)},
        margins,
        folder=folder,
        validation={"a": loader(3), "b": loader(4)},
        projection=Projection(dimensions=5),
        shard_size=4,
    )


if __name__ == "__main__":
    collect(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0)
