"""The affinity of tasks as a picture: who helps whom, in the order of the groups."""

import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from taskloom.report.figures import STYLE, save_figure

if TYPE_CHECKING:
    from taskloom.affinity import AffinityMatrix

__all__ = ["affinity_heatmap"]

#: Up to this many tasks, names are written beside the rows and values into the cells.
NAMED, VALUED = 60, 16


def affinity_heatmap(
    affinity: "AffinityMatrix",
    output: Path,
    *,
    alone: bool,
    clusters: Sequence[Sequence[int]] | None = None,
) -> tuple[Path, Path]:
    """Draw how each task (row) does when it is trained with each other (column): blue helps, red hurts.

    A task's own level would drown what others add to it, so each row shows gains over it. The number of a gain of less
    than two standard errors is grey.

    Args:
        affinity: the matrix.
        output: where the picture goes; its suffix is replaced by `.png` and `.svg`.
        alone: whether gains are over the task trained alone (pairwise affinity); otherwise over the row's mean.
        clusters: the order of the tasks, and the blocks that are outlined.

    Returns:
        The PNG and the SVG file.
    """
    order = [position for cluster in clusters for position in cluster] if clusters else range(len(affinity.tasks))
    gain, error = (part.numpy()[np.ix_(order, order)] for part in (affinity.gain, affinity.gain_stderr))
    title = "gain over training alone" if alone else "difference from the row's mean"
    sign = "-" if affinity.metric in ("loss", "mse") else ""
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        names = [affinity.tasks[position].replace("$", r"\$") for position in order]  # no formulas in names
        figure = _draw(gain, error, names, clusters, f"{title} ({sign}{affinity.metric})")
        return save_figure(figure, output)


def _draw(
    gain: np.ndarray, error: np.ndarray, names: list[str], clusters: Sequence[Sequence[int]] | None, title: str
) -> Figure:
    count = len(names)
    side = min(max(2.6 + 0.36 * min(count, NAMED), 4.0), 16)
    figure = Figure(figsize=(side + 1.1, side), layout="constrained")
    axes = figure.subplots()
    off_diagonal = gain[~np.eye(count, dtype=bool)]
    bound = float(np.abs(off_diagonal).max()) if off_diagonal.size else 1.0
    image = axes.imshow(gain, cmap="RdBu", vmin=-(bound or 1), vmax=bound or 1, interpolation="nearest")
    axes.spines[:].set_visible(False)
    if count <= NAMED:
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), names)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.tick_params(length=0)
    axes.set_xlabel("trained with")
    axes.set_ylabel("task")
    if count <= VALUED:
        _write_values(axes, gain, error, bound or 1)
        axes.set_xlabel("trained with\n(grey numbers: less than two standard errors)")
    if clusters:
        ends = list(accumulate(len(cluster) for cluster in clusters))
        for cluster, end in zip(clusters, ends, strict=True):
            corner = end - len(cluster) - 0.5
            axes.add_patch(
                Rectangle((corner, corner), len(cluster), len(cluster), fill=False, edgecolor="black", linewidth=1.5)
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label(title)
    return figure


def _write_values(axes: Axes, gain: np.ndarray, error: np.ndarray, bound: float) -> None:
    decimals = max(0, 1 - math.floor(math.log10(bound)))  # two digits of the largest
    for row, column in np.ndindex(*gain.shape):
        if row != column:
            size = abs(gain[row, column])
            # An error that is not a number leaves the gain unsure.
            if size > 2 * error[row, column]:
                shade = "white" if size > 0.6 * bound else "black"
            else:
                shade = "0.85" if size > 0.5 * bound else "0.45"
            axes.text(
                column, row, f"{gain[row, column]:+.{decimals}f}", ha="center", va="center", fontsize=6, color=shade
            )
