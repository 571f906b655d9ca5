"""A tuning that one process, or each of several, runs: `python -m tests.online.qa_tuning_processes FILE`."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.online.test_qa_tuning import tiny_language_model, tuned, weights


def qa_tuned(batch_size: int) -> dict[str, torch.Tensor]:
    """Return the model after two steps."""
    torch.set_num_threads(1)
    model = tiny_language_model("gpt2", seed=2)
    options = {"batch_size": batch_size, "accumulation": 1, "learning_rate": 0.05, "optimizer": "sgd"}
    tuned(model, max_steps=2, generate=False, stop_on="nll", **options)
    return {name: value.contiguous() for name, value in weights(model).items() if name != "lm_head.weight"}


if __name__ == "__main__":
    parameters = qa_tuned(batch_size=2)
    if os.environ["RANK"] == "0":
        save_file(parameters, Path(sys.argv[1]))
