"""SNAP's files of graphs with ground-truth communities (Yang and Leskovec 2012): edge lists and community lists.

An edge list has two node ids a line; a community list has all node ids of one community a line. Lines that start with
``#`` are comments, empty lines are skipped, and files may be compressed (``.gz``). Ids are renumbered from zero.
"""

import gzip
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path

import torch

from taskloom.errors import DataError
from taskloom.graphs.data import CommunityGraph, undirected

__all__ = ["load_snap"]

#: What the two files are called in a folder, in the order in which they are looked for.
_EDGES = ("edges.txt", "*.ungraph.txt")
_COMMUNITIES = ("communities.txt", "*.all.cmty.txt", "*.cmty.txt")


def load_snap(path: Path | str, communities: Path | str | None = None) -> CommunityGraph:
    """Load a graph and its communities.

    Args:
        path: the edge list; or a folder with an edge list (``edges.txt`` or ``*.ungraph.txt``) and a community list
            (``communities.txt``, ``*.all.cmty.txt`` or ``*.cmty.txt``), each of which may end in ``.gz``.
        communities: the community list, if `path` is an edge list.

    Returns:
        A `CommunityGraph` with directions, repeated edges and self loops removed. A community is named
        ``community-N`` after its place in the file, from zero; repeated nodes of a community count once. Nodes that
        are in a community but have no edge are kept.

    Raises:
        DataError: a file is missing, ambiguous, empty or damaged, a line is malformed (named by file and line), or no
            community shares a node with the edges.
    """
    path = Path(path)
    if path.is_dir():
        edges_file, communities_file = _find(path, _EDGES, "edge list"), _find(path, _COMMUNITIES, "community list")
    elif communities is None:
        raise DataError(f"{path}: expected a folder, or an edge list together with `communities`")
    else:
        edges_file, communities_file = path, Path(communities)

    ends = array("q")
    for line, ids in _lines(edges_file):
        if len(ids) != 2:
            raise DataError(f"{edges_file}:{line}: found {len(ids)} columns; an edge is two node ids")
        ends.extend(ids)
    members = [sorted(set(ids)) for _, ids in _lines(communities_file)]

    edges = torch.frombuffer(ends, dtype=torch.long).view(-1, 2).T.contiguous()
    groups = [torch.tensor(ids, dtype=torch.long) for ids in members]
    node_ids = torch.unique(torch.cat([edges.flatten(), *groups]))
    if not torch.isin(torch.cat(groups), edges).any():
        raise DataError(f"{communities_file}: none of its nodes is in {edges_file}; are they of the same graph?")
    return CommunityGraph(
        edge_index=undirected(torch.searchsorted(node_ids, edges), len(node_ids)),
        num_nodes=len(node_ids),
        communities=tuple(torch.searchsorted(node_ids, group) for group in groups),
        names=tuple(f"community-{place}" for place in range(len(groups))),
        node_ids=node_ids,
    )


def _find(folder: Path, patterns: tuple[str, ...], what: str) -> Path:
    for pattern in patterns:
        found = sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])
        if len(found) > 1:
            raise DataError(f"{folder}: {found[0].name} and {found[1].name} could both be the {what}; name one")
        if found:
            return found[0]
    raise DataError(f"{folder}: no {what}; expected {' or '.join(patterns)}, or the same with .gz")


def _lines(file: Path) -> Iterator[tuple[int, list[int]]]:
    """Yield (line number, the line's ids) of every line that holds data; at least one."""
    empty = True
    number = 0
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                words = line.split()
                if not words or words[0].startswith("#"):
                    continue
                if wrong := [word for word in words if not word.isdecimal()]:
                    raise DataError(f"{file}:{number}: found '{wrong[0][:40]}'; expected node ids, whole numbers")
                empty = False
                yield number, [int(word) for word in words]
    except FileNotFoundError:
        raise DataError(f"{file}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file}: damaged or cut short after line {number} ({error}); fetch it again") from None
    except UnicodeDecodeError:
        raise DataError(f"{file}: not a text file (after line {number}); expected node ids in UTF-8") from None
    if empty:
        raise DataError(f"{file}: holds no data; expected node ids")
