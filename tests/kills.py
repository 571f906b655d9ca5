"""kill -9 at a chosen call of a chosen function, in processes forked from one that has imported everything."""

import functools
import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

__all__ = ["PRELOADED", "killed_at"]

#: Imported once by the process from which others are forked; that is the same one for all tests.
PRELOADED = [
    "taskloom.cli",
    "taskloom.training",
    "taskloom.online.stages.adapt",
    "taskloom.online.stages.tune",
    "tests.kills",
]


def killed_at(place: str, call: int, arguments: Sequence[object], folder: Path, after: bool = False) -> None:
    """Run ``taskloom arguments`` in `folder` and kill it with SIGKILL at a call of a function, counted from 1.

    Args:
        place: module, and behind a colon the function or method, e.g. ``"taskloom.online.adaptation:Adaptation.step"``.
        call: which call.
        arguments: of the command.
        folder: working folder.
        after: kill when the call is done, not before it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(place, call, [str(each) for each in arguments], str(folder), after))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"{place}, call {call}: not killed, but ended with {process.exitcode}"


def _run(place: str, call: int, arguments: list[str], folder: str, after: bool) -> None:
    from taskloom.cli import main

    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    owner, name = _find(place)
    with mock.patch.object(owner, name, _deadly(getattr(owner, name), call, after)):
        main(arguments)


def _find(place: str) -> tuple[object, str]:
    module, _, path = place.partition(":")
    *parents, name = path.split(".")
    return functools.reduce(getattr, parents, importlib.import_module(module)), name


def _deadly(function: Callable, call: int, after: bool) -> Callable:
    calls = 0

    @functools.wraps(function)
    def deadly(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*args, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return deadly
