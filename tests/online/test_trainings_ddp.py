"""Two processes do what one does: parameters, losses, evaluations, and going on from a checkpoint."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.online.training_processes import TRAININGS, meta_trained
from tests.two_processes import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")
    launch("tests.online.training_processes", str(folder))
    return folder


def compared(name, value):
    """Leave the biases of keys out: nothing depends on them, and Adam makes whole steps of their rounding."""
    return torch.cat([value.chunk(3)[0], value.chunk(3)[2]]) if name.endswith("attn.c_attn.bias") else value


def flat(value):
    if isinstance(value, dict | list):
        return [each for part in (value.values() if isinstance(value, dict) else value) for each in flat(part)]
    return [value]


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_make_the_steps_of_one(folder, name):
    one, numbers = TRAININGS[name](folder / "one" / name)
    two, other = (load_file(folder / f"{name}-{number}.safetensors") for number in (0, 1))
    assert two.keys() == one.keys()
    for key, value in one.items():
        pair = compared(key, two[key]), compared(key, value)
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5, msg=lambda m, n=key: f"{n}: {m}")
        assert torch.equal(two[key], other[key]), key
    found = json.loads((folder / f"{name}-0.json").read_text())
    assert len({entry["nll"] for entry in numbers[0]}) == len(numbers[0]) >= 4  # it learns
    assert flat(found) == pytest.approx(flat(numbers), rel=1e-5, abs=1e-5)


def test_one_process_goes_on_from_a_checkpoint_of_two(folder):
    checkpoint = "checkpoints/checkpoint-15"  # in the middle of what the base model goes on through
    shutil.copytree(folder / "meta" / checkpoint, folder / "resumed" / checkpoint)
    shutil.copy(folder / "meta" / "metrics.jsonl", folder / "resumed")
    shutil.copytree(folder / "meta" / "weighter", folder / "resumed" / "weighter")
    assert int(load_file(folder / "resumed" / checkpoint / "base.safetensors")["since_start"]) > 0
    resumed, _ = meta_trained(folder / "resumed", resume=True)
    two = load_file(folder / "meta-0.safetensors")
    for key, value in resumed.items():
        pair = compared(key, two[key]), compared(key, value)
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-5, msg=lambda m, n=key: f"{n}: {m}")
