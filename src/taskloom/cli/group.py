"""`taskloom group`: partition a run's tasks by their affinity."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from taskloom.cli.arguments import QuietOption
from taskloom.cli.completion import complete_run
from taskloom.cli.output import JsonOption, print_json, print_table
from taskloom.cli.quiet import hush_libraries
from taskloom.errors import UserError

__all__ = ["group"]


class Method(StrEnum):
    """How the partition is found."""

    sdp = "sdp"
    spectral = "spectral"
    coclustering = "coclustering"


class Transform(StrEnum):
    """What is done to the rows of the affinity first."""

    none = "none"
    standardize = "standardize"
    exponential = "exponential"


def group(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run folder that `taskloom affinity` was run on.", autocompletion=complete_run
        ),
    ],
    k: Annotated[str, typer.Option("--k", metavar="N|auto", help="Number of groups.")] = "auto",
    method: Annotated[
        Method, typer.Option("--method", help="sdp is Grad-TAG's; the others are baselines.")
    ] = Method.sdp,
    transform: Annotated[
        Transform, typer.Option("--transform", help="Of each task's affinities, before they are compared.")
    ] = Transform.none,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Group a run's tasks so that those that help each other are together."""
    if k != "auto" and not (k.isdecimal() and int(k) > 0):
        raise UserError(f"--k: expected a number of groups from 1 on, or auto; found '{k}'")
    hush_libraries()
    from taskloom.affinity.folder import AFFINITY_FOLDER
    from taskloom.affinity.run import group_tasks

    count: int | Literal["auto"] = "auto" if k == "auto" else int(k)
    rows = None if transform is Transform.none else cast('Literal["standardize", "exponential"]', transform.value)
    found = group_tasks(run, count, cast('Literal["sdp", "spectral", "coclustering"]', method.value), rows)
    if as_json:
        print_json({"run": str(run), "groups": found.groups, "method": found.method, "k": len(found.groups)})
        return
    print_table(("group", "tasks"), [(str(number), ", ".join(names)) for number, names in enumerate(found.groups, 1)])
    if quiet:
        return
    command = ["taskloom", "train", str(run), f"groups={run}", "output=FOLDER"]
    typer.echo(f"\nGroups and heatmap:         {run / AFFINITY_FOLDER}", err=True)
    typer.echo(f"Train one model a group:    {shlex.join(command)}", err=True)
