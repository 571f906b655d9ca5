"""`taskloom report`: runs as one HTML page."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from taskloom.cli.arguments import QuietOption
from taskloom.cli.completion import complete_shown
from taskloom.cli.output import JsonOption, print_json

__all__ = ["report"]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            autocompletion=complete_shown,
            help="Run folders, sweeps, pipelines, or folders of such (a demo, seeds, online stages).",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE.html", help="Else report.html in the run's folder, or of several here."
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option("--title", help="The page's title; else a pipeline's description, or the folders' names."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make one HTML page of runs, side by side, to read and to send: it needs nothing but itself."""
    from taskloom.report.html.page import Report, refuse_other

    path = output or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    if runs[0].is_dir() or output is not None:
        refuse_other(path)
    made = Report.of(runs, title)
    written = made.write(path)
    if as_json:
        content = {"sections": made.sections, "runs": made.runs, "notes": made.notes, "bytes": len(made.html)}
        print_json({"report": str(written), **content})
    else:
        for note in made.notes:
            typer.echo(f"{typer.style('note:', fg='yellow', bold=True)} {note}", err=True)
        told = "" if quiet else f" ({len(made.html) / 1e6:.1f} MB, {', '.join(made.sections)})"
        typer.echo(f"Report: {written}{told}")
    if open_it:
        webbrowser.open(written.resolve().as_uri())
