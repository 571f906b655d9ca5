"""What verbs print on stdout: one JSON object, or a plain table; of several processes the main one speaks."""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from taskloom.plain_json import to_json
from taskloom.processes import is_main

__all__ = ["JsonOption", "print_json", "print_table", "speak_utf8", "styled"]

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else.")]


def print_json(value: Any) -> None:
    """Print `value` as one JSON document on stdout."""
    if not is_main():
        return
    typer.echo(to_json(value, indent=2))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text under `headers`: wrapped to a terminal's width, one line each in a pipe or file."""
    if not is_main():
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 1000
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers[:-1]:
        table.add_column(header, no_wrap=True)
    table.add_column(headers[-1])
    for row in rows:
        table.add_row(*row)
    console.print(table)


def styled(text: str, **style: Any) -> str:
    """Return coloured text, whose colours `typer.echo` leaves out in a pipe; plain text where NO_COLOR asks for it."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, **style)


def speak_utf8() -> None:
    """Write UTF-8 into pipes and files whatever the locale: predictions and JSON are data, in any language."""
    # The names of files that are not UTF-8 come out as they are among data, and as escapes in messages.
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper) and not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors=errors)
