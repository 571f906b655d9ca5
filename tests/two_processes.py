"""Runs a module in two processes that talk by gloo, as `accelerate launch` starts them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def launch(module: str, *arguments: str, timeout: int = 240) -> None:
    """Run `python -m module` twice over; fails with what the processes printed."""
    options = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--main_process_port=0"]
    options += ["--mixed_precision=no", "--dynamo_backend=no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, timeout=timeout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
