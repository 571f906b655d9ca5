"""The cost of collecting projected gradients, over a plain forward + backward pass and against the published loop.

    python -m benchmarks.gradients [--quick]

MiniLM's size (6 layers, 384 wide, 12 heads, its whole vocabulary), classification, 32 examples of up to 64 tokens, 200
dimensions. "Plain" is a forward and an ordinary `.backward()` of the same trainable parameters on the same batch.
Targets: at most 1.25 plain passes, at least 5 times less than one `autograd.grad` call an example; and a peak memory
that does not grow with parameters × dimensions, for which every row is measured in a process of its own. "One example a
batch" is what a careful user would write instead of the published loop; there is no target for it.

The published matrix does not fit for a whole model (22 million × 200 numbers, 18 GB): there the loop's gradients are
left unprojected, which flatters it.
"""

import argparse
import statistics
import subprocess
import sys
from typing import cast

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measure import Run, interleaved_seconds, peak_memory, print_row, ratio
from benchmarks.reference.gradients import published_matrix, published_projected_gradients
from taskloom.gradients import Projection, projected_gradients

BATCH, LENGTH, DIMENSIONS = 32, 64, 200
PLAIN, OURS = "plain forward + backward", "projected gradients"
LOOP, SINGLE = "one call an example", "one example a batch, without padding"
TRAINED = {"LoRA r=8 on attention": None, "whole model, factor 16": 16, "whole model, factor 64": 64}
TARGETS = {OURS: "over_plain <= 1.25", LOOP: "over_ours >= 5"}


def build(trained: str, device: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a model in evaluation mode with the parameters to train, and a batch of mixed lengths."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = cast("nn.Module", BertForSequenceClassification(config))
    if TRAINED[trained] is None:
        targets = ["query", "key", "value", "attention.output.dense"]
        model = get_peft_model(model, LoraConfig(r=8, target_modules=targets, modules_to_save=["classifier"]))
    lengths = torch.randint(LENGTH // 4, LENGTH + 1, (BATCH, 1))
    lengths[0] = LENGTH
    batch = {
        "input_ids": torch.randint(1000, 30522, (BATCH, LENGTH)),
        "attention_mask": (torch.arange(LENGTH) < lengths).long(),
    }
    return model.to(device).eval(), {name: value.to(device) for name, value in batch.items()}


def margin(outputs: dict[str, Tensor], _: object) -> Tensor:
    return outputs["logits"][:, 1] - outputs["logits"][:, 0]


def variants(model: nn.Module, batch: dict[str, Tensor], factor: int | None, dimensions: int) -> dict[str, Run]:
    """Return each variant as a function without arguments."""
    projection = Projection(dimensions, factor=factor)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = sum(parameter.numel() for parameter in parameters)

    def plain() -> None:
        margin(model(**batch), batch).sum().backward()
        model.zero_grad()

    def ours() -> None:
        projected_gradients(model, batch, margin, projection)

    matrix = published_matrix(size, dimensions).to(batch["input_ids"].device) if factor is None else None

    def loop() -> None:
        if matrix is None:
            for value in margin(model(**batch), batch):
                torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        else:
            published_projected_gradients(model, batch, margin, matrix)

    def single() -> None:
        for number, length in enumerate(batch["attention_mask"].sum(1).tolist()):
            example = {name: value[number : number + 1, :length] for name, value in batch.items()}
            if matrix is None:
                torch.autograd.grad(margin(model(**example), example), parameters, allow_unused=True)
            else:
                published_projected_gradients(model, example, margin, matrix)

    return {PLAIN: plain, OURS: ours, LOOP: loop, SINGLE: single}


def time_rows(trained: str, rounds: int, loop_rounds: int, device: str) -> None:
    model, batch = build(trained, device)
    runs = variants(model, batch, TRAINED[trained], DIMENSIONS)
    short = {name: run for name, run in runs.items() if name != LOOP}
    seconds = interleaved_seconds(short, rounds)
    with_loop = interleaved_seconds({name: runs[name] for name in (OURS, LOOP)}, loop_rounds, warmup=0)
    for name in runs:
        taken = with_loop if name == LOOP else seconds
        print_row(
            variant=name,
            trained=trained,
            trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
            over_plain=None if name == LOOP else ratio(seconds, name, PLAIN),
            over_ours=ratio(taken, name, OURS),
            target=TARGETS.get(name),
            seconds=statistics.median(taken[name]),
            device=device,
            rounds=len(taken[name]),
        )


def memory_row(trained: str, dimensions: int, device: str) -> None:
    """Print the peak memory of ours and of a plain pass. To be called in a fresh process."""
    model, batch = build(trained, device)
    projection = Projection(dimensions, factor=TRAINED[trained])

    def plain() -> None:
        margin(model(**batch), batch).sum().backward()
        model.zero_grad()

    def ours() -> None:
        projected_gradients(model, batch, margin, projection)

    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print_row(
        variant=f"{OURS}, memory",
        trained=trained,
        dimensions=dimensions,
        trained_parameters=size,
        peak_bytes=peak_memory(ours),
        matrix_bytes=4 * size * dimensions,
        plain_peak_bytes=peak_memory(plain),
        device=device,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="LoRA only, few rounds: within a minute")
    parser.add_argument("--rounds", type=int, help="rounds per setting (default 10, quick 2)")
    parser.add_argument("--memory", nargs=2, metavar=("TRAINED", "DIMENSIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    if arguments.memory:
        memory_row(arguments.memory[0], int(arguments.memory[1]), device)
        return
    rounds = arguments.rounds or (2 if arguments.quick else 10)
    settings = list(TRAINED)[:1] if arguments.quick else list(TRAINED)
    for trained in settings:
        time_rows(trained, rounds, 1 if arguments.quick else 3, device)
    for trained in settings:
        for dimensions in (DIMENSIONS,) if arguments.quick else (50, DIMENSIONS, 800):
            command = [sys.executable, "-m", "benchmarks.gradients", "--memory", trained, str(dimensions)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
