"""What `taskloom.processes` does in each of several processes: `python -m tests.distributed.exchanges FOLDER`."""

import json
import os
import sys
from pathlib import Path

import torch

from taskloom import processes
from taskloom.cli import errors
from taskloom.errors import RunError, UserError


def raised(function) -> list[str]:
    try:
        function()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def one_fails(error: Exception) -> None:
    with processes.together():
        if processes.rank() == 1:
            raise error


def main_fails() -> None:
    raise RunError("runs/a: not empty")


def order(folder: Path) -> bool:
    """Whether the main process had made its file when this one looked."""
    with processes.main_first():
        if processes.is_main():
            (folder / "made").touch()
        return (folder / "made").exists()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    before = [processes.rank(), processes.world_size(), processes.is_main(), torch.distributed.is_initialized()]
    rank = processes.rank()
    found = {
        "before": before,
        "gathered": processes.gather({"rank": rank}),
        "broadcast": [processes.broadcast(rank), processes.broadcast(rank, source=1)],
        "sum": processes.sum_over(torch.tensor([rank + 1.0])).item(),
        "any": [processes.any_of(rank == 1), processes.any_of(False)],
        "on_main": processes.on_main(lambda: os.environ["RANK"]),
        "main_fails": raised(lambda: processes.on_main(main_fails)),
        "mistake": raised(lambda: one_fails(UserError("mend it"))),
        "fault": raised(lambda: one_fails(KeyError("gone"))),
        "order": order(folder),
        "speaks": errors._speaks(UserError("of all")),
    }
    processes.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found))
