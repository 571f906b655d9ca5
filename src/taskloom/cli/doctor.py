"""`taskloom doctor`: what this installation can do, and why not more."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from taskloom.cli.output import JsonOption, print_json, print_table, styled

__all__ = ["doctor"]


def doctor(
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Where runs will be written.")] = Path("runs"),
    hub_timeout: Annotated[
        float, typer.Option("--hub-timeout", min=0.1, help="Seconds that the model hub may take to answer.")
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Check versions, devices, extras, the model hub and disk space.

    Exit code 0 if training can work; 1 if a package is missing or out of range, or a folder cannot be written to. A
    hub that does not answer and extras that are not installed are only told.
    """
    from taskloom.doctor import diagnose

    found = diagnose(output, hub_timeout)
    if as_json:
        print_json({"ok": not found.problems, **asdict(found)})
    else:
        _print(found)
    if found.problems:
        raise typer.Exit(1)


def _print(found: Any) -> None:
    _section(
        "Versions",
        ("package", "needed", "installed", ""),
        [(each.package, each.required, each.found or "none", "ok" if each.ok else "NO") for each in found.versions],
    )
    _section(
        "Devices",
        ("device", "name", "memory", "free", "bf16"),
        [
            (f"{each.count} {each.kind}", each.name, _gib(each.memory), _gib(each.free), "yes" if each.bf16 else "no")
            for each in found.devices
        ],
    )
    _section(
        "Extras",
        ("extra", "installed", "for", "install with"),
        [
            (each.name, "yes" if each.installed else "no", each.purpose, "" if each.installed else each.install)
            for each in found.extras
        ],
    )
    _section(
        "Disk",
        ("for", "folder", "free", "writable"),
        [(each.purpose, each.path, _gib(each.free), "yes" if each.writable else "NO") for each in found.disk],
    )
    typer.echo(f"Model hub: {found.hub.endpoint} is {found.hub.status} ({found.hub.detail})")
    typer.echo(f"Demo model: {'installed' if found.demo_model else 'not installed'}\n")
    for advice in found.advice:
        typer.echo(f"note: {advice}")
    for problem in found.problems:
        typer.echo(f"problem: {problem}")
    typer.echo("Training can work." if not found.problems else "Training cannot work.")


def _section(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    typer.echo(styled(title, bold=True))
    print_table(headers, rows)
    typer.echo()


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB" if size else "unknown"
