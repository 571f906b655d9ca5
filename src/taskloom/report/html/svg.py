"""Charts as SVG that reads well without scripts, and the numbers in them for those who have them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from taskloom.report.html.reading.run import Series

__all__ = ["Line", "LineChart", "decimals", "show", "thinned", "ticks"]

#: Colours and dashes that report.css knows; a line is told from others by both.
COLOURS, DASHES = 7, 4
#: The training loss is noisy: its bold line is the mean over this many logged values around each one.
WINDOW = 5

WIDTH, HEIGHT = 340, 200
TOP, RIGHT, BOTTOM = 10, 10, 28


def style(index: int) -> str:
    """Return the classes of the line or mark of a setting."""
    return f"c{index % COLOURS} d{(index % COLOURS + index // COLOURS) % DASHES}"


def show(value: Any) -> str:
    """Return a number with three decimals, or in four digits where it is large or small; a dash for anything else."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if value == 0 or 0.001 <= abs(value) < 100:
        return f"{value:.3f}".replace("-", "\u2212")
    return f"{value:.4g}".replace("-", "\u2212")


def decimals(value: float) -> float:
    """Return a number short enough to be sent by the thousand."""
    return float(f"{value:.5g}")


def thinned(series: Series, most: int) -> Series:
    """Return at most `most` points of a series, evenly chosen, with its first and its last."""
    if len(series) <= most:
        return series
    most = max(2, most)
    places = {round(place * (len(series) - 1) / (most - 1)) for place in range(most)}
    return [series[place] for place in sorted(places)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values between two numbers."""
    rough = (high - low) / count
    size = 10 ** math.floor(math.log10(rough))
    step = next((size * part for part in (1, 2, 2.5, 5, 10) if size * part >= rough * 0.999), size * 10)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: of what it shows.
        points: what it shows.
        index: of its colour and dash.
        smooth: whether the mean over neighbours is drawn bold on it.
    """

    name: str
    points: Series
    index: int
    smooth: bool = False


class LineChart:
    """Lines against steps.

    Args:
        key: a name for the page's scripts.
        title: what is shown.
        lines: in the order of the legend.
        low, high: values that the axis holds at least.
        band: a grey range behind the lines: (step, lowest, highest).
        unit: of the horizontal axis.
    """

    def __init__(
        self,
        key: str,
        title: str,
        lines: Sequence[Line],
        *,
        low: float | None = None,
        high: float | None = None,
        band: Sequence[tuple[float, float, float]] = (),
        unit: str = "step",
    ) -> None:
        self.key, self.title, self.unit, self.band = key, title, unit, band
        self.lines = [line for line in lines if line.points]
        xs = [x for line in self.lines for x, _ in line.points]
        ys = [y for line in self.lines for _, y in line.points]
        ys += [edge for _, bottom, top in band for edge in (bottom, top)]
        ys += [value for value in (low, high) if value is not None]
        self.x_range = (min(0.0, *xs), max(xs)) if xs else (0.0, 1.0)
        self.y_range = _widened(min(ys, default=0.0), max(ys, default=1.0))
        if self.x_range[0] == self.x_range[1]:
            self.x_range = (self.x_range[0], self.x_range[0] + 1)
        self.y_ticks = list(zip(found := ticks(*self.y_range), _texts(found), strict=True))
        self.left = 12 + 7 * max((len(text) for _, text in self.y_ticks), default=2)

    def __bool__(self) -> bool:
        return bool(self.lines)

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (WIDTH - self.left - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    @property
    def summary(self) -> str:
        """What a listener hears of the picture."""
        parts = [f"{line.name} from {show(line.points[0][1])} to {show(line.points[-1][1])}" for line in self.lines[:6]]
        more = f", and {len(self.lines) - 6} lines more" if len(self.lines) > 6 else ""
        return f"{self.title}: {'; '.join(parts)}{more}"

    def svg(self) -> Markup:
        parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.summary)}">']
        for tick, text in self.y_ticks:
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{self.left} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for tick in ticks(*self.x_range):
            text = f"{tick:,.0f}" if abs(tick) >= 1 or tick == 0 else f"{tick:g}"
            parts.append(f'<text x="{self.x(tick):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>')
        parts.append(f'<path class="axis" d="M{self.left} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
        if self.band:
            edge = [(x, top) for x, _, top in self.band] + [(x, bottom) for x, bottom, _ in reversed(self.band)]
            parts.append(f'<path class="band" d="{self._path(edge)}Z"/>')
        for line in self.lines:
            if line.smooth:
                parts.append(f'<path class="raw c{line.index % COLOURS}" d="{self._path(line.points)}"/>')
            points = smoothed(line.points) if line.smooth else line.points
            parts.append(f'<path class="line {style(line.index)}" d="{self._path(points)}"/>')
            if len(points) <= 12 and not line.smooth:
                parts.extend(mark(line.index, self.x(x), self.y(y)) for x, y in points)
        parts.append("</svg>")
        return Markup("".join(parts))

    def _path(self, points: Series) -> str:
        return "M" + "L".join(f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in points)

    def data(self) -> dict[str, Any]:
        """Return what scripts need to read the chart out: the points, and where they lie."""
        return {
            "title": self.title,
            "unit": self.unit,
            "box": [self.left, TOP, WIDTH - self.left - RIGHT, HEIGHT - TOP - BOTTOM, WIDTH, HEIGHT],
            "x": [*map(decimals, self.x_range)],
            "y": [*map(decimals, self.y_range)],
            "lines": [
                {"name": line.name, "c": line.index % COLOURS, "p": [[x, decimals(y)] for x, y in line.points]}
                for line in self.lines
            ],
        }


def mark(index: int, x: float, y: float, size: float = 3.4) -> str:
    """Return the mark of a setting: a shape as well as a colour."""
    match index % 4:
        case 0:
            return f'<circle class="mark c{index % COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'
        case 1:
            shape = f"M{x - size:.1f} {y - size:.1f}h{2 * size}v{2 * size}h-{2 * size}z"
        case 2:
            shape = f"M{x:.1f} {y - 1.3 * size:.1f}l{1.3 * size:.1f} {2.2 * size:.1f}h-{2.6 * size:.1f}z"
        case _:
            side = round(1.35 * size, 1)
            shape = f"M{x:.1f} {y - side:.1f}l{side} {side}l-{side} {side}l-{side} -{side}z"
    return f'<path class="mark c{index % COLOURS}" d="{shape}"/>'


def smoothed(points: Series) -> Series:
    """Return the mean over `WINDOW` values around each one, fewer at the ends."""
    half = WINDOW // 2
    windows = [points[max(0, place - half) : place + half + 1] for place in range(len(points))]
    return [(x, sum(y for _, y in window) / len(window)) for (x, _), window in zip(points, windows, strict=True)]


def _texts(values: Sequence[float]) -> list[str]:
    """Return ticks in as few digits as tell them apart, all in as many."""
    for digits in range(7):
        texts = [f"{value:.{digits}f}" for value in values]
        if all(
            abs(float(text) - value) <= 1e-6 * max(1.0, abs(value)) for text, value in zip(texts, values, strict=True)
        ):
            break
    else:
        texts = [f"{value:.2g}" for value in values]
    return [text.replace("-", "\u2212") for text in texts]


def _widened(low: float, high: float) -> tuple[float, float]:
    span = high - low or abs(high) * 0.1 or 1.0
    return low - 0.04 * span, high + 0.06 * span
