"""Two processes make the training steps of one: gradients, losses, scores, the choice of examples, and resumption."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.trainings import CASES, SHARDED, STEPS, Notes, build, make_data, resume, run
from tests.two_processes import launch

HALF = f"checkpoint-{STEPS // 2}"


#: Trainings that go on from the other number of processes.
RESUMED = ("mixed", "sharded_ca_mtl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("equality")
    make_data(folder)
    return folder


@pytest.fixture(scope="module")
def both(folder) -> tuple[Path, Path]:
    """Where the trainings of one process lie, and those of two."""
    one, two = folder / "one", folder / "two"
    torch.set_num_threads(1)
    for name in {**CASES, **SHARDED}:
        run(folder, name, one)
    plain, sharded = (f"{name}@{one / f'{name}-checkpoints' / HALF}" for name in RESUMED)
    launch("tests.distributed.trainings", str(folder), str(two), "interrupted", *CASES, plain, *SHARDED, sharded)
    for name in RESUMED:
        resume(folder, name, two / f"{name}-checkpoints" / HALF, one)
    return one, two


def found(where: tuple[Path, Path], name: str):
    return (json.loads((each / f"{name}.json").read_text()) for each in where)


def assert_equal(name: str, where: tuple[Path, Path]) -> None:
    one, two = found(where, name)
    gradients = [load_file(each / f"{name}.safetensors") for each in where]
    assert gradients[0].keys() == gradients[1].keys()
    assert max(value.abs().max() for value in gradients[0].values()) > 1e-3
    for key, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=key: f"{n}: {m}")
    assert len(one["losses"]) == STEPS
    assert max(one["losses"]) - min(one["losses"]) > 1e-3
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for ours, theirs in zip(one["logged"], two["logged"], strict=True):
        assert theirs == pytest.approx(ours, abs=1e-5)
    assert [sorted(batch) for batch in two["chosen"]] == [sorted(batch) for batch in one["chosen"]]
    assert two["before"] == one["before"], "the scores are the same to the last bit"


@pytest.mark.parametrize("name", [*CASES, *SHARDED])
def test_two_processes_train_as_one(name, both):
    assert_equal(name, both)


@pytest.mark.parametrize("name", RESUMED)
def test_another_number_of_processes_goes_on(name, both):
    straight, _ = found(both, name)
    for losses in found(both, f"{name}-resumed"):
        assert losses == pytest.approx(straight["losses"][STEPS // 2 :], abs=1e-5)


def test_all_processes_end_after_the_step_in_which_one_is_interrupted(both):
    _, two = both
    for rank in (0, 1):
        assert json.loads((two / f"interrupted-{rank}.json").read_text()) == [3, True]
    assert [path.name for path in (two / "interrupted").iterdir()] == ["checkpoint-3"]


@pytest.mark.parametrize("name", SHARDED)
def test_what_shards_save_is_whole(name, folder, both, tmp_path):
    scores = []
    for where in both:
        trainer = build(folder, SHARDED[name], Notes(), tmp_path)
        trainer.network.load(where / f"{name}-checkpoints" / f"checkpoint-{STEPS}")
        scores.append(trainer.evaluate())
    losses = [{key: value for key, value in each.items() if key.endswith("loss")} for each in scores]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
