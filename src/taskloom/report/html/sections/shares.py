"""Sampling: which share of the examples each task had, over the steps."""

from statistics import fmean
from typing import Any

from markupsafe import Markup

from taskloom.report.html.reading.run import Series
from taskloom.report.html.section import Section
from taskloom.report.html.svg import COLOURS, smoothed, thinned
from taskloom.report.html.view import View

__all__ = ["shares"]

WIDTH, HEIGHT = 150, 28


def shares(view: View) -> Section | None:
    """Return a table with a line of each task's shares; None if no run of several tasks has logged them."""
    runs = [run for run in view.runs if run.kind not in ("groups", "way") and len(run.history.share) > 1]
    if not runs:
        return None
    tasks = list(dict.fromkeys(task for run in runs for task in run.history.share))
    highest = {
        run.name: max(value for series in run.history.share.values() for _, value in smoothed(series)) for run in runs
    }
    points = min(view.limits.points, 50)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        cells = []
        for run in runs:
            series = run.history.share.get(task, [])
            third = max(1, len(series) // 3)
            cells.append(
                {
                    "mean": fmean(value for _, value in series),
                    "first": fmean(value for _, value in series[:third]),
                    "last": fmean(value for _, value in series[-third:]),
                    "line": _line(series, highest[run.name], points, view.colour(run)),
                }
                if series
                else None
            )
        rows.append({"task": task, "cells": cells})
    values = {"columns": [(run.name, view.colour(run), highest[run.name]) for run in runs], "rows": rows}
    return Section("shares", "Sampling shares", values)


def _line(series: Series, highest: float, points: int, colour: int) -> Markup:
    shown = thinned(smoothed(series), points)
    first, last = shown[0][0], shown[-1][0]
    span = (last - first) or 1.0
    places = [
        f"{(x - first) / span * (WIDTH - 4) + 2:.1f} {HEIGHT - 3 - y / (highest or 1) * (HEIGHT - 6):.1f}"
        for x, y in shown
    ]
    axis = f'<path class="axis" d="M2 {HEIGHT - 2}H{WIDTH - 2}"/>'
    line = f'<path class="line c{colour % COLOURS}" d="M{"L".join(places)}"/>'
    return Markup(f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{axis}{line}</svg>')
