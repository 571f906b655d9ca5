"""Errors and warnings as the command line shows them: one message on stderr, and no traceback unless asked for."""

import errno
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from taskloom.cli.output import styled
from taskloom.errors import LostProcessError, UserError
from taskloom.processes import has_joined, is_first, is_main, tell_launcher

__all__ = ["plain_errors", "quiet_pipes", "show_warnings"]

#: What typer raises for arguments that it cannot parse. Some versions bring click along, others carry a copy of it.
_UsageError: Any = typer.BadParameter.__mro__[1]
#: So many warnings of one kind are shown.
MOST_ALIKE = 10
#: Operating system errors that tell about the user's disk or permissions, not about a fault in taskloom.
_DISK_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EEXIST,
        errno.EFBIG,
        errno.ENAMETOOLONG,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)

#: Seconds in which an error of the main process has ended the others, on a machine that is busy, too.
SILENCE = 15.0


@contextmanager
def plain_errors(debug: bool = False) -> Iterator[None]:
    """Turn what the user can mend into one message and exit code 2; let anything else through.

    With `debug` every error keeps its traceback.
    """
    try:
        yield
    except typer.Abort:  # Ctrl-C where no verb has anything to say about it
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error), nl=False)
            sys.exit(2)
        message = _message(error)
        if message is None or (debug and not isinstance(error, _UsageError)):
            raise
        if _speaks(error):
            typer.echo(f"{styled('error:', fg='red', bold=True)} {message}", err=True)
        tell_launcher(message)
        sys.exit(1 if isinstance(error, LostProcessError) else 2)


def _speaks(error: Exception) -> bool:
    """Return whether this process is the one that tells of an error that other processes have as well.

    Processes that know each other agree on it. Otherwise the launcher ends all when the first has ended: so the others
    give the main one time to speak; if they live on after that, the error is theirs alone.
    """
    if isinstance(error, LostProcessError):
        return is_first("lost")  # perhaps it is the main one that is gone
    if has_joined():
        return is_first(f"told {error}")
    if not is_main():
        time.sleep(SILENCE)
    return True


@contextmanager
def quiet_pipes() -> Iterator[None]:
    """Exit silently when the reader of standard output has gone, as with ``| head``."""
    try:
        yield
    except BrokenPipeError:
        # What is still buffered would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _message(error: Exception) -> str | None:
    if isinstance(error, UserError | LostProcessError):
        return str(error)
    if isinstance(error, _UsageError):
        return _usage(error)
    if _is_out_of_memory(error):
        return (
            "out of memory. Lower training.batch_size (and raise training.gradient_accumulation as much), "
            "data.max_length or training.eval_batch_size, or set model.gradient_checkpointing=true"
        )
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return f"{error.filename or 'disk'}: {error.strerror}"
    return None


def _usage(error: Any) -> str:
    message = error.format_message().strip().replace("Value error, ", "")  # pydantic's words, not the user's
    message += "" if message.endswith((".", "?")) else "."
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message} See: {context.command_path} --help"


def _is_out_of_memory(error: Exception) -> bool:
    # torch's own class is told by its name: most errors come before torch is imported.
    is_torch_error = type(error).__name__ == "OutOfMemoryError" or "not enough memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_torch_error)


class _WarningLine(logging.Handler):
    """Prints log records as ``warning: ...`` on stderr, above a running progress bar.

    Of one kind, which have the same format, the first few: with hundreds of tasks they would hide everything else.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if not is_main():
            return
        if record.args:
            self._counts[record.msg] += 1
            if self._counts[record.msg] > MOST_ALIKE:
                return
        label = styled(f"{record.levelname.lower()}:", fg="yellow", bold=True)
        last = record.args and self._counts[record.msg] == MOST_ALIKE
        typer.echo(f"{label} {record.getMessage()}{' (more of this kind are not shown)' if last else ''}", err=True)


def show_warnings() -> None:
    """Print taskloom's own warnings."""
    logger = logging.getLogger("taskloom")
    if not any(isinstance(handler, _WarningLine) for handler in logger.handlers):
        logger.addHandler(_WarningLine())
        logger.propagate = False
