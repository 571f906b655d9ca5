"""Token weights in a terminal: tokens on a ground the stronger the larger their weight; numbers where none is."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

__all__ = ["print_weights"]

#: Red, green, blue of the largest weight above 0 and of the lowest below.
_ABOVE, _BELOW = (255, 150, 60), (105, 170, 255)


def print_weights(documents: Iterable[Any]) -> None:
    """Print each document's tokens with their weights, coloured or, in a pipe or file, one a line."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for document in documents:
        console.print(_heading(document), style="bold")
        if console.is_terminal and not console.no_color:
            console.print(_coloured(document))
            console.print()
        else:
            for token, weight in zip(document.tokens, document.weights, strict=True):
                print(f"{weight:.4g}\t{token!r}")


def _heading(document: Any) -> str:
    weights = document.weights
    mean = sum(weights) / len(weights)
    return f"{document.title}: {len(weights)} tokens, weights {min(weights):.3g} to {max(weights):.3g}, mean {mean:.3g}"


def _coloured(document: Any) -> Text:
    largest = max((abs(weight) for weight in document.weights), default=0.0) or 1.0
    text = Text()
    for token, weight in zip(document.tokens, document.weights, strict=True):
        share = abs(weight) / largest
        red, green, blue = (round(255 - share * (255 - part)) for part in (_ABOVE if weight >= 0 else _BELOW))
        text.append(token, Style(color="black", bgcolor=f"rgb({red},{green},{blue})"))
    return text
