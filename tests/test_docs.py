"""The code in the documentation runs."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_grad_tag_with_your_own_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)

    def loaders(size: int) -> dict[str, DataLoader]:
        return {
            name: DataLoader(TensorDataset(torch.randn(size, 4), torch.arange(size) % 3), batch_size=5)
            for name in ("first", "second", "third")
        }

    names: dict[str, Any] = {
        "model": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
        "train_loaders": loaders(12),
        "validation_loaders": loaders(9),
    }
    (block,) = blocks("methods/grad-tag.md")
    exec(block, names)
    assert sorted(position for group in names["groups"] for position in group) == [0, 1, 2]
    assert len(names["groups"]) == 2
