"""How all pictures look, and how they are written: PNG and SVG, whole or not at all, equal for equal input."""

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from taskloom.storage import write_atomically

__all__ = ["STYLE", "save_figure"]

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "svg.hashsalt": "taskloom",  # equal input gives an equal file
}


def save_figure(figure: Figure, output: Path) -> tuple[Path, Path]:
    """Write a figure as `output` with the suffixes .png and .svg, and return both files."""
    FigureCanvasAgg(figure)
    png, svg = output.with_suffix(".png"), output.with_suffix(".svg")
    for file, metadata in ((png, None), (svg, {"Date": None})):
        image = io.BytesIO()
        figure.savefig(image, format=file.suffix[1:], dpi=150, metadata=metadata)
        write_atomically(file, image.getvalue())
    return png, svg
