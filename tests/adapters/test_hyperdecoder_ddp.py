"""Two processes on halves of a batch have the gradients of one on the whole."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.adapters.hyperdecoder_processes import gradients
from tests.two_processes import launch


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    launch("tests.adapters.hyperdecoder_processes", str(tmp_path / "gradients.safetensors"))
    two, one = load_file(tmp_path / "gradients.safetensors"), gradients(None)
    assert set(two) == set(one)
    for name, gradient in one.items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(two[name], gradient, rtol=1e-5, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
