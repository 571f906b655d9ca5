"""Two processes with halves of a batch each make the steps of one process with the whole."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.online.qa_tuning_processes import qa_tuned
from tests.online.test_qa_tuning import tiny_language_model
from tests.two_processes import launch


def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    launch("tests.online.qa_tuning_processes", str(tmp_path / "model.safetensors"))
    two, one = load_file(tmp_path / "model.safetensors"), qa_tuned(batch_size=4)
    before = tiny_language_model("gpt2", seed=2).state_dict()
    assert max((one[name] - before[name]).abs().max() for name in one) > 1e-3
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
