"""What processes tell each other, in one process and in two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from taskloom import processes
from taskloom.errors import RunError
from tests.two_processes import launch


def test_one_process_exchanges_nothing() -> None:
    assert (processes.rank(), processes.world_size(), processes.is_main()) == (0, 1, True)
    processes.barrier()
    assert processes.gather("a") == ["a"]
    assert processes.broadcast("a") == "a"
    assert processes.any_of(True)
    assert not processes.any_of(False)
    assert processes.on_main(lambda: 3) == 3
    assert processes.sum_over(torch.tensor(2.0)).item() == 2.0
    with processes.main_first(), pytest.raises(RunError, match="here"), processes.together():
        raise RunError("here")
    assert not torch.distributed.is_initialized()


def test_numbers_come_from_the_launcher_without_torch() -> None:
    code = (
        "import sys; from taskloom import processes as p;"
        "print(p.rank(), p.world_size(), p.is_main(), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "RANK": "2", "WORLD_SIZE": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "3", "False", "False"]


def test_two_processes(tmp_path: Path) -> None:
    launch("tests.distributed.exchanges", str(tmp_path))
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, own in enumerate(found):
        assert own["before"] == [rank, 2, rank == 0, False]
        assert own["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert own["broadcast"] == [0, 1]
        assert own["sum"] == 3.0
        assert own["any"] == [True, False]
        assert own["on_main"] == "0"
        assert own["main_fails"] == ["RunError", "runs/a: not empty"]
        assert own["mistake"] == ["UserError", "mend it"]
        assert own["order"]
    assert sum(own["speaks"] for own in found) == 1
    assert found[0]["fault"] == ["RuntimeError", "process 1 has ended: KeyError: 'gone'"]
    assert found[1]["fault"] == ["KeyError", "'gone'"]
