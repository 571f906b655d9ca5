"""Two processes with a batch each make the outer steps of one process that accumulates both."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.online.meta_training_processes import meta_trained

ROOT = Path(__file__).parents[2]


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]
    program = ["-m", "tests.online.meta_training_processes", str(tmp_path / "weighter.safetensors")]
    command = [sys.executable, *launch, *program]
    done = subprocess.run(command, cwd=ROOT, check=False, timeout=240, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two, (one, history) = load_file(tmp_path / "weighter.safetensors"), meta_trained(accumulation=2)
    assert two.keys() == one.keys()
    assert len({entry["loss"] for entry in history}) == 4  # it learns: no two steps are alike
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
