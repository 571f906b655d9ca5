"""Trainings that one process, or each of several, runs: `python -m tests.online.training_processes FOLDER`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.online.test_meta_training import TEXTS, questions, state, tiny_language_model, trained, weighter
from tests.online.test_qa_tuning import tuned, weights

Found = tuple[dict[str, torch.Tensor], list[Any]]


def meta_trained(folder: Path, resume: bool = False) -> Found:
    """Return the weighter, and the losses and validations, of outer steps of three batches, the base model going on."""
    torch.set_num_threads(1)
    model = weighter()
    base = tiny_language_model("gpt2", seed=9)
    # The last group of batches of an epoch is one batch: the second process has none of its own.
    options: dict[str, Any] = {"documents": 1, "reset_every": 2, "accumulation": 4, "outer_lr": 1e-3}
    options |= {"train": questions(TEXTS[:3]), "norm_weight": 0.1}
    options |= {"max_steps": 20, "validate_every": 5, "checkpoint_every": 5}
    result = trained(model, base, folder=folder, resume=resume, **options)
    return state(model), [result.history, losses(folder)]


def qa_tuned(folder: Path) -> Found:
    """Return the model after steps of batches of three questions, and the losses and evaluations."""
    torch.set_num_threads(1)
    model = tiny_language_model("gpt2", seed=2)
    options: dict[str, Any] = {"batch_size": 3, "accumulation": 2, "learning_rate": 0.05, "optimizer": "sgd"}
    result = tuned(model, folder, max_steps=20, evaluate_every=5, patience=None, log_every=1, **options)
    parameters = {name: value.contiguous() for name, value in weights(model).items() if name != "lm_head.weight"}
    return parameters, [[dict(entry) for entry in result.history], losses(folder)]


def losses(folder: Path) -> list[float]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [value for entry in entries for name, value in entry.items() if name in ("loss", "nll", "nll_gain", "kl")]


TRAININGS = {"meta": meta_trained, "qa": qa_tuned}

if __name__ == "__main__":
    out = Path(sys.argv[1])
    for name, run in TRAININGS.items():
        tensors, numbers = run(out / name)
        save_file(tensors, out / f"{name}-{os.environ['RANK']}.safetensors")
        (out / f"{name}-{os.environ['RANK']}.json").write_text(json.dumps(numbers))
