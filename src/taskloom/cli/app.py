"""The `taskloom` command: its verbs, its global options and its entry point."""

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

import taskloom
from taskloom.cli.affinity import affinity
from taskloom.cli.arguments import FieldsCommand
from taskloom.cli.auxiliary import auxiliary
from taskloom.cli.demo import demo
from taskloom.cli.doctor import doctor
from taskloom.cli.errors import plain_errors, quiet_pipes, show_warnings
from taskloom.cli.evaluate import evaluate
from taskloom.cli.group import group
from taskloom.cli.online import online
from taskloom.cli.output import speak_utf8
from taskloom.cli.predict import predict
from taskloom.cli.recipes import recipes
from taskloom.cli.report import report
from taskloom.cli.run import run
from taskloom.cli.sweep import sweep
from taskloom.cli.tasks import tasks
from taskloom.cli.train import train
from taskloom.processes import is_main, lost_processes

__all__ = ["main"]


def _by_one(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb that does not share its work: of several processes the main one does it."""

    @functools.wraps(verb)
    def of_main(*arguments: Any, **options: Any) -> None:
        if is_main():
            verb(*arguments, **options)

    return of_main


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=FieldsCommand, no_args_is_help=True)(run)
app.command(cls=FieldsCommand, no_args_is_help=True)(train)
app.command(no_args_is_help=True)(evaluate)
app.command(no_args_is_help=True)(_by_one(predict))
app.command(cls=FieldsCommand, no_args_is_help=True)(affinity)
app.command(no_args_is_help=True)(_by_one(group))
app.command(cls=FieldsCommand, no_args_is_help=True)(auxiliary)
app.add_typer(online, name="online")
app.command(no_args_is_help=True)(sweep)
app.command(no_args_is_help=True)(_by_one(report))
app.command()(_by_one(tasks))
app.command()(_by_one(recipes))
app.command()(demo)
app.command()(_by_one(doctor))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"taskloom {taskloom.__version__}")
        raise typer.Exit


@app.callback()
def taskloom_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May stand after any command, too.")
    ] = False,
) -> None:
    """Fine-tune one pretrained language model on many tasks at once."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 a mistake of the user's, 130 interrupted, 1 anything else."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Taken out here rather than declared by each verb, so that it is in force while arguments are parsed, too.
    debug = "--debug" in given
    speak_utf8()
    show_warnings()
    with plain_errors(debug), quiet_pipes(), lost_processes("Start the same command again."):
        code = app(
            [argument for argument in given if argument != "--debug"], prog_name="taskloom", standalone_mode=False
        )
        sys.stdout.flush()
    sys.exit(code or 0)
