"""Parallel coordinates: each trial of a sweep a line through its settings to what came of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from taskloom.report.figures import STYLE, save_figure

__all__ = ["parallel_coordinates"]

Trials = Sequence[tuple[Mapping[str, Any], float]]


def parallel_coordinates(trials: Trials, metric: str, output: Path, minimize: bool = False) -> tuple[Path, Path] | None:
    """Draw one axis a setting that varies, and a last one for the metric; the best trial stands out.

    Args:
        trials: settings by dotted field, and the metric's value.
        metric: its name.
        output: where the picture goes; its suffix is replaced by `.png` and `.svg`.
        minimize: whether less of the metric is better.

    Returns:
        The PNG and the SVG file; None, and nothing is drawn, without trials.
    """
    if not trials:
        return None
    with matplotlib.rc_context(STYLE):
        return save_figure(_draw(trials, metric, minimize), output)


class _Axis:
    """Places of values from 0 to 1: numbers by size (by order of magnitude, if they span many), else in line."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        distinct: list[Any] = (
            sorted(set(values)) if self.numeric else list(dict.fromkeys(_text(value) for value in values))
        )
        self.log = self.numeric and distinct[0] > 0 and distinct[-1] / distinct[0] >= 50
        self.distinct = distinct
        scaled = self._scaled(distinct)
        self.low, self.high = min(scaled), max(scaled)

    def _scaled(self, values: Sequence[Any]) -> list[float]:
        if not self.numeric:
            return [float(self.distinct.index(_text(value))) for value in values]
        return [float(np.log10(value)) if self.log else float(value) for value in values]

    def places(self, values: Sequence[Any]) -> list[float]:
        span = self.high - self.low
        return [(value - self.low) / span if span else 0.5 for value in self._scaled(values)]

    def ticks(self) -> tuple[list[float], list[str]]:
        shown = self.distinct
        if self.numeric and len(shown) > 8:
            ends = [self.low + (self.high - self.low) * part / 4 for part in range(5)]
            shown = [10**end if self.log else end for end in ends]
        return self.places(shown), [f"{value:g}" if self.numeric else str(value) for value in shown]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _draw(trials: Trials, metric: str, minimize: bool) -> Figure:
    scores = [score for _, score in trials]
    fields = list(dict.fromkeys(field for settings, _ in trials for field in settings))
    columns: dict[str, list[Any]] = {field: [settings.get(field) for settings, _ in trials] for field in fields}
    columns[metric] = scores
    figure = Figure(figsize=(max(5.0, 1.9 * len(columns)), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    scale = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1)
    colours = matplotlib.colormaps["viridis"]
    lines = np.array([_Axis(values).places(values) for values in columns.values()])
    best = int(np.argmin(scores) if minimize else np.argmax(scores))
    for number in sorted(range(len(scores)), key=lambda number: number == best):
        style: dict[str, Any] = {"color": colours(scale(scores[number])), "linewidth": 1.0, "alpha": 0.75}
        if number == best:
            style = {"color": "#D55E00", "linewidth": 2.5, "label": f"best: {scores[best]:.4g}"}
        axes.plot(range(len(columns)), lines[:, number], **style)
    for place, (name, values) in enumerate(columns.items()):
        axes.axvline(place, color="#888888", linewidth=0.8)
        for height, text in zip(*_Axis(values).ticks(), strict=True):
            axes.text(place + 0.03, height, text, fontsize=8, color="#222222", va="center")
        title = name.rpartition(".")[2]
        axes.text(place, 1.08, title, ha="center", fontsize=9, fontweight="bold" if name == metric else "normal")
    axes.set_xlim(-0.2, len(columns) - 0.5)
    axes.set_ylim(-0.08, 1.18)
    axes.legend(loc="lower left", bbox_to_anchor=(0, -0.12), frameon=False, fontsize=8)
    return figure
