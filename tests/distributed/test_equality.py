"""Two processes make the training steps of one: gradients, losses, scores, and the choice of examples."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.trainings import CASES, STEPS, make_data, run
from tests.two_processes import launch


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("equality")
    make_data(folder)
    one, two = folder / "one", folder / "two"
    torch.set_num_threads(1)
    for name in CASES:
        run(folder, name, one)
    launch("tests.distributed.trainings", str(folder), str(two))
    return one, two


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one(name, both):
    one, two = ((json.loads((where / f"{name}.json").read_text())) for where in both)
    gradients = [load_file(where / f"{name}.safetensors") for where in both]
    assert gradients[0].keys() == gradients[1].keys()
    assert max(value.abs().max() for value in gradients[0].values()) > 1e-3
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=key: f"{n}: {m}")
    if "random" not in name:  # whose draws differ, as the numbers drawn before them do
        assert len(one["losses"]) == STEPS
        assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
        for ours, theirs in zip(one["logged"], two["logged"], strict=True):
            assert theirs == pytest.approx(ours, abs=1e-5)
    assert [sorted(batch) for batch in two["chosen"]] == [sorted(batch) for batch in one["chosen"]]
    assert two["before"] == one["before"], "the scores are the same to the last bit"
