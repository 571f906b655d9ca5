"""Collections by several processes, and one that is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.affinity.collecting import collect

PROGRAM = ["-m", "tests.affinity.collecting"]
ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("shards/*.safetensors"))


def test_two_processes_write_what_one_writes(tmp_path):
    collect(str(tmp_path / "one"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*launch, *PROGRAM, str(tmp_path / "two")], cwd=ROOT, check=True, timeout=120, capture_output=True)
    # The output function's module is another one, as __main__, which only the manifest says.
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert len(shards(tmp_path / "two")) == 24
    assert {name: one[name] for name in one if name.startswith("shards")} == {
        name: two[name] for name in two if name.startswith("shards")
    }


def test_killed_collection_keeps_whole_shards_and_goes_on(tmp_path):
    folder = tmp_path / "store"
    process = subprocess.Popen([sys.executable, *PROGRAM, str(folder), "0.1"], cwd=ROOT)
    end = time.monotonic() + 60
    while len(shards(folder)) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in shards(folder)}
    assert 3 <= len(done) < 24
    # What a kill in the middle of a write leaves behind does no harm.
    (folder / "shards" / ".x.safetensors.0.partial").write_bytes(b"half")
    resumed = subprocess.run([sys.executable, *PROGRAM, str(folder)], cwd=ROOT, check=False, capture_output=True)
    assert resumed.returncode == 0, resumed.stderr.decode()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    whole = collect(str(tmp_path / "whole"))
    for path in shards(whole.folder):
        assert path.read_bytes() == (folder / "shards" / path.name).read_bytes()
