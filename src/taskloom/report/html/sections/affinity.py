"""Affinity: which task helps which, as a heatmap in the order of the groups, and the groups as a graph."""

import math
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from taskloom.report.html.reading.affinities import Affinity, read_affinity
from taskloom.report.html.section import Section
from taskloom.report.html.sections.graph import group_graph
from taskloom.report.html.view import View

__all__ = ["affinity"]

#: Shades of gain and of loss that report.css knows.
LEVELS = 8
#: Up to this many tasks: names at rows and columns; a mark in cells that lose; values in cells.
NAMED, MARKED, VALUED = 60, 60, 14
#: Pairs that the table lists.
PAIRS = 40


def affinity(view: View) -> Section | None:
    """Return heatmaps and graphs; None without estimates."""
    found = [(run, matrix) for run in view.runs if run.kind != "way" and (matrix := read_affinity(run)) is not None]
    if not found:
        return None
    maps: list[dict[str, Any]] = []
    data: dict[str, Any] = {}
    left_out: list[str] = []
    cells = view.limits.cells
    for place, (run, matrix) in enumerate(found):
        if (size := len(matrix.tasks) ** 2) > cells:
            left_out.append(f"{run.name}: the heatmap of {len(matrix.tasks):,} tasks; see {run.path / 'affinity'}")
        names = [view.labels.short(task) for task in matrix.tasks]
        key, picture = f"affinity-{place}", None
        if size <= cells:
            cells -= size
            picture, unit = _heatmap(matrix, names)
            data[key] = {"tasks": names, **unit, **_numbers(matrix)}
        maps.append(
            {
                "key": key,
                "run": run.name,
                "count": len(names),
                "groups": [[matrix.tasks[i] for i in group] for group in matrix.groups] if matrix.grouped else [],
                "meaning": "gain over training alone" if matrix.alone else "difference from the row's mean",
                "metric": f"−{matrix.metric}" if matrix.metric in ("loss", "mse") else matrix.metric,
                "map": picture,
                "legend": _legend(matrix),
                "pairs": _pairs(matrix),
                "graph": group_graph(matrix, names),
            }
        )
    return Section("affinity", "Which tasks help each other", {"maps": maps}, {"maps": data}, left_out)


def bound(matrix: Affinity) -> float:
    """Return the largest gain or loss off the diagonal: what the strongest shade stands for."""
    count = len(matrix.tasks)
    sizes = [abs(matrix.gain[i][j] or 0.0) for i in range(count) for j in range(count) if i != j]
    return max(sizes, default=0.0) or 1.0


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _numbers(matrix: Affinity) -> dict[str, Any]:
    parts = {"v": matrix.values, "e": matrix.stderr, "g": matrix.gain, "h": matrix.gain_stderr}
    return {name: [[_short(value) for value in row] for row in part] for name, part in parts.items()}


def _heatmap(matrix: Affinity, names: list[str]) -> tuple[Markup, dict[str, float]]:
    """Return the picture, and where its cells are. A shade is one path, so that thousands of cells stay light."""
    count = len(names)
    cell = 34 if count <= VALUED else 14 if count <= NAMED else 5 if count <= 120 else 4
    named = count <= NAMED
    longest = min(22, max(map(len, names), default=0))
    left = 12 + 7 * longest if named else 8
    top = 14 + 5 * longest if named else 8
    width, height = left + cell * count + (8 + 3.6 * longest if named else 8), top + cell * count + 8
    largest = bound(matrix)
    shades: dict[str, list[str]] = {}
    marks: list[str] = []
    for i, row in enumerate(matrix.gain):
        run: list[tuple[int, str]] = []
        for j, value in enumerate(row):
            shade = "diagonal" if i == j else _shade(value, largest)
            if not run or run[-1][1] != shade:
                run.append((j, shade))
            if shade.startswith("n") and VALUED < count <= MARKED:
                marks.append(f"M{left + cell * (j + 0.3):.1f} {top + cell * (i + 0.5):.1f}h{0.4 * cell:.1f}")
        for (start, shade), (end, _) in pairwise([*run, (count, "")]):
            wide = cell * (end - start)
            shades.setdefault(shade, []).append(f"M{left + cell * start:g} {top + cell * i:g}h{wide}v{cell}h-{wide}z")
    help_text = f"Heatmap of {count} by {count} tasks; the strongest pairs are in the table below"
    parts = [
        (
            f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
            f'aria-label="{help_text}" class="heatmap">'
        )
    ]
    parts += [f'<path class="{shade}" d="{"".join(paths)}"/>' for shade, paths in shades.items()]
    if marks:
        parts.append(f'<path class="minus" d="{"".join(marks)}"/>')
    if count <= VALUED:
        parts += _values(matrix, left, top, cell)
    if named:
        for place, name in enumerate(names):
            text = escape(name if len(name) <= 22 else f"{name[:21]}…")
            y = top + cell * (place + 0.5) + 4
            parts.append(f'<text x="{left - 6}" y="{y:g}" text-anchor="end">{text}</text>')
            x = left + cell * (place + 0.5) + 3
            parts.append(f'<text transform="translate({x:g} {top - 6:g}) rotate(-45)">{text}</text>')
    if matrix.grouped:
        for group in matrix.groups:
            start, side = group[0] * cell, len(group) * cell
            parts.append(f'<rect class="block" x="{left + start}" y="{top + start}" width="{side}" height="{side}"/>')
    parts.append(f'<rect class="cursor" width="{cell}" height="{cell}" hidden=""/></svg>')
    return Markup("".join(parts)), {"left": left, "top": top, "cell": cell}


def _shade(value: float | None, largest: float) -> str:
    if value is None:
        return "unknown"
    level = min(LEVELS, math.ceil(abs(value) / largest * LEVELS - 1e-9))
    return f"{'p' if value > 0 else 'n'}{level}" if level else "p0"


def _values(matrix: Affinity, left: float, top: float, cell: float) -> list[str]:
    digits = max(0, 1 - math.floor(math.log10(bound(matrix))))
    parts = []
    for i, row in enumerate(matrix.gain):
        for j, value in enumerate(row):
            if i != j and value is not None:
                text = f"{value:+.{digits}f}".replace("-", "−").replace("0.", ".", 1)
                weight = "sure" if matrix.sure(i, j) else "unsure"
                parts.append(
                    f'<text class="{weight}" x="{left + cell * (j + 0.5):g}" y="{top + cell * (i + 0.5) + 3.5:g}" '
                    f'text-anchor="middle">{text}</text>'
                )
    return parts


def _legend(matrix: Affinity) -> list[tuple[str, str]]:
    """Return shades with what they stand for, from the largest loss to the largest gain."""
    largest = bound(matrix)
    steps = [-8, -6, -4, -2, 0, 2, 4, 6, 8]
    return [
        (
            f"{'p' if step >= 0 else 'n'}{abs(step)}",
            f"{step / LEVELS * largest:+.2g}".replace("-", "−") if step else "0",
        )
        for step in steps
    ]


def _pairs(matrix: Affinity) -> list[dict[str, Any]]:
    """Return the pairs of the largest gains and losses."""
    count = len(matrix.tasks)
    pairs = [
        (i, j, gain) for i in range(count) for j in range(count) if i != j and (gain := matrix.gain[i][j]) is not None
    ]
    pairs.sort(key=lambda pair: -abs(pair[2]))
    return [
        {
            "task": matrix.tasks[i],
            "with": matrix.tasks[j],
            "gain": gain,
            "gain_stderr": matrix.gain_stderr[i][j],
            "value": matrix.values[i][j],
            "stderr": matrix.stderr[i][j],
            "sure": matrix.sure(i, j),
        }
        for i, j, gain in pairs[:PAIRS]
    ]
