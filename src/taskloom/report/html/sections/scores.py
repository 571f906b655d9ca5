"""Dev scores of each task: every setting beside the majority baseline, with the spread over its seeds."""

from typing import Any

from markupsafe import Markup

from taskloom.report.html.reading.files import mapping
from taskloom.report.html.reading.run import score
from taskloom.report.html.reading.settings import Spread
from taskloom.report.html.section import Section
from taskloom.report.html.sections.summary import best_settings, mean_of
from taskloom.report.html.svg import mark, show
from taskloom.report.html.view import View

__all__ = ["scores"]

WIDTH, HEIGHT = 190, 22


def scores(view: View) -> Section | None:
    """Return the table of scores; None if no run has any."""
    settings = [setting for setting in view.settings if any(run.dev for run in setting.runs)]
    if not settings:
        return None
    titles = list(dict.fromkeys(title for setting in settings for run in setting.runs for title in run.dev))
    majority: dict[str, dict[str, float]] = {}
    for setting in settings:
        for run in setting.runs:
            majority = {**run.majority, **majority}
    group_of = _groups(view)
    rows: list[dict[str, Any]] = []
    for title in titles:
        base = majority.get(title) or {}
        cells = [_cell(setting, title) for setting in settings]
        metrics = next((list(run.dev[title]) for s in settings for run in s.runs if run.dev.get(title)), [])
        baseline = score(base) if base else None
        rows.append(
            {"title": title, "group": group_of.get(title), "metrics": metrics, "base": baseline, "cells": cells}
        )
    means = [mean_of(view, view.settings.index(setting)) for setting in settings]
    firsts = [row["base"] for row in rows if "/" not in row["title"] and row["base"] is not None]
    everything = [value for row in rows for value in (row["base"], *_values(row)) if value is not None]
    scale = (min(everything), max(everything)) if everything else (0.0, 1.0)
    places = [view.settings.index(setting) for setting in settings]
    for row in rows:
        _mark_best(row, row["base"])
        row["strip"] = _strip(row, places, scale)
    total = {
        "cells": [None if mean is None else {"spread": mean, "detail": ""} for mean in means],
        "base": sum(firsts) / len(firsts) if firsts else None,
    }
    _mark_best(total, total["base"])
    best = best_settings(view)
    for place, cell in zip(places, total["cells"], strict=True):
        if cell:
            cell["best"] = place in best
    values = {
        "columns": [
            {"name": s.name, "seeds": s.seeds, "colour": place} for s, place in zip(settings, places, strict=True)
        ],
        "rows": rows,
        "total": total,
        "groups": bool(group_of),
        "scale": [show(edge) for edge in scale],
        "several": len(settings) > 1,
        "seeds": any(setting.seeds > 1 for setting in settings),
    }
    return Section("scores", "Scores by task", values)


def _values(row: dict[str, Any]) -> list[float]:
    return [value for cell in row["cells"] if cell for value in cell["spread"].values]


def _cell(setting: Any, title: str) -> dict[str, Any] | None:
    found = [run.dev[title] for run in setting.runs if run.dev.get(title)]
    if not found:
        return None
    names = list(found[0])
    detail = ""
    if len(names) > 1:
        parts = [(name, [each[name] for each in found if name in each]) for name in names]
        detail = " · ".join(f"{name} {show(sum(values) / len(values))}" for name, values in parts)
    return {"spread": Spread(tuple(score(metrics) for metrics in found)), "detail": detail}


def _mark_best(row: dict[str, Any], baseline: float | None) -> None:
    means = [cell["spread"].mean for cell in row["cells"] if cell]
    for cell in row["cells"]:
        if cell:
            cell["best"] = min(means) < max(means) == cell["spread"].mean
            cell["low"] = baseline is not None and cell["spread"].mean <= baseline


def _groups(view: View) -> dict[str, int]:
    for run in view.runs:
        groups = run.scores.get("groups") if run.kind == "groups" else None
        groups = groups if groups is not None else mapping(run.files.json("affinity/groups.json")).get("groups")
        if isinstance(groups, list):
            return {
                str(name): place
                for place, group in enumerate(groups, start=1)
                if isinstance(group, list)
                for name in group
            }
    return {}


def _strip(row: dict[str, Any], places: list[int], scale: tuple[float, float]) -> Markup:
    """Draw the scores of a task on the axis that all tasks share: a mark a setting, small ones for its seeds."""
    low, high = scale
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return 6 + (value - low) / span * (WIDTH - 12)

    middle = HEIGHT / 2
    parts = [f'<path class="grid" d="M6 {middle}H{WIDTH - 6}"/>']
    if row["base"] is not None:
        parts.append(f'<path class="base" d="M{x(row["base"]):.1f} 2V{HEIGHT - 2}"/>')
    for place, cell in zip(places, row["cells"], strict=True):
        if cell:
            spread = cell["spread"]
            if len(spread.values) > 1:
                parts.extend(mark(place, x(value), middle, 1.6) for value in spread.values)
            parts.append(mark(place, x(spread.mean), middle, 4))
    return Markup(f'<svg class="strip" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>')
