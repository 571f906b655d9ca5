"""Trainings with objectives that one process, or each of several, runs; `FOLDER` gets what each process has made.

python -m tests.auxiliary.objective_processes DATA FOLDER
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from taskloom.auxiliary import AuxiliaryTrainer
from taskloom.auxiliary.history import WeightLog
from taskloom.tasks import TaskSuite
from tests.auxiliary.support import make, masked_encoder
from tests.tiny import tiny_tasks

#: Rates of the weights, steps, and what is special: the head of the held-out gradient, chunks, a cut graph.
KINDS: dict[str, dict[str, Any]] = {
    # The last batch of an epoch holds one example; it is half of a step.
    "learned": {
        "rates": (0.5, 2.0),
        "args": {"max_steps": 20, "gradient_accumulation_steps": 2},
        "step": {"chunk": 3},
        "batch_size": 13,
    },
    "static": {"rates": (0.0, 0.0), "args": {"max_steps": 5}, "step": {"chunk": 3}},
    "cut": {
        "rates": (0.5, 2.0),
        # Of a batch of one example the second process has none, and of a view of one row.
        "args": {"max_steps": 3, "gradient_accumulation_steps": 8, "save_steps": 2, "save_strategy": "steps"},
        "step": {"cosine_layers": 1, "rows": 3},
        "dev_head": "own",
        "batch_size": 1,
        "checkpoint_every": 2,
    },
}


class Gradients(TrainerCallback):
    """Keep each step's gradients, before the optimizer takes them."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self.found[f"gradient/{state.global_step}/{name.removeprefix('module.')}"] = parameter.grad.clone()


def prepare(data: Path) -> None:
    """Write the model and the tasks."""
    masked_encoder(data / "encoder")
    tiny_tasks(data, examples=48)


def trainer(data: Path, out: Path, kind: str) -> AuxiliaryTrainer:
    """Return a trainer of one of the `KINDS`; its batches are those of all processes together."""
    tasks = [{"name": name, "path": str(data / name), **fields} for name, fields in TASKS.items()]
    suite = TaskSuite.load(tasks, cache_dir=data / "cache")
    settings = KINDS[kind]
    return make(
        data / "encoder",
        suite,
        out / kind,
        history=WeightLog(out / f"{kind}.csv"),
        **{"batch_size": 24, **settings, "args": {"logging_steps": 1, **settings["args"]}},
    )


TASKS: dict[str, dict[str, Any]] = {
    "sentiment": {"inputs": ["text"], "labels": ["neg", "pos"]},
    "same": {"inputs": ["a", "b"], "labels": ["False", "True"]},
    "strength": {"kind": "regression", "inputs": ["text"], "target": "score"},
}


def trained(data: Path, out: Path, kind: str, resume: bool = False) -> dict[str, torch.Tensor]:
    """Return the parameters, the objectives' weights, and each step's loss and gradients."""
    torch.set_num_threads(1)
    made, kept = trainer(data, out, kind), Gradients()
    made.add_callback(kept)
    made.train(resume_from_checkpoint=str(out / kind / "checkpoint-2") if resume else None)
    losses = [[entry["loss"], entry["loss/auxiliary"]] for entry in made.state.log_history if "loss" in entry]
    parameters = {f"parameter/{name}": value for name, value in made.network.state_dict().items()}
    weights = {f"weight/{name}": value for name, value in made.objective_weights.state_dict().items()}
    found = {"losses": torch.tensor(losses), **parameters, **weights, **kept.found}
    return {name: value.clone().contiguous() for name, value in found.items()}


if __name__ == "__main__":
    data_folder, out_folder = Path(sys.argv[1]), Path(sys.argv[2])
    for each in sys.argv[3:] or KINDS:
        save_file(trained(data_folder, out_folder, each), out_folder / f"{each}-{os.environ['RANK']}.safetensors")
