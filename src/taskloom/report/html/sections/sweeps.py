"""Sweeps: every setting a line through its fields to what came of it, and a table, the best first."""

import json
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from taskloom.report.html.reading.sweeps import Sweep, read_sweep
from taskloom.report.html.section import Section
from taskloom.report.html.svg import show
from taskloom.report.html.view import View

__all__ = ["sweeps"]

#: Settings that are drawn and listed.
ROWS = 500
GAP, HEIGHT, TOP, BOTTOM, SIDE = 132, 260, 40, 16, 30


def sweeps(view: View) -> Section | None:
    """Return the sweeps' charts and tables; None without sweeps."""
    parts: list[dict[str, Any]] = []
    left_out = []
    for place, run in enumerate(run for run in view.runs if run.kind == "sweep"):
        found = read_sweep(run)
        fields = found.fields
        drawn = [row for row in found.rows if row.mean is not None][:ROWS]
        if len(found.rows) > ROWS:
            left_out.append(
                f"{run.name}: the worst {len(found.rows) - ROWS:,} of {len(found.rows):,} settings; see "
                f"{run.path / 'results.csv'}"
            )
        parts.append(
            {
                "key": f"sweep-{place}",
                "run": run.name,
                "metric": found.metric,
                "minimize": found.minimize,
                "planned": found.planned,
                "fields": fields,
                "rows": [
                    {
                        "settings": [row.settings.get(field) for field in fields],
                        "row": row,
                        "values": [show(value) for value in row.values.values()],
                        "line": drawn.index(row) if row in drawn else None,
                    }
                    for row in found.rows[:ROWS]
                ],
                "seeds": any(len(row.values) > 1 for row in found.rows),
                "picture": _parallel(found, drawn, fields) if drawn and fields else None,
            }
        )
    return Section("sweeps", "Sweeps", {"parts": parts}, {}, left_out) if parts else None


class _Axis:
    """Places of values from 0 to 1: numbers by size (by order of magnitude, if they span many), else in line."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        self.distinct: list[Any] = (
            sorted(set(values)) if self.numeric else list(dict.fromkeys(_text(value) for value in values))
        )
        self.log = self.numeric and self.distinct[0] > 0 and self.distinct[-1] / self.distinct[0] >= 50
        scaled = [self._scaled(value) for value in self.distinct]
        self.low, self.high = min(scaled), max(scaled)

    def _scaled(self, value: Any) -> float:
        if not self.numeric:
            return float(self.distinct.index(_text(value)))
        return math.log10(value) if self.log else float(value)

    def place(self, value: Any) -> float:
        span = self.high - self.low
        return (self._scaled(value) - self.low) / span if span else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        shown = self.distinct
        if self.numeric and len(shown) > 7:
            ends = [self.low + (self.high - self.low) * part / 4 for part in range(5)]
            shown = [10**end if self.log else end for end in ends]
        elif len(shown) > 12:
            shown = shown[:: math.ceil(len(shown) / 12)]
        return [(self.place(value), f"{value:.4g}" if self.numeric else str(value)) for value in shown]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parallel(sweep: Sweep, drawn: Sequence[Any], fields: list[str]) -> Markup:
    columns: list[tuple[str, list[Any]]] = [(field, [row.settings.get(field) for row in drawn]) for field in fields]
    columns.append((sweep.metric, [row.mean for row in drawn]))
    axes = [_Axis(values) for _, values in columns]
    width = 2 * SIDE + GAP * (len(columns) - 1) + 60

    def y(place: float) -> float:
        return TOP + (1 - place) * (HEIGHT - TOP - BOTTOM)

    best = f"the best {sweep.metric} is {show(drawn[0].mean)}"
    label = escape(f"Parallel coordinates of {len(drawn)} settings; {best}; all are in the table below")
    parts = [
        (
            f'<svg class="parallel" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="img" '
            f'aria-label="{label}">'
        )
    ]
    for number in reversed(range(len(drawn))):
        points = [
            f"{SIDE + GAP * column} {y(axis.place(values[number])):.1f}"
            for column, (axis, (_, values)) in enumerate(zip(axes, columns, strict=True))
        ]
        kind = "best" if number == 0 else "trial"
        parts.append(f'<path class="{kind}" data-line="{number}" d="M{"L".join(points)}"/>')
    for column, (axis, (name, _)) in enumerate(zip(axes, columns, strict=True)):
        x = SIDE + GAP * column
        title = name.rpartition(".")[2]
        title = title if len(title) <= 18 else f"{title[:17]}…"
        anchor = "start" if column == 0 else "middle"
        parts.append(f'<path class="axis" d="M{x} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="title" x="{x if column else x - 12}" y="18" text-anchor="{anchor}">{escape(title)}</text>'
        )
        for place, text in axis.ticks():
            short = text if len(text) <= 14 else f"{text[:13]}…"
            parts.append(f'<text x="{x + 5}" y="{y(place) + 4:.1f}">{escape(short)}</text>')
    parts.append("</svg>")
    return Markup("".join(parts))
