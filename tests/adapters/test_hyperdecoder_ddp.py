"""Two processes on halves of a batch have the gradients of one on the whole."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.adapters.hyperdecoder_processes import gradients

ROOT = Path(__file__).parents[2]


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    launch += ["--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]
    program = ["-m", "tests.adapters.hyperdecoder_processes", str(tmp_path / "gradients.safetensors")]
    command = [sys.executable, *launch, *program]
    done = subprocess.run(command, cwd=ROOT, check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two, one = load_file(tmp_path / "gradients.safetensors"), gradients(None)
    assert set(two) == set(one)
    for name, gradient in one.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(two[name], gradient, rtol=1e-5, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
