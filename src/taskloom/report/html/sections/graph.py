"""The groups as a graph: tasks as nodes in their groups' circles, edges by how they help each other."""

import math
from statistics import fmean

from markupsafe import Markup, escape

from taskloom.report.html.reading.affinities import Affinity

__all__ = ["group_graph"]

#: Edges that a task has at most: its strongest.
EDGES = 3
#: Edges of less than this part of the strongest are not drawn.
WEAK = 0.05
#: Up to this many tasks, nodes are named.
NAMED = 60


def group_graph(matrix: Affinity, names: list[str]) -> Markup | None:
    """Draw each task in its group's circle, and its strongest affinities; None without groups.

    An edge is the mean of both tasks' gains from each other: a full line where they help, a dashed one where they hurt.
    Of many tasks, edges are between groups: the mean over their tasks.
    """
    if not matrix.grouped:
        return None
    sizes = [_radius(len(group)) for group in matrix.groups]
    # Names stand outside the nodes: circles side by side leave room for two of them.
    room = 14 + 6.6 * min(20, max(map(len, names))) if len(names) <= NAMED else 0.0
    places = _places(sizes, 2 * room + 16)
    xs, ys, centres = [0.0] * len(names), [0.0] * len(names), [0.0] * len(names)
    for group, radius, (cx, cy) in zip(matrix.groups, sizes, places, strict=True):
        ring = radius - 34 if len(group) > 1 else 0.0
        for number, task in enumerate(group):
            angle = 2 * math.pi * number / len(group) - math.pi / 2
            xs[task], ys[task], centres[task] = cx + ring * math.cos(angle), cy + ring * math.sin(angle), cx
    margin = 12
    left = min(x - r for (x, _), r in zip(places, sizes, strict=True)) - margin - room
    top = min(y - r for (_, y), r in zip(places, sizes, strict=True)) - 26
    right = max(x + r for (x, _), r in zip(places, sizes, strict=True)) + margin + room
    bottom = max(y + r for (_, y), r in zip(places, sizes, strict=True)) + 12
    named = len(names) <= NAMED
    edges = _edges(matrix) if named else _group_edges(matrix)
    ends = list(zip(xs, ys, strict=True)) if named else places
    strongest = max((abs(weight) for _, _, weight in edges), default=1.0) or 1.0
    label = f"Graph of {len(names)} tasks in {len(matrix.groups)} groups, with {len(edges)} edges"
    size = f'width="{right - left:.0f}" height="{bottom - top:.0f}"'
    box = f"{left:.0f} {top:.0f} {right - left:.0f} {bottom - top:.0f}"
    parts = [f'<svg class="graph" role="img" aria-label="{label}" {size} viewBox="{box}">']
    for number, (radius, (cx, cy)) in enumerate(zip(sizes, places, strict=True), start=1):
        parts.append(f'<circle class="group" cx="{cx:.1f}" cy="{cy:.1f}" r="{radius:.1f}"/>')
        parts.append(
            f'<text class="title" x="{cx:.1f}" y="{cy - radius - 8:.1f}" text-anchor="middle">Group {number}</text>'
        )
    for i, j, weight in sorted(edges, key=lambda edge: abs(edge[2])):
        width = 0.6 + 4 * abs(weight) / strongest
        kind = "helps" if weight > 0 else "hurts"
        parts.append(f'<path class="{kind}" stroke-width="{width:.1f}" d="M{_at(ends[i])}L{_at(ends[j])}"/>')
    for task, name in enumerate(names):
        parts.append(
            f'<circle class="node" cx="{xs[task]:.1f}" cy="{ys[task]:.1f}" r="5"><title>{escape(name)}</title></circle>'
        )
        if named:
            parts.append(_name(name, xs[task], ys[task], centres[task]))
    parts.append("</svg>")
    return Markup("".join(parts))


def _name(name: str, x: float, y: float, centre: float) -> str:
    """Return a node's name on its outer side; above it if it is in the middle."""
    text = escape(name if len(name) <= 20 else f"{name[:19]}…")
    if abs(x - centre) < 8:
        return f'<text x="{x:.1f}" y="{y - 11:.1f}" text-anchor="middle">{text}</text>'
    side, anchor = (10, "start") if x > centre else (-10, "end")
    return f'<text x="{x + side:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{text}</text>'


def _radius(count: int) -> float:
    return 50.0 if count == 1 else max(92.0, 34 + count * (30 if count <= 30 else 14) / math.pi)


def _places(sizes: list[float], gap: float) -> list[tuple[float, float]]:
    """Return the centres of circles in rows of about the same width, with a gap between those of a row."""
    total = sum(2 * size + gap for size in sizes)
    width = max(900.0, math.sqrt(total * max(sizes) * 2) * 1.3)
    places: list[tuple[float, float]] = []
    x, y, tallest, start = 0.0, 0.0, 0.0, 0
    for number, size in enumerate(sizes):
        if number > start and x + 2 * size > width:
            x, y, tallest, start = 0.0, y + 2 * tallest + 56, 0.0, number
        places.append((x + size, y + size))
        x, tallest = x + 2 * size + gap, max(tallest, size)
    return places


def _at(place: tuple[float, float]) -> str:
    return f"{place[0]:.1f} {place[1]:.1f}"


def _edges(matrix: Affinity) -> list[tuple[int, int, float]]:
    """Return the strongest edges of each task."""
    count = len(matrix.tasks)
    weights: list[list[float | None]] = [[None] * count for _ in range(count)]
    for i in range(count):
        for j in range(count):
            there, back = matrix.gain[i][j], matrix.gain[j][i]
            if i != j and there is not None and back is not None:
                weights[i][j] = (there + back) / 2
    return _strongest(weights)


def _group_edges(matrix: Affinity) -> list[tuple[int, int, float]]:
    """Return the strongest edges of each group."""
    weights: list[list[float | None]] = []
    for group in matrix.groups:
        weights.append([])
        for other in matrix.groups:
            gains = [
                gain
                for i in group
                for j in other
                for gain in (matrix.gain[i][j], matrix.gain[j][i])
                if gain is not None and group is not other
            ]
            weights[-1].append(fmean(gains) if gains else None)
    return _strongest(weights)


def _strongest(weights: list[list[float | None]]) -> list[tuple[int, int, float]]:
    """Return the strongest edges of each node, each once, without weak ones."""
    kept: dict[tuple[int, int], float] = {}
    for i, row in enumerate(weights):
        known = [(abs(weight), weight, j) for j, weight in enumerate(row) if weight is not None]
        for _, weight, j in sorted(known, reverse=True)[:EDGES]:
            kept[min(i, j), max(i, j)] = weight
    least = WEAK * max(map(abs, kept.values()), default=0.0)
    return [(i, j, weight) for (i, j), weight in kept.items() if abs(weight) >= least]
