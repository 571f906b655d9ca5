"""Runs a module in two processes that talk by gloo, with the environment that `torchrun` gives them.

They are forked from one process that has imported everything once: importing is most of the work of short runs.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kills import PRELOADED

ROOT = Path(__file__).parents[1]


def launch(module: str, *arguments: str, timeout: int = 240) -> None:
    """Run `python -m module` twice over; fails with what the processes printed."""
    with TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{rank}.txt" for rank in (0, 1)]
        processes = start(module, *arguments, logs=logs)
        codes = ended(processes, timeout)
        assert codes == [0, 0], "\n".join(log.read_text() for log in logs)


def start(module: str, *arguments: str, logs: Sequence[Path], processes: int = 2) -> list[BaseProcess]:
    """Start `python -m module` several times over; what each prints goes to its log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank, log in zip(range(processes), logs, strict=True):
        environment = {**os.environ, **{name: str(value) for name, value in given.items()}}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(context.Process(target=_run, args=(module, arguments, environment, str(log))))
        started[-1].start()
    return started


def ended(processes: Sequence[BaseProcess], timeout: float) -> list[int | None]:
    """Wait for the end of all, or of as many as end when one has failed, and return their exit codes."""
    deadline = time.monotonic() + timeout
    while any(each.is_alive() for each in processes) and time.monotonic() < deadline:
        if any(each.exitcode for each in processes):
            deadline = min(deadline, time.monotonic() + 10)
        processes[-1].join(0.05)
        time.sleep(0.02)
    codes = [each.exitcode for each in processes]
    for each in processes:
        each.kill()
        each.join()
    return codes


def _run(module: str, arguments: Sequence[str], environment: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.chdir(ROOT)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    _leave()


def _leave() -> None:
    """Do as Python does at its end, which a forked process does not reach."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
