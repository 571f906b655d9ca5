"""Two processes make the steps of one: losses, gradients and the objectives' weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.auxiliary.objective_processes import KINDS, prepare, trained
from tests.two_processes import launch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    prepare(folder / "data")
    launch("tests.auxiliary.objective_processes", str(folder / "data"), str(folder))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_the_steps_of_one(folder, kind):
    one = trained(folder / "data", folder / "one", kind)
    two, other = (load_file(folder / f"{kind}-{number}.safetensors") for number in (0, 1))
    assert len(one["losses"]) == KINDS[kind]["args"]["max_steps"]
    assert len(one["losses"].unique(dim=0)) == len(one["losses"])  # it learns: no two steps are alike
    assert two.keys() == one.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(two[name], other[name]), name
    assert (folder / f"{kind}.csv").read_text().count("\n") == (folder / "one" / f"{kind}.csv").read_text().count("\n")


def test_one_process_goes_on_from_a_checkpoint_of_two(folder):
    shutil.copytree(folder / "cut" / "checkpoint-2", folder / "resumed" / "cut" / "checkpoint-2")
    resumed = trained(folder / "data", folder / "resumed", "cut", resume=True)
    two = load_file(folder / "cut-0.safetensors")
    for name, value in resumed.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
