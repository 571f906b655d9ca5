"""The store of gradients: what it holds, how it resumes, and what it refuses."""

import errno
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from taskloom.affinity.collect import collect_gradients
from taskloom.affinity.outputs import class_margin, log_odds, signed_logit
from taskloom.affinity.store import SHARD_FOLDER, GradientStore
from taskloom.errors import DataError, RunError
from taskloom.gradients import Projection

PROJECTION = Projection(dimensions=6, seed=3)


def margins(outputs: Tensor, batch: Any) -> Tensor:
    return signed_logit(outputs[:, 0], batch[1])


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1))


def loader(seed: int, size: int = 11) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randn(size, 3, generator=generator), torch.arange(size) % 2
    return DataLoader(TensorDataset(inputs, labels), batch_size=4, shuffle=size > 0)


def collect(folder: Any, **changes: Any) -> GradientStore:
    settings: dict[str, Any] = {
        "model": network(),
        "loaders": {"a": loader(1), "b": loader(2)},
        "validation": {"a": loader(3, 5), "b": loader(4, 5)},
        "output_fn": margins,
        "projection": PROJECTION,
        "folder": folder,
        "shard_size": 8,
    }
    return collect_gradients(**{**settings, **changes})


def by_hand(model: nn.Module, data: DataLoader) -> tuple[Tensor, Tensor]:
    """One `autograd.grad` call an example, then the projection of the whole gradient."""
    inputs, labels = data.dataset.tensors  # type: ignore[attr-defined]
    names, parameters = zip(*model.named_parameters(), strict=True)
    outputs, rows = [], []
    for example, label in zip(inputs, labels, strict=True):
        output = (2 * label - 1) * model(example[None])[0, 0]
        gradients = torch.autograd.grad(output, parameters)
        rows.append(PROJECTION.project({name: gradient[None] for name, gradient in zip(names, gradients, strict=True)}))
        outputs.append(output.detach())
    return torch.stack(outputs), torch.cat(rows)


def test_store_holds_outputs_labels_and_projected_gradients_in_order(tmp_path):
    store = collect(tmp_path)
    model = network().eval()
    assert store.tasks == ("a", "b")
    assert store.dimensions == 6
    for name, seed in (("a", 1), ("b", 2)):
        rows = store.train(name)
        outputs, gradients = by_hand(model, loader(seed))
        torch.testing.assert_close(rows.outputs, outputs)
        torch.testing.assert_close(rows.gradients, gradients, rtol=1e-5, atol=1e-6)
        assert rows.labels.tolist() == [index % 2 for index in range(11)]
        assert rows.loss == "logistic"
    assert len(store.validation("b")) == 5


def test_model_is_left_as_it_was(tmp_path):
    model = network().train()
    collect(tmp_path, model=model)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_interrupted_collection_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = collect(tmp_path / "whole")
    from taskloom.affinity import collect as module

    written = []
    original = module.write_shard

    def stops_after_two(path: Any, *rest: Any) -> str:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        return original(path, *rest)

    monkeypatch.setattr(module, "write_shard", stops_after_two)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "cut")
    with pytest.raises(RunError, match="not all collected"):
        GradientStore.open(tmp_path / "cut")

    again = []
    monkeypatch.setattr(module, "write_shard", lambda path, *rest: (again.append(path.name), original(path, *rest))[1])
    resumed = collect(tmp_path / "cut")
    assert not set(again) & set(written)
    for task in ("a", "b"):
        assert torch.equal(resumed.train(task).gradients, whole.train(task).gradients)
    assert (tmp_path / "cut" / "manifest.json").read_text() == (tmp_path / "whole" / "manifest.json").read_text()


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_shard_is_noticed_and_collected_again(tmp_path, damage):
    expected = collect(tmp_path).train("a").gradients
    shard = sorted((tmp_path / SHARD_FOLDER).iterdir())[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-7] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=rf"{shard.name}: the file is missing or damaged"):
        GradientStore.open(tmp_path).train("a")
    assert torch.equal(collect(tmp_path).train("a").gradients, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": network(1)}, "another base model"),
        ({"projection": Projection(dimensions=6, seed=4)}, r"another projection \(seed=3, now 4\)"),
        ({"output_fn": lambda outputs, batch: outputs[:, 0] * batch[1]}, "another output"),
        ({"loaders": {"a": loader(1), "b": loader(2, 12)}}, r"other tasks or examples \(b\)"),
        ({"loaders": {"a": loader(1), "b": loader(5)}}, "train examples 0 to 7 of task 'b' have changed"),
    ],
)
def test_store_of_something_else_is_refused_and_left_alone(tmp_path, changes, message):
    collect(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=message):
        collect(tmp_path, **changes)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_non_finite_gradient_names_the_example(tmp_path):
    data = loader(1)
    data.dataset.tensors[0][9, 0] = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="task 'a', train example 9: its output is not finite"):
        collect(tmp_path, loaders={"a": data, "b": loader(2)})


def test_task_without_examples_is_refused(tmp_path):
    with pytest.raises(DataError, match="task 'b' has no validation examples"):
        collect(tmp_path, validation={"a": loader(3, 5), "b": loader(4, 0)})


def test_full_disk_loses_nothing(tmp_path, monkeypatch):
    from taskloom.affinity import store as module

    original, count = module.write_atomically, []

    def full_after_three(path: Any, content: Any) -> None:
        count.append(path)
        if len(count) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, content)

    monkeypatch.setattr(module, "write_atomically", full_after_three)
    with pytest.raises(RunError, match="the disk is full"):
        collect(tmp_path)
    monkeypatch.setattr(module, "write_atomically", original)
    assert torch.equal(collect(tmp_path).train("b").gradients, collect(tmp_path / "other").train("b").gradients)


def test_batch_is_halved_when_memory_runs_out(tmp_path, capsys):
    from rich.console import Console

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, inputs: Tensor) -> Tensor:
            if len(inputs) > 2:
                raise torch.OutOfMemoryError
            return self.inner(inputs)

    store = collect(tmp_path / "small", model=Small(), console=Console())
    assert "out of memory: going on with 2 examples at a time" in capsys.readouterr().out
    outputs, _ = by_hand(Small().eval().inner, loader(1))
    torch.testing.assert_close(store.train("a").outputs, outputs)


def test_manifest_is_plain_json(tmp_path):
    collect(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [task["name"] for task in manifest["tasks"]] == ["a", "b"]
    assert manifest["projection"]["dimensions"] == 6


def test_margins_are_the_log_odds_of_the_right_answer():
    logits = torch.tensor([[0.3, -1.2, 2.0], [1.0, 1.0, 1.0]])
    label = torch.tensor([2, 0])
    probability = logits.softmax(-1)[torch.arange(2), label]
    expected = (probability / (1 - probability)).log()
    torch.testing.assert_close(class_margin(logits, label), expected)
    torch.testing.assert_close(log_odds(probability.log()), expected)
    # Two classes: the difference of the logits, and the loss is the cross-entropy.
    torch.testing.assert_close(
        nn.functional.softplus(-class_margin(logits, label)),
        nn.functional.cross_entropy(logits, label, reduction="none"),
    )
    assert log_odds(torch.zeros(1)).isfinite().all()


def test_without_a_folder_the_store_lives_as_long_as_the_answer():
    store = collect(None)
    folder = store.folder
    assert len(store.train("a")) == 11
    assert folder.is_dir()
    del store
    assert not folder.exists()
