"""Pictures of learned weights over steps: each stage of the search space with the balance, and the top objectives."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from taskloom.auxiliary.history import WeightHistory
from taskloom.auxiliary.stages import STAGES
from taskloom.report.figures import STYLE, save_figure

__all__ = ["objective_curves", "stage_curves"]

#: Okabe and Ito (2008) without the faint yellow; further lines repeat the colours with the next dash.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":", "-.")
#: Panels show at least this share of the equal weight above and below it: noise is not blown up to fill them.
MARGIN = 0.1


def stage_curves(history: WeightHistory, output: Path) -> tuple[Path, Path]:
    """Draw the probabilities of each stage's values, and the balance of primary and auxiliary loss, against steps.

    Args:
        history: the weights over steps.
        output: where the picture goes; its suffix is replaced by `.png` and `.svg`.

    Returns:
        The PNG and the SVG file.
    """
    with matplotlib.rc_context(STYLE):
        return save_figure(_draw_stages(history), output)


def objective_curves(history: WeightHistory, output: Path, top: int = 10) -> tuple[Path, Path]:
    """Draw the weights of the objectives that end highest; the others are the grey range from lowest to highest.

    Args:
        history: the weights over steps.
        output: where the picture goes; its suffix is replaced by `.png` and `.svg`.
        top: how many objectives have a line and a name.

    Returns:
        The PNG and the SVG file.
    """
    with matplotlib.rc_context(STYLE):
        return save_figure(_draw_objectives(history, top), output)


def _draw_stages(history: WeightHistory) -> Figure:
    panels: dict[str, Mapping[str, np.ndarray]] = {
        "primary and auxiliary loss": {"primary": history.primary, "auxiliary": history.auxiliary},
        **{stage: history.stages[stage] for stage in STAGES if len(history.stages[stage]) > 1},
    }
    heights = [1.8 if len(series) <= len(COLOURS) else 2.3 for series in panels.values()]
    figure = Figure(figsize=(7.5, 0.3 + sum(heights)), layout="constrained")
    axes_list = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (title, series) in zip(axes_list, panels.items(), strict=True):
        _draw_lines(axes, history.steps, series)
        axes.set_title(title, loc="left")
        _draw_equal(axes, len(series))
        _name_lines(axes)
    axes_list[-1].set_xlabel("step", fontsize=8)
    return figure


def _draw_objectives(history: WeightHistory, top: int) -> Figure:
    names = list(history.objectives)
    last = np.array([history.objectives[name][-1] if len(history.steps) else 0.0 for name in names])
    order = [names[place] for place in np.argsort(-last, kind="stable")]
    best, others = order[:top], order[top:]
    figure = Figure(figsize=(9.5, max(3.2, 1.2 + 0.26 * len(best))), layout="constrained")
    axes = figure.subplots()
    if others and len(history.steps):
        values = np.array([history.objectives[name] for name in others])
        axes.fill_between(
            history.steps,
            values.min(0),
            values.max(0),
            color="#bbbbbb",
            alpha=0.5,
            linewidth=0,
            label=f"{'the other' if best else 'all'} {len(others)}, lowest to highest",
        )
    _draw_lines(axes, history.steps, {name: history.objectives[name] for name in best})
    _draw_equal(axes, len(names))
    axes.set_title(f"Weights of {len(names)} auxiliary objectives, by their last weight", loc="left")
    axes.set_xlabel("step", fontsize=8)
    _name_lines(axes)
    return figure


def _draw_lines(axes: Axes, steps: np.ndarray, series: Mapping[str, np.ndarray]) -> None:
    for index, (name, values) in enumerate(series.items()):
        axes.plot(
            steps,
            values,
            color=COLOURS[index % len(COLOURS)],
            linestyle=DASHES[index // len(COLOURS) % len(DASHES)],
            linewidth=1.6,
            marker="o" if len(steps) == 1 else None,
            markersize=4,
            label=name,
        )
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlim(left=0)


def _draw_equal(axes: Axes, count: int) -> None:
    """Mark what each line would be if all were equal."""
    equal = 1 / count
    axes.axhline(equal, color="#666666", linewidth=0.9, linestyle=(0, (1, 3)), label="all equal")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, (1 - MARGIN) * equal), max(high, (1 + MARGIN) * equal))


def _name_lines(axes: Axes) -> None:
    """Name the lines to the right of the panel."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
