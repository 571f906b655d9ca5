"""A meta-training that one process, or each of several, runs: `python -m tests.online.meta_training_processes FILE`."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.online.test_meta_training import state, tiny_language_model, trained, weighter


def meta_trained(accumulation: int) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Return the weighter and the validations of three outer steps; a base model starts anew at each batch."""
    torch.set_num_threads(1)
    model = weighter()
    base = tiny_language_model("gpt2", seed=9)
    result = trained(model, base, accumulation=accumulation, documents=1, reset_every=1, max_steps=3)
    return state(model), result.history


if __name__ == "__main__":
    parameters, _ = meta_trained(accumulation=1)
    if os.environ["RANK"] == "0":
        save_file(parameters, Path(sys.argv[1]))
