"""Two processes with a batch each make the outer steps of one process that accumulates both."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.online.meta_training_processes import meta_trained
from tests.two_processes import launch


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    launch("tests.online.meta_training_processes", str(tmp_path / "weighter.safetensors"))
    two, (one, history) = load_file(tmp_path / "weighter.safetensors"), meta_trained(accumulation=2)
    assert two.keys() == one.keys()
    assert len({entry["loss"] for entry in history}) == 4  # it learns: no two steps are alike
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
