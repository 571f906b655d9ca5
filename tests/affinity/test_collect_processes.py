"""Collections by several processes, and such that are killed and gone on with by another number of processes."""

import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.affinity.collecting import Margins, collect
from tests.two_processes import ended, launch, start

PROGRAM = "tests.affinity.collecting"
SHARDS, EXAMPLES = 24, 96


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shards/*.safetensors"))


def begun(folder: Path, processes: int) -> Sequence[BaseProcess]:
    """Start a slow collection and return when it has written some shards."""
    logs = [folder.with_name(f"log-{rank}.txt") for rank in range(processes)]
    started = start(PROGRAM, str(folder), "0.2", logs=logs, processes=processes)
    end = time.monotonic() + 60
    while len(shards(folder)) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    return started


def test_killed_collection_is_finished_by_two_processes(tmp_path):
    folder = tmp_path / "store"
    (alone,) = begun(folder, processes=1)
    alone.kill()
    alone.join()
    done = {path: path.stat().st_mtime_ns for path in shards(folder)}
    assert 3 <= len(done) < SHARDS
    # What a kill in the middle of a write leaves behind does no harm.
    (folder / "shards" / ".x.safetensors.0.partial").write_bytes(b"half")

    launch(PROGRAM, str(folder))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    ran = [int((tmp_path / f"process-{number}.examples").read_text()) for number in (0, 1)]
    assert sum(ran) == EXAMPLES - 4 * len(done)  # each of the missing examples once
    assert abs(ran[0] - ran[1]) <= 4
    (folder / "shards" / ".x.safetensors.0.partial").unlink()
    collect(str(tmp_path / "whole"))
    assert contents(folder) == contents(tmp_path / "whole")


def test_collection_of_two_of_which_one_is_killed_is_finished_by_one(tmp_path):
    folder = tmp_path / "store"
    processes = begun(folder, processes=2)
    processes[1].kill()
    killed, other = ended(processes[::-1], timeout=60)
    assert killed == -9
    assert other == 1  # it does not wait for ever
    done = len(shards(folder))
    assert 3 <= done < SHARDS

    counting = Margins(0.0)
    collect(str(folder), counting)
    assert counting.examples == EXAMPLES - 4 * done
    collect(str(tmp_path / "whole"))
    for path in shards(tmp_path / "whole"):
        assert path.read_bytes() == (folder / "shards" / path.name).read_bytes()
    assert (folder / "manifest.json").read_text() == (tmp_path / "whole" / "manifest.json").read_text()
