"""Several processes that work on one run: who is who, and what they tell each other.

`torchrun` and `accelerate launch` start the same command several times and number the copies. Everything here works
before there is a process group (the numbers are in the environment), within one, and in a single process, where
nothing is exchanged. Every function that exchanges something must be reached by all processes, in the same order.

An error in one process must reach the others, or they wait for it until the launcher kills them: `together` and
`on_main` raise it everywhere.
"""

import atexit
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from taskloom.errors import LostProcessError, UserError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "any_of",
    "barrier",
    "broadcast",
    "from_main",
    "gather",
    "has_joined",
    "is_first",
    "is_main",
    "join",
    "launch_command",
    "lost_processes",
    "main_first",
    "on_main",
    "rank",
    "resume_command",
    "sum_over",
    "tell_launcher",
    "together",
    "world_size",
]

Value = TypeVar("Value")

#: How long a process waits for the others. A dead one is noticed by the launcher at once; this ends a stuck one, and
#: must leave the main process time for what it does alone: to tokenise, to generate text, to estimate affinities.
TIMEOUT = timedelta(days=1)


def rank() -> int:
    """Return the number of this process, from 0 on."""
    group = _group()
    return int(os.environ.get("RANK", 0)) if group is None else group.get_rank()


def world_size() -> int:
    """Return the number of processes that work together: 1 unless a launcher has started several."""
    group = _group()
    return int(os.environ.get("WORLD_SIZE", 1)) if group is None else group.get_world_size()


def is_main() -> bool:
    """Return whether this is the process that prints and writes."""
    return rank() == 0


def has_joined() -> bool:
    """Return whether this process is in a process group."""
    return _group() is not None


def join() -> None:
    """Make the process group, if a launcher has started several processes and there is none yet.

    Called by everything here that exchanges something. The backends are gloo for what lies in memory and, with GPUs,
    NCCL for what lies on them. A Trainer that comes later uses the same group.
    """
    if world_size() == 1 or _group() is not None:
        return
    import torch
    from accelerate import PartialState

    on_gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true")
    backend = {"backend": "cuda:nccl,cpu:gloo"} if on_gpu else {}
    PartialState(cpu=not torch.accelerator.is_available(), timeout=TIMEOUT, **backend)
    # Python would otherwise end under the group's threads, and the process with SIGABRT.
    atexit.register(_leave)


def _leave() -> None:
    group = _group()
    if group is not None:
        group.destroy_process_group()


def barrier() -> None:
    """Wait until every process is here."""
    gather(None)


def gather(value: Any) -> list[Any]:
    """Return the values of all processes in the order of their numbers, in every process.

    Args:
        value: anything that can be pickled; it travels by memory or network, never by a file.
    """
    if world_size() == 1:
        return [value]
    join()
    from torch import distributed

    values: list[Any] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values


def broadcast(value: Any, source: int = 0) -> Any:
    """Return the value of process `source` in every process."""
    if world_size() == 1:
        return value
    join()
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, src=source)
    return values[0]


def any_of(flag: bool) -> bool:
    """Return whether `flag` holds in any process: quick enough to be asked every step."""
    if world_size() == 1:
        return flag
    join()
    import torch

    flags = torch.tensor([flag], dtype=torch.int32)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags.item())


def sum_over(tensor: "Tensor") -> "Tensor":
    """Add up a tensor over the processes, in place, and return it. Nothing is read back to the host."""
    if world_size() > 1:
        join()
        from torch import distributed

        distributed.all_reduce(tensor)
    return tensor


def from_main(tensor: "Tensor") -> "Tensor":
    """Overwrite a tensor by that of the main process, in place, and return it."""
    if world_size() > 1:
        join()
        from torch import distributed

        distributed.broadcast(tensor, src=0)
    return tensor


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process run the block before the others, which then find what it has written (a cache).

    An error of any process is raised in all of them, as by `together`; the block must exchange nothing.
    """
    with together():
        if not is_main():
            barrier()
        try:
            yield
        finally:
            if is_main():
                barrier()


@contextmanager
def together() -> Iterator[None]:
    """Raise an error of any process in all of them, at the end of a block in which nothing is exchanged.

    Raises:
        UserError: another process found a mistake of the user's; the same error as there.
        RuntimeError: another process failed otherwise. Its own error passes through in itself.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found  # raised below, once the others know
    told = gather(_told(error))
    if error is not None:
        raise error
    for number, other in enumerate(told):
        if other is not None:
            raise other if isinstance(other, UserError) else RuntimeError(f"process {number} has ended: {other}")


def on_main(function: Callable[[], Value]) -> Value:
    """Run `function` in the main process alone and return its value everywhere, or raise its error everywhere.

    The function must exchange nothing itself; its value must be small and picklable.

    Raises:
        UserError: as `together` does, and RuntimeError.
    """
    value: Any = None
    with together():
        if is_main():
            value = function()
    return broadcast(value)


def launch_command() -> list[str]:
    """Return the words that start as many processes as there are, as far as one machine knows."""
    if world_size() == 1:
        return ["taskloom"]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    alone = ["--standalone"] if here == world_size() else []
    return ["torchrun", *alone, "--nproc-per-node", str(here), "-m", "taskloom"]


def resume_command(run: Path) -> str:
    """Return the command that continues a run, with the processes that it has now; any other number will do."""
    return shlex.join([*launch_command(), "train", str(run), "--resume"])


@contextmanager
def lost_processes(advice: str) -> Iterator[None]:
    """Say it plainly if another process has gone, of which this one only sees that an exchange breaks off.

    Args:
        advice: what to do.

    Raises:
        LostProcessError: an exchange with the others failed.
    """
    try:
        yield
    except LostProcessError:
        raise
    except RuntimeError as error:
        if world_size() == 1 or not _is_broken_exchange(error):
            raise
        if threading.current_thread() is threading.main_thread():
            # The launcher stops the others at once, too: this one ends by itself, when it has said why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise LostProcessError(
            f"process {rank()} of {world_size()} has lost another one: it was killed, ran out of memory, or failed "
            f"with a message of its own (see the launcher's report). {advice}"
        ) from error


def _is_broken_exchange(error: RuntimeError) -> bool:
    # Gloo raises plain RuntimeErrors.
    words = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")
    return type(error).__name__.startswith("Dist") or any(word in str(error).lower() for word in words)


def tell_launcher(message: str) -> None:
    """Leave an error's message where `torchrun` looks for it: its report ends with the message then."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        Path(path).write_text(json.dumps({"message": {"message": message, "extraInfo": extra}}), "utf-8")


def is_first(name: str) -> bool:
    """Return whether this process is the first to ask for `name`; usable when other processes are gone."""
    if _group() is None:
        return is_main()
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return _get_default_store().add(f"taskloom/{name}", 1) == 1
    except RuntimeError:  # the launcher, which keeps the list, is gone as well
        return is_main()


def _told(error: Exception | None) -> UserError | str | None:
    """Return what the other processes get to know of an error."""
    if error is None or isinstance(error, UserError):
        return error
    return f"{type(error).__name__}: {error}"


def _group() -> Any:
    """Return `torch.distributed` if it has a process group; torch is not imported for that."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed
