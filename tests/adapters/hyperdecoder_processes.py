"""Gradients of hyperdecoders in one process of several, as a program to be launched by accelerate: ``FILE``."""

import sys

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from tests.adapters.hyperdecoder_pairs import adapted_t5, batch, of_rows

KINDS = {
    "instances": {"encoder": "shared", "decoder": "instance_generated"},
    "stored": {"encoder": "shared", "decoder": "instance_generated", "recompute": False},
    "two passes": {"encoder": "instance_generated", "decoder": "instance_generated"},
    "tasks": {"encoder": "per_task", "decoder": "task_generated"},
}


def gradients(accelerator: Accelerator | None) -> dict[str, Tensor]:
    """Return the gradients of each kind, over the whole batch or over this process' share of it."""
    found = {}
    for kind, fields in KINDS.items():
        model = adapted_t5(**fields).train()
        running, inputs = model, batch(8)
        if accelerator is not None:
            running = accelerator.prepare(model)
            share = 8 // accelerator.num_processes
            inputs = of_rows(inputs, slice(share * accelerator.process_index, share * (accelerator.process_index + 1)))
        for _ in range(2):  # DistributedDataParallel changes its buckets after the first step
            model.zero_grad()
            running(**inputs).loss.backward()
        found |= {f"{kind}/{name}": p.grad for name, p in model.named_parameters() if p.requires_grad}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Accelerator(cpu=True)
    assert here.num_processes == 2
    result = gradients(here)
    if here.is_main_process:
        save_file(result, sys.argv[1])
