"""Collections by several processes, and such that are killed and gone on with by another number of processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.affinity.collecting import Margins, collect

PROGRAM = ["-m", "tests.affinity.collecting"]
TWICE = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ROOT = Path(__file__).parents[2]
SHARDS, EXAMPLES = 24, 96


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shards/*.safetensors"))


def begun(command: list[str], folder: Path) -> subprocess.Popen:
    """Start a slow collection and return when it has written some shards."""
    process = subprocess.Popen(
        [sys.executable, *command, str(folder), "0.2"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(shards(folder)) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    return process


def test_killed_collection_is_finished_by_two_processes(tmp_path):
    folder = tmp_path / "store"
    process = begun(PROGRAM, folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in shards(folder)}
    assert 3 <= len(done) < SHARDS
    # What a kill in the middle of a write leaves behind does no harm.
    (folder / "shards" / ".x.safetensors.0.partial").write_bytes(b"half")

    resumed = subprocess.run(
        [sys.executable, *TWICE, *PROGRAM, str(folder)], cwd=ROOT, check=False, capture_output=True, timeout=120
    )
    assert resumed.returncode == 0, resumed.stderr.decode()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    ran = [int((tmp_path / f"process-{number}.examples").read_text()) for number in (0, 1)]
    assert sum(ran) == EXAMPLES - 4 * len(done)  # each of the missing examples once
    assert abs(ran[0] - ran[1]) <= 4
    (folder / "shards" / ".x.safetensors.0.partial").unlink()
    collect(str(tmp_path / "whole"))
    assert contents(folder) == contents(tmp_path / "whole")


def test_collection_of_two_of_which_one_is_killed_is_finished_by_one(tmp_path):
    folder = tmp_path / "store"
    process = begun([*TWICE, *PROGRAM], folder)
    os.kill(int((tmp_path / "process-1.pid").read_text()), signal.SIGKILL)
    _, messages = process.communicate(timeout=60)  # the other one does not wait for ever
    assert process.returncode != 0
    assert "Signal 9" in messages
    done = len(shards(folder))
    assert 3 <= done < SHARDS

    counting = Margins(0.0)
    collect(str(folder), counting)
    assert counting.examples == EXAMPLES - 4 * done
    collect(str(tmp_path / "whole"))
    for path in shards(tmp_path / "whole"):
        assert path.read_bytes() == (folder / "shards" / path.name).read_bytes()
    assert (folder / "manifest.json").read_text() == (tmp_path / "whole" / "manifest.json").read_text()
