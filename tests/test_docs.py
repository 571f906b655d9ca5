"""The code in the documentation runs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
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
    block, _ = blocks("methods/grad-tag.md")
    exec(block, names)
    assert sorted(position for group in names["groups"] for position in group) == [0, 1, 2]
    assert len(names["groups"]) == 2


def test_grad_tag_on_a_graph(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, size, count = np.random.default_rng(0), 15, 20  # twenty communities of fifteen nodes each
    near = [(node, node // size * size + int(rng.integers(size))) for node in range(size * count) for _ in range(4)]
    far = [(int(first), int(second)) for first, second in rng.integers(size * count, size=(150, 2))]
    edges = sorted({(min(pair), max(pair)) for pair in near + far if pair[0] != pair[1]})
    (tmp_path / "com-amazon").mkdir()
    (tmp_path / "com-amazon/edges.txt").write_text("".join(f"{first} {second}\n" for first, second in edges))
    communities = (range(start, start + size) for start in range(0, size * count, size))
    lines = (" ".join(map(str, members)) + "\n" for members in communities)
    (tmp_path / "com-amazon/communities.txt").write_text("".join(lines))

    _, block = blocks("methods/grad-tag.md")
    names: dict[str, Any] = {}
    exec(block, names)
    assert sorted(position for group in names["groups"] for position in group) == list(range(count))
    assert len(names["groups"]) == 5
