"""The cost of exact meta-gradients: walking the updates backwards, against one graph of all of them.

    python -m benchmarks.meta_gradient [--quick] [--model llama] [--part 256] [--memory]

A language model of 6 layers, 384 wide (vocabulary 8,192), is updated on K documents in sequence, one weighted SGD step
each, and the loss on a question is differentiated by all token weights. Memory is that of tensors at the peak, above
what is there before; a document's is the difference between K and 1 document, over K - 1. Times are processor time on
one thread, on a GPU elapsed time. "auto, all" is what `unrolled_meta_gradient` does by default. `--memory` measures
memory alone, which other load on a machine does not change; "reverse" there, what "auto" settles on, needs no trial.

Targets: time at most 1.1 of the unrolled graph's for Llama's kind and 1.4 for GPT-2's (whose layers are slower in
forward mode); memory a document at most 1/4 at 256 tokens, 1/10 at 1,024; less than a quarter of its peak for a chain
of 24 documents.
"""

import argparse
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from benchmarks.measure import Run, interleaved_seconds, peak_allocated, print_row, ratio
from benchmarks.reference.meta_gradient import unrolled_graph
from taskloom.gradients import unrolled_meta_gradient

VOCABULARY = 8192
TIME = {"llama": 1.1, "gpt2": 1.4}
MEMORY = {256: 0.25, 1024: 0.1}
OURS: tuple[tuple[Any, Any], ...] = (("auto", "all"), ("auto", "sqrt"), ("forward", "all"))
MEMORY_ONLY: tuple[tuple[Any, Any], ...] = (("reverse", "all"), ("reverse", "sqrt"))
DOCUMENTS = 6


def model(kind: str, device: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "attn_implementation": "eager"}
    if kind == "gpt2":
        sizes |= {"n_embd": 384, "n_layer": 6, "n_head": 12, "n_positions": 1024, "bos_token_id": 0, "eos_token_id": 0}
        built: Any = GPT2LMHeadModel(GPT2Config(**sizes))
    else:
        sizes |= {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 12}
        built = LlamaForCausalLM(LlamaConfig(**sizes))
    return built.to(device, dtype).eval()


def stream(count: int, tokens: int, device: str) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(VOCABULARY, (count, 1, tokens), generator=generator).to(device)
    documents = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]
    return documents, list(torch.rand(count, 1, tokens, generator=generator).to(device))


def question(device: str) -> Any:
    ids = torch.arange(3, 35, device=device)[None]

    def loss(updated: Any) -> Tensor:
        logits = updated(input_ids=ids, use_cache=False).logits
        return F.cross_entropy(logits[0, :-1].float(), ids[0, 1:])

    return loss


def variants(
    kind: str, count: int, tokens: int, device: str, dtype: torch.dtype, ours: tuple[tuple[Any, Any], ...]
) -> dict[str, Run]:
    network, outer = model(kind, device, dtype), question(device)
    documents, weights = stream(count, tokens, device)
    ways: dict[str, Run] = {"unrolled": lambda: unrolled_graph(network, documents, weights, outer, 1e-3)}
    for method, checkpoints in ours:
        ways[f"{method}, {checkpoints}"] = lambda method=method, checkpoints=checkpoints: unrolled_meta_gradient(
            network, documents, weights, outer, 1e-3, method=method, checkpoints=checkpoints
        )
    return ways


def rows(
    kind: str,
    count: int,
    tokens: int,
    rounds: int,
    device: str,
    dtype: torch.dtype,
    ours: tuple[tuple[Any, Any], ...] = OURS,
) -> None:
    """Print time (with `rounds` above 0) and memory of each way to do `count` documents."""
    ways = variants(kind, count, tokens, device, dtype, ours)
    seconds = interleaved_seconds(ways, rounds, warmup=1) if rounds else None
    peaks = {name: peak_allocated(run) for name, run in ways.items()}
    single = {name: peak_allocated(run) for name, run in variants(kind, 1, tokens, device, dtype, ours).items()}
    extra = {name: (peaks[name] - single[name]) / max(count - 1, 1) for name in ways}
    for name in ways:
        print_row(
            benchmark="meta_gradient",
            model=kind,
            documents=count,
            tokens=tokens,
            way=name,
            time_over_unrolled=None if seconds is None else ratio(seconds, name, "unrolled"),
            time_target=None if name == "unrolled" else TIME[kind],
            peak_mb=round(peaks[name] / 1e6, 1),
            unrolled_peak_over_it=peaks["unrolled"] / peaks[name],
            extra_mb_a_document=round(extra[name] / 1e6, 1),
            extra_over_unrolled=extra[name] / extra["unrolled"],
            extra_target=None if name == "unrolled" else MEMORY.get(tokens),
            device=device,
            dtype=str(dtype),
            rounds=rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of meta-gradients through unrolled updates.")
    parser.add_argument("--quick", action="store_true", help="few short documents")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", choices=list(TIME), action="append", help="both by default; may be given twice")
    parser.add_argument("--memory", action="store_true", help="memory alone")
    parser.add_argument("--part", choices=("256", "1024", "long"), action="append", help="all by default")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    parts = arguments.part or ["256", "1024", "long"]
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for kind in arguments.model or list(TIME):
            if arguments.quick:
                rows(kind, 3, 64, 2, device, dtype)
                continue
            rounds, ours = (0, MEMORY_ONLY) if arguments.memory else (arguments.rounds, OURS)
            if "256" in parts:
                rows(kind, DOCUMENTS, 256, rounds, device, dtype, ours)
            if "1024" in parts:
                rows(kind, DOCUMENTS, 1024, min(rounds, 1), device, dtype, ours[:1])
            if "long" in parts:
                rows(kind, 24, 256, 0, device, dtype, MEMORY_ONLY)


if __name__ == "__main__":
    main()
