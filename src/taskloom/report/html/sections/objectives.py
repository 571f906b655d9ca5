"""Auxiliary objectives: how much each counted over the steps, and what it came to."""

from typing import Any

from taskloom.report.html.reading.objectives import Objectives, read_objectives
from taskloom.report.html.reading.run import Series
from taskloom.report.html.section import Section
from taskloom.report.html.svg import Line, LineChart, thinned
from taskloom.report.html.view import View

__all__ = ["objectives"]

#: Objectives with a line of their own; the others are a grey range.
TOP = 8
#: Rows of the ranking.
ROWS = 100


def objectives(view: View) -> Section | None:
    """Return charts and rankings; None if no run had auxiliary objectives."""
    parts: list[dict[str, Any]] = []
    charts: list[LineChart] = []
    left_out = []
    for place, run in enumerate(view.runs):
        if run.kind in ("way", "sweep") or (found := read_objectives(run)) is None:
            continue
        own = [chart for chart in _charts(view, found, place) if chart]
        charts += own
        if len(found.ranking) > ROWS:
            left_out.append(
                f"{run.name}: {len(found.ranking) - ROWS:,} of {len(found.ranking):,} ranked objectives; see "
                f"{run.path / 'objectives.csv'}"
            )
        parts.append(
            {
                "run": run.name,
                "charts": own,
                "ranking": found.ranking[:ROWS],
                "skipped": any(row.get("skipped") for row in found.ranking),
                "scores": [
                    (task, metric, value, found.post.get(task, {}).get(metric))
                    for task, metrics in found.pre.items()
                    for metric, value in metrics.items()
                ],
                "split": found.split,
            }
        )
    if not parts:
        return None
    data = {"charts": {chart.key: chart.data() for chart in charts}}
    return Section("objectives", "Auxiliary objectives", {"parts": parts}, data, left_out)


def _charts(view: View, found: Objectives, place: int) -> list[LineChart]:
    points = view.limits.points
    charts = [
        LineChart(
            f"balance-{place}", "Primary and auxiliary loss: how much each counts", _lines(view, found.balance, points)
        )
    ]
    charts += [
        LineChart(f"stage-{place}-{stage}", f"Stage: {stage}", _lines(view, values, points), low=0.0)
        for stage, values in found.stages.items()
        if len(values) > 1
    ]
    ranked = sorted(found.weights, key=lambda name: -found.weights[name][-1][1] if found.weights[name] else 0.0)
    best, others = ranked[:TOP], ranked[TOP:]
    band: list[tuple[float, float, float]] = []
    if others:
        thin = [thinned(found.weights[name], points) for name in others]
        band = [
            (column[0][0], min(y for _, y in column), max(y for _, y in column)) for column in zip(*thin, strict=False)
        ]
    title = "Weights of the objectives"
    if others:
        title += f": the highest {len(best)} at the end; grey: the other {len(others)}, lowest to highest"
    lines = _lines(view, {name: found.weights[name] for name in best}, points)
    return [LineChart(f"objectives-{place}", title, lines, low=0.0, band=band), *charts]


def _lines(view: View, series: dict[str, Series], points: int) -> list[Line]:
    return [
        Line(view.labels.short(name), thinned(values, points), place)
        for place, (name, values) in enumerate(series.items())
        if values
    ]
