"""Documents whose tokens are coloured by their weights: a page of its own, and a picture."""

import io
import math
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskloom.online.spans import token_spans
from taskloom.plain_json import to_json
from taskloom.storage import write_atomically

__all__ = ["TokenWeights", "token_weights_html", "token_weights_png", "write_token_weights"]

#: What stands for a token that has no characters of its own: part of a character that an earlier token shows.
PART = "·"

# Orange above 0, blue below: (red, green, blue) of the largest weight, on white.
_ABOVE, _BELOW = (255, 150, 60), (105, 170, 255)

# The picture: characters a line, and the most lines; what is behind them is counted, not drawn.
_COLUMNS, _LINES = 100, 250


@dataclass(frozen=True)
class TokenWeights:
    """A document's tokens and what each counts.

    Args:
        title: what the document is.
        tokens: their texts, which together are the document.
        weights: their weights, of either sign.

    Raises:
        ValueError: there are more or fewer weights than tokens.
    """

    title: str
    tokens: list[str]
    weights: list[float]

    def __post_init__(self):
        if len(self.tokens) != len(self.weights):
            raise ValueError(
                f"`weights` must have one for each of {len(self.tokens)} tokens, found {len(self.weights)}"
            )

    @classmethod
    def from_ids(cls, title: str, ids: Sequence[int], weights: Sequence[float], tokenizer: Any) -> "TokenWeights":
        """Name tokens by the text that they stand for, special ones by themselves.

        Args:
            title: what the document is.
            ids: token identifiers, without padding.
            weights: one for each.
            tokenizer: a fast tokenizer of transformers.
        """
        text, spans = token_spans(ids, tokenizer)
        tokens, shown = [], 0
        for index, (start, end) in zip(ids, spans.tolist(), strict=True):
            if end > start:
                tokens.append(text[max(start, shown) : end] or PART)
                shown = max(shown, end)
            else:
                name = tokenizer.convert_ids_to_tokens(index)
                tokens.append(name if name is not None and index in tokenizer.all_special_ids else PART)
        return cls(title, tokens, list(map(float, weights)))

    @property
    def finite(self) -> list[float]:
        """The weights that are numbers."""
        return [weight for weight in self.weights if math.isfinite(weight)]

    @property
    def largest(self) -> float:
        """The largest size of a weight: what the strongest colour stands for."""
        return max(map(abs, self.finite), default=0.0)

    @property
    def summary(self) -> str:
        """Smallest, largest and mean weight in words."""
        finite = self.finite
        if not finite:
            return "no weights"
        mean = math.fsum(finite) / len(finite)
        text = f"{len(self.tokens)} tokens; min {min(finite):.4g}, max {max(finite):.4g}, mean {mean:.4g}"
        lost = len(self.weights) - len(finite)
        return f"{text}; {lost} not a finite number" if lost else text

    @property
    def legend(self) -> list[float]:
        """Parts of the largest weight to explain the colours by; below 0 only if some weight is."""
        return [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1][0 if min(self.finite, default=0.0) < 0 else 4 :]

    def strength(self, weight: float) -> float:
        """Return the size of a weight as part of the largest, from 0 to 1."""
        return abs(weight) / self.largest if self.largest else 0.0


def write_token_weights(documents: Sequence[TokenWeights], file: Path, title: str) -> None:
    """Write documents as a page, the first of them as a picture, and all as JSON, which the report reads.

    Args:
        documents: at least one.
        file: the JSON file; the others differ in their suffix, ``.html`` and ``.png``.
        title: the page's.
    """
    write_atomically(file.with_suffix(".html"), token_weights_html(documents, title))
    token_weights_png(documents[0], file.with_suffix(".png"))
    write_atomically(file, to_json({"documents": list(map(vars, documents))}) + "\n")


def token_weights_html(documents: Sequence[TokenWeights], title: str) -> str:
    """Return a page with documents whose tokens are coloured by weight: orange above 0, blue below.

    The page needs nothing but itself (no network, no scripts), follows the reader's light or dark setting, and shows
    a token's weight under the pointer or the keyboard's focus. Within a document the strongest colour is its largest
    weight.
    """
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("taskloom.report", "")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.get_template("token_weights.html.j2")
    return template.render(title=title, documents=documents, isfinite=math.isfinite)


def token_weights_png(document: TokenWeights, path: Path) -> Path:
    """Draw a document's tokens on coloured ground as a PNG, and return its file.

    Letters that matplotlib's font lacks (Chinese, emoji) are boxes, and text from right to left is drawn letter by
    letter from left to right: `token_weights_html` shows them as they are.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from taskloom.report.figures import STYLE

    lines, left_out = _lines(document)
    height = len(lines) + 4.5
    with matplotlib.rc_context({**STYLE, "font.family": ["DejaVu Sans Mono", "DejaVu Sans"]}):
        # A cell of the monospaced font is 0.602 of its size wide.
        size, row = 9.0, 0.19
        column = size * 0.602 / 72
        figure = Figure(figsize=((_COLUMNS + 4) * column, height * row), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-2, _COLUMNS + 2), ylim=(height - 1, -1))
        axes.axis("off")
        style: dict[str, Any] = {"fontsize": size, "va": "center", "parse_math": False}
        title = " ".join(document.title.split())
        title = title if len(title) <= _COLUMNS else f"{title[: _COLUMNS - 1]}…"
        axes.text(0, 0, title, fontweight="bold", **style)
        note = f"; the last {left_out} tokens are not drawn" if left_out else ""
        axes.text(0, 1, f"{document.summary}{note}", color="#555555", **style)
        for start, part in enumerate(document.legend):
            weight = part * document.largest
            axes.add_patch(Rectangle((start * 10, 1.6), 10, 0.9, facecolor=_shade(document, weight)))
            axes.text(start * 10 + 5, 2.05, f"{weight:.3g}", ha="center", **style)
        for number, line in enumerate(lines, start=4):
            for start, piece, weight in line:
                box = Rectangle((start, number - 0.46), _width(piece), 0.92, lw=0.4, edgecolor="white")
                box.set_facecolor(_shade(document, weight))
                axes.add_patch(box)
                axes.text(start, number, piece, **style)
        FigureCanvasAgg(figure)
        image = io.BytesIO()
        with warnings.catch_warnings():  # letters that the font lacks
            warnings.simplefilter("ignore", UserWarning)
            figure.savefig(image, format="png", dpi=150)
    write_atomically(path, image.getvalue())
    return path


def _lines(document: TokenWeights) -> tuple[list[list[tuple[int, str, float]]], int]:
    """Return lines of (column, text, weight), and how many tokens are on lines too many."""
    lines: list[list[tuple[int, str, float]]] = [[]]
    column = 0
    for number, (token, weight) in enumerate(zip(document.tokens, document.weights, strict=True)):
        for position, part in enumerate(token.split("\n")):
            if position or (column and column + _width(part) > _COLUMNS):
                lines.append([])
                column = 0
            for start in range(0, len(part), _COLUMNS // 2):
                piece = _drawable(part[start : start + _COLUMNS // 2])
                if column and column + _width(piece) > _COLUMNS:
                    lines.append([])
                    column = 0
                lines[-1].append((column, piece, weight))
                column += _width(piece)
        if len(lines) > _LINES:
            return lines[:_LINES], len(document.tokens) - number
    return lines, 0


def _drawable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _width(text: str) -> int:
    """Return how many cells of a monospaced font a text takes; Chinese letters and emoji take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _shade(document: TokenWeights, weight: float) -> tuple[float, float, float]:
    if not math.isfinite(weight):
        return 0.8, 0.8, 0.8
    strength = document.strength(weight)
    red, green, blue = ((255 - strength * (255 - part)) / 255 for part in (_ABOVE if weight > 0 else _BELOW))
    return red, green, blue
