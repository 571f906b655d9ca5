"""`taskloom demo`: the whole pipeline on a small suite that needs no download."""

from pathlib import Path
from typing import Annotated

import typer

from taskloom.cli.arguments import QuietOption
from taskloom.cli.output import JsonOption, print_json
from taskloom.cli.quiet import hush_libraries
from taskloom.processes import is_main

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where to write data and runs.")] = Path(
        "runs/demo"
    ),
    model: Annotated[
        str | None,
        typer.Option("--model", help="Hub id, folder or package:NAME/FOLDER instead of the packaged MiniLM."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the data and of all trainings.")] = 0,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find out which of eight small generated tasks help each other, in minutes on a CPU; the page is a report.

    Trains plain multi-task and CA-MTL, estimates affinities, groups the tasks and trains a model for each group.
    """
    hush_libraries()
    from taskloom.demo.run import run_demo

    try:
        report = run_demo(output, model, seed, quiet=quiet or as_json)
    except KeyboardInterrupt:
        typer.echo("interrupted. The same command goes on where it was", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json({"demo": str(output), "report": str(report)})
    elif is_main():
        typer.echo(f"Report: {report}")
