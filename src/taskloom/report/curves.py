"""Learning curves: one picture that shows how the tasks of one or several runs were learned."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from taskloom.report.figures import STYLE, save_figure
from taskloom.report.history import History, Series, read_history

__all__ = ["learning_curves"]

#: The colours of Okabe and Ito (2008), which stay apart for colour-blind readers; yellow is too faint for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")
#: Batches are small: the bold loss line is the mean over this many logged values around each point.
WINDOW = 5
#: Of more tasks the first are drawn, because hundreds take minutes; `taskloom report` shows more.
MOST_PANELS = 32


def learning_curves(metrics: Mapping[str, Path], output: Path) -> tuple[Path, Path]:
    """Draw training loss and dev score against steps, one line a run, first over all tasks and then a panel a task
    (of more than 32 tasks, the first).

    Args:
        metrics: the `metrics.jsonl` of each run, by the name that the legend shows.
        output: where the picture goes; its suffix is replaced by `.png` and `.svg`.

    Returns:
        The PNG and the SVG file.

    Raises:
        RunError: a log is missing or damaged.
    """
    histories = {name: read_history(Path(path)) for name, path in metrics.items()}
    with matplotlib.rc_context(STYLE):
        return save_figure(_draw(histories), output)


def _draw(histories: Mapping[str, History]) -> Figure:
    tasks = list(dict.fromkeys(task for history in histories.values() for task in history.tasks))
    # The panels of a single task would repeat the first two.
    panels = tasks[:MOST_PANELS] if len(tasks) > 1 else []
    each = "each task" if len(panels) == len(tasks) else f"{len(panels)} of {len(tasks):,} tasks"
    columns = _columns(len(panels))
    heights = [2.4, *[0.55 + 1.4 * math.ceil(len(panels) / columns)] * (2 if panels else 0)]
    width = max(2.5 * columns, 7)
    figure = Figure(figsize=(width, 0.4 + sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]

    mean, loss = parts[0].subplots(1, 2)
    _draw_panel(mean, "mean dev score", histories, lambda history: history.dev_mean)
    _draw_panel(loss, "training loss", histories, lambda history: history.loss, smooth=True)
    for axes in (mean, loss):
        axes.set_xlabel("step", fontsize=8)
    if panels:
        _draw_panels(parts[1], f"Dev score of {each}", panels, histories, lambda history: history.task_dev)
        title = f"Training loss of {each} (bold: mean of {WINDOW} logged values)"
        _draw_panels(parts[2], title, panels, histories, lambda history: history.task_loss, smooth=True)

    handles = [Line2D([], [], **style, label=name) for name, style in _styles(histories).items()]
    entry_width = 0.6 + 0.075 * max(map(len, histories))  # inches: the line and its name
    columns = max(1, min(len(handles), int(width / entry_width)))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)
    return figure


def _columns(panels: int) -> int:
    """Return how many panels stand side by side: at most four, and so that few places stay empty."""
    return panels if 0 < panels < 4 else min((4, 3), key=lambda columns: -panels % columns)


def _styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}
        for index, name in enumerate(names)
    }


def _draw_panels(
    part: SubFigure,
    title: str,
    tasks: list[str],
    histories: Mapping[str, History],
    series: Callable[[History], Mapping[str, Series]],
    smooth: bool = False,
) -> None:
    columns = _columns(len(tasks))
    part.suptitle(title, fontsize=10)
    grid = part.subplots(math.ceil(len(tasks) / columns), columns, sharex=True, sharey=not smooth, squeeze=False)
    for index, (axes, task) in enumerate(zip(grid.flat, tasks, strict=False)):
        _draw_panel(axes, task, histories, lambda history, task=task: series(history).get(task, Series()), smooth)
        if index + columns >= len(tasks):  # the lowest panel of its column
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step", fontsize=8)
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)


def _draw_panel(
    axes: Axes,
    title: str,
    histories: Mapping[str, History],
    series: Callable[[History], Series],
    smooth: bool = False,
) -> None:
    styles = _styles(histories)
    for name, history in histories.items():
        steps, values = series(history).steps, np.asarray(series(history).values, dtype=float)
        if smooth and steps:
            axes.plot(steps, values, color=styles[name]["color"], linewidth=0.7, alpha=0.3)
            values = _moving_mean(values)
        marker = "o" if len(steps) <= 12 and not smooth else None
        axes.plot(steps, values, **styles[name], linewidth=1.6, marker=marker, markersize=3)
    axes.set_title(title)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlim(left=0)
    if smooth:
        axes.set_ylim(bottom=0)


def _moving_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over `WINDOW` values around each one, fewer at the ends; NaN is left out."""
    padded = np.pad(values, WINDOW // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    counts = np.sum(~np.isnan(windows), axis=1)
    return np.where(counts > 0, np.nansum(windows, axis=1) / np.maximum(counts, 1), np.nan)
