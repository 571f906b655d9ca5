import gzip

import pytest
import torch

from taskloom.errors import DataError
from taskloom.graphs import load_snap
from tests.graphs.planted import write_snap
from tests.support import real_data

EDGES = "# Undirected graph\n# FromNodeId\tToNodeId\n7\t3\n3\t7\n10 7\n\n3 3\n10 20\n"
COMMUNITIES = "3 7\n20 10 7 20\n99 3\n"


def test_ids_are_renumbered_and_edges_undirected_without_repeats_or_loops(tmp_path):
    graph = load_snap(write_snap(tmp_path, EDGES, COMMUNITIES))
    assert graph.node_ids.tolist() == [3, 7, 10, 20, 99]
    assert graph.num_nodes == 5  # 99 has no edge, yet a community
    named = {(int(graph.node_ids[u]), int(graph.node_ids[v])) for u, v in graph.edge_index.T.tolist()}
    assert named == {(3, 7), (7, 3), (7, 10), (10, 7), (10, 20), (20, 10)}
    assert graph.edge_index.shape[1] == 6
    assert [graph.node_ids[nodes].tolist() for nodes in graph.communities] == [[3, 7], [7, 10, 20], [3, 99]]
    assert graph.names == ("community-0", "community-1", "community-2")


def test_snap_names_and_compression_give_the_same_graph(tmp_path):
    plain = load_snap(write_snap(tmp_path / "plain", EDGES, COMMUNITIES))
    folder = tmp_path / "snap"
    folder.mkdir()
    for name, text in {"com-x.ungraph.txt.gz": EDGES, "com-x.all.cmty.txt.gz": COMMUNITIES}.items():
        with gzip.open(folder / name, "wt") as file:
            file.write(text)
    packed = load_snap(folder)
    named = load_snap(folder / "com-x.ungraph.txt.gz", folder / "com-x.all.cmty.txt.gz")
    for graph in (packed, named):
        assert torch.equal(graph.edge_index, plain.edge_index)
        assert torch.equal(graph.labels, plain.labels)


def test_largest_and_induced(tmp_path):
    graph = load_snap(write_snap(tmp_path, EDGES, COMMUNITIES))
    largest = graph.largest(2)
    assert largest.names == ("community-1", "community-0")
    small = graph.select(["community-1"]).induced()
    assert small.node_ids.tolist() == [7, 10, 20]
    assert small.edge_index.tolist() == [[0, 1, 1, 2], [1, 0, 2, 1]]
    assert small.labels.all()
    with pytest.raises(DataError, match="3 communities; asked for the 4 largest"):
        graph.largest(4)
    with pytest.raises(DataError, match="community-9"):
        graph.select(["community-9"])


@pytest.mark.parametrize(
    ("edges", "communities", "message"),
    [
        ("1 2\n3\n", "1 2\n", r"edges\.txt:2: found 1 columns; an edge is two"),
        ("1 2\n3 4 5\n", "1 2\n", r"edges\.txt:2: found 3 columns"),
        ("1 2\n3 x4\n", "1 2\n", r"edges\.txt:2: found 'x4'; expected node ids"),
        ("1 2\n", "1 2\n\n2 -1\n", r"communities\.txt:3: found '-1'"),
        ("# nothing\n", "1 2\n", r"edges\.txt: holds no data"),
        ("1 2\n", "\n", r"communities\.txt: holds no data"),
        ("1 2\n", "3 4\n", r"none of its nodes is in .*edges\.txt"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, edges, communities, message):
    with pytest.raises(DataError, match=message):
        load_snap(write_snap(tmp_path, edges, communities))


def test_missing_ambiguous_and_damaged_files(tmp_path):
    with pytest.raises(DataError, match="no edge list; expected edges"):
        load_snap(tmp_path)
    with pytest.raises(DataError, match="together with `communities`"):
        load_snap(tmp_path / "edges.txt")
    with pytest.raises(DataError, match="no such file"):
        load_snap(tmp_path / "edges.txt", tmp_path / "communities.txt")
    write_snap(tmp_path, "1 2\n", "1 2\n")
    whole = gzip.compress(b"1 2\n" * 5000)
    (tmp_path / "cut.gz").write_bytes(whole[:-10])
    with pytest.raises(DataError, match="damaged or cut short"):
        load_snap(tmp_path / "cut.gz", tmp_path / "communities.txt")
    (tmp_path / "fake.gz").write_bytes(b"1 2\n")
    with pytest.raises(DataError, match="damaged or cut short"):
        load_snap(tmp_path / "fake.gz", tmp_path / "communities.txt")
    (tmp_path / "binary.txt").write_bytes(b"1 2\n\xff\xfe\n")
    with pytest.raises(DataError, match="not a text file"):
        load_snap(tmp_path / "binary.txt", tmp_path / "communities.txt")
    (tmp_path / "edges.txt.gz").write_bytes(whole)
    with pytest.raises(DataError, match=r"edges\.txt and edges\.txt\.gz could both"):
        load_snap(tmp_path)


@pytest.mark.real_data
def test_real_graphs_have_the_published_sizes():
    email = load_snap(real_data("graphs", "email_eu_core"))
    assert (email.num_nodes, email.edge_index.shape[1] // 2, len(email.communities)) == (1005, 16064, 42)
    assert (email.labels.sum(1) == 1).all()  # departments do not overlap
    amazon = load_snap(real_data("graphs", "com_amazon_1.90"))
    assert (amazon.num_nodes, amazon.edge_index.shape[1] // 2, len(amazon.communities)) == (13178, 33767, 1292)
