import sys

import pytest
import torch

from taskloom.errors import DataError, UserError
from taskloom.graphs import graph_from_pyg, propagate, split_communities


def data(**fields):
    geometric = pytest.importorskip("torch_geometric.data", reason="torch-geometric is not installed")
    edges = torch.tensor([[0, 1, 2, 3, 3], [1, 2, 3, 0, 3]])
    return geometric.Data(**{"edge_index": edges, "num_nodes": 4, **fields})


def test_classes_become_tasks_and_negative_classes_are_unlabelled():
    graph = graph_from_pyg(data(x=torch.eye(4), y=torch.tensor([1, 0, -1, 1])))
    assert graph.names == ("label-0", "label-1")
    assert [nodes.tolist() for nodes in graph.communities] == [[1], [0, 3]]
    assert torch.equal(graph.features, torch.eye(4))
    assert graph.edge_index.shape[1] == 8  # four edges both ways, no loop


def test_multi_label_and_masks_of_several_splits():
    y = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]])
    train = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 0]]).bool()
    graph = graph_from_pyg(data(y=y, train_mask=train, val_mask=~train), names=["a", "b"], split=1)
    assert torch.equal(graph.labels, y.bool())
    assert graph.masks["train"].tolist() == [False, True, False, False]
    assert "test" not in graph.masks


def test_the_graphs_own_masks_are_used_for_examples():
    y = torch.tensor([0, 1, 0, 1])
    train = torch.tensor([True, True, False, False])
    graph = graph_from_pyg(data(x=torch.eye(4), y=y, train_mask=train, val_mask=~train))
    tasks = split_communities(graph, propagate(graph, graph.features, hops=1))
    assert torch.equal(tasks.masks["train"], train[:, None].expand(4, 2))
    assert torch.equal(tasks.masks["validation"], ~train[:, None].expand(4, 2))
    assert not tasks.masks["test"].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no `y`"),
        ({"y": torch.zeros(3)}, r"`y` has the shape \[3\]; expected \[4\]"),
        ({"y": torch.tensor([[1, 0], [0, 2], [0, 0], [0, 1]])}, "`y` of node 1 holds values other than 0 and 1"),
        ({"y": torch.full((4,), -1)}, "no node is labelled"),
        ({"y": torch.tensor([0, 1, 0, 1]), "val_mask": torch.ones(3).bool()}, r"`val_mask` has the shape \[3\]"),
        ({"y": torch.tensor([0, 1, 0, 1]), "test_mask": torch.ones(4, 0).bool()}, "`test_mask` has 0 splits"),
    ],
)
def test_wrong_data_are_named(fields, message):
    with pytest.raises(DataError, match=message):
        graph_from_pyg(data(**fields))


def test_wrong_names_and_wrong_objects():
    with pytest.raises(DataError, match="`names` has 1 entries; `y` has 2 labels"):
        graph_from_pyg(data(y=torch.tensor([0, 1, 0, 1])), names=["a"])
    with pytest.raises(DataError, match="found list"):
        graph_from_pyg([1])


def test_without_torch_geometric_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(UserError, match=r"pip install 'taskloom\[graphs\]'"):
        graph_from_pyg(object())
