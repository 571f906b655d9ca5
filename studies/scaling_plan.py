"""The arithmetic of docs/scaling.md: what a plan beyond one machine costs, from unit costs measured on one.

    python -m studies.scaling_plan                                  # the page's tables
    python -m studies.scaling_plan --measure                        # the unit costs of this machine, within a minute
    python -m studies.scaling_plan --tasks 200 --examples 100000 --flops 4e14   # your own figures

Floating-point operations are 2 a parameter and token forward, 4 backward (Kaplan et al. 2020, section 2.1), of which 2
fall away for what is frozen. Activations are those of Korthikanti et al. 2022, table 2.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from taskloom.adapters import HyperdecoderConfig

GB, TB = 1e9, 1e12
HOUR = 3600.0


@dataclass(frozen=True)
class Units:
    """Unit costs of a machine, as ``--measure`` finds them.

    Attributes:
        collect_flops: operations a second that a collection of gradients reaches, from its seconds an example.
        plain_flops: operations a second of a plain forward and backward pass.
        adapt_flops: operations a second of online adaptation.
    """

    collect_flops: float
    plain_flops: float
    adapt_flops: float


def training_flops(parameters: float, tokens: float, frozen: bool) -> float:
    """Return the operations of a forward and a backward pass; of a frozen model no gradients of parameters."""
    return parameters * tokens * (4 if frozen else 6)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


# --- gradients of many tasks


def stored_bytes(examples: float, dimensions: int) -> float:
    """Return the size of a store: float32 gradients, an output and a label an example."""
    return examples * 4 * (dimensions + 2)


def collection_table(
    tasks: int, examples: int, dimensions: int, tokens: int, parameters: float, flops: float, gpus: int
) -> str:
    rows = []
    for each in dict.fromkeys((1_000, 100_000, examples)):
        total = tasks * each
        operations = training_flops(parameters, total * tokens, frozen=True)
        seconds = operations / flops
        sizes = [f"{stored_bytes(total, d) / TB:,.3g}" for d in (dimensions // 4, dimensions, dimensions * 4)]
        rows.append(
            [
                f"{each:,}",
                f"{total:.3g}",
                f"{operations:.2g}",
                f"{seconds / HOUR:,.3g}",
                f"{seconds / gpus / HOUR:,.3g}",
                *sizes,
            ]
        )
    header = ["examples a task", "examples", "operations", "GPU hours", f"hours on {gpus} GPUs"]
    return table(header + [f"TB, d={d}" for d in (dimensions // 4, dimensions, dimensions * 4)], rows)


# --- a 7B model with hyperdecoder adapters


LLAMA_7B: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def on_meta(shape: dict[str, Any], adapter_dim: int = 64, bottleneck: int = 128) -> nn.Module:
    """Return a Llama of this shape with hyperdecoder adapters, without storage."""
    config = HyperdecoderConfig(
        encoder="none",
        decoder="instance_generated",
        adapter_dim=adapter_dim,
        bottleneck=bottleneck,
        task_type="CAUSAL_LM",
    )
    with torch.device("meta"):
        return get_peft_model(LlamaForCausalLM(LlamaConfig(**shape)), config)


@dataclass(frozen=True)
class Sizes:
    """Counts of a model's numbers.

    Attributes:
        frozen: base parameters, which FSDP2 keeps in bf16.
        trained: adapter and generator parameters.
        block: parameters of the largest block that FSDP2 gathers, base and adapter.
        root: parameters outside blocks (embeddings, head), gathered together.
        generated: weights that a generator makes for one example in one layer.
        adapted: layers with generated weights.
    """

    frozen: int
    trained: int
    block: int
    root: int
    generated: int
    adapted: int


def sizes(model: nn.Module) -> Sizes:
    named = dict(model.named_parameters())
    frozen = sum(p.numel() for p in named.values() if not p.requires_grad)
    trained = sum(p.numel() for p in named.values() if p.requires_grad)
    blocks: dict[str, int] = {}
    generated = 0
    for name, parameter in named.items():
        head, found, rest = name.partition(".layers.")
        if found:
            block = f"{head}.{rest.split('.')[0]}"
            blocks[block] = blocks.get(block, 0) + parameter.numel()
        # A generator's last layers have as many outputs as it makes numbers.
        if any(name.endswith(f".{part}.bias") for part in ("down", "up", "down_bias", "up_bias")):
            generated += parameter.numel()
    adapted = next(p.shape[0] for name, p in named.items() if name.endswith("layer_embedding.weight"))
    return Sizes(frozen, trained, max(blocks.values()), frozen + trained - sum(blocks.values()), generated, adapted)


def memory(found: Sizes, shape: dict[str, Any], gpus: int, rows: int, tokens: int) -> dict[str, float]:
    """Return bytes a GPU by part: FSDP2, gradient checkpointing, bf16 compute, float32 adapters and AdamW.

    Args:
        found: the model's counts.
        shape: the model's configuration.
        gpus: among which parameters and their states are divided.
        rows: examples a GPU and pass.
        tokens: of an example.
    """
    h, layers, heads = shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"]
    wide = rows * tokens
    return {
        "base, bf16": 2 * found.frozen / gpus,
        "adapters, fp32": 4 * found.trained / gpus,
        "gradients, fp32": 4 * found.trained / gpus,
        "AdamW, fp32": 8 * found.trained / gpus,
        # Two blocks and the root in bf16: one at work, one on its way.
        "gathered blocks": 0.0 if gpus == 1 else 2 * (2 * found.block + found.root),
        # Each block's input is kept, and one block's inside is there at a time.
        "activations": wide * h * 2 * layers + wide * (34 * h + 5 * heads * tokens),
        "generated weights": 2 * 4 * rows * found.generated,  # one layer's, and their gradients
        "logits, fp32": wide * shape["vocab_size"] * (2 + 4 + 4),  # bf16, float32, gradient
    }


def memory_table(shape: dict[str, Any], rows: int, tokens: int) -> str:
    found = sizes(on_meta(shape))
    columns = [memory(found, shape, gpus, rows, tokens) for gpus in (1, 2, 4, 8)]
    lines = [[part, *(f"{column[part] / GB:.2f}" for column in columns)] for part in columns[0]]
    lines.append(["**together**", *(f"**{sum(column.values()) / GB:.1f}**" for column in columns)])
    lines.append(
        [
            "all layers' generated weights at once (not so here)",
            *[f"{2 * 4 * rows * found.generated * found.adapted / GB:.2f}"] * 4,
        ]
    )
    return table(["GB a GPU", "1 GPU", "2", "4", "8"], lines)


def counts_line(shape: dict[str, Any]) -> str:
    found = sizes(on_meta(shape))
    return (
        f"{found.frozen:,} frozen and {found.trained:,} trained parameters; the largest block holds {found.block:,}, "
        f"what is outside of blocks {found.root:,}; a generator makes {found.generated:,} numbers an example in each "
        f"of {found.adapted} layers."
    )


# --- a stream of documents


def document_seconds(parameters: float, tokens: int, flops: float, bandwidth: float) -> float:
    """Return the seconds of an update: a pass over a document, and AdamW's over all parameters.

    AdamW reads and writes parameters and two moments, and reads the gradient: 28 bytes a parameter in float32.
    """
    return training_flops(parameters, tokens, frozen=False) / flops + 28 * parameters / bandwidth


def stream_table(documents: int, tokens: int, flops: float, bandwidth: float, every: int) -> str:
    rows = []
    for name, parameters in (("distilgpt2, 82M", 82e6), ("GPT-2 XL, 1.5B", 1.56e9), ("7B", 6.74e9)):
        seconds = document_seconds(parameters, tokens, flops, bandwidth)
        checkpoint = 12 * parameters  # float32 parameters and AdamW's two moments
        written = checkpoint * (documents // every)
        rows.append(
            [
                name,
                f"{seconds:.2g}",
                f"{seconds * documents / HOUR:,.3g}",
                f"{checkpoint / GB:,.3g}",
                f"{2 * checkpoint / GB:,.3g}",
                f"{written / TB:,.3g}",
            ]
        )
    header = ["model", "s a document", "hours", "GB a checkpoint", "GB on disk at most", f"TB written, every {every:,}"]
    return table(header, rows)


# --- unit costs


def measure() -> Units:
    """Measure this machine on one thread: a model of MiniLM's size for gradients, of distilgpt2's for documents."""
    from benchmarks.gradients import BATCH, LENGTH, build, margin

    from taskloom.gradients import Projection, projected_gradients
    from taskloom.online import UniformWeighter
    from taskloom.online.adaptation import Adaptation

    torch.set_num_threads(1)

    def fastest(run: Any, rounds: int) -> float:
        """Return the least processor seconds: other work on a shared machine only adds."""
        found = []
        for _ in range(rounds + 1):
            start = time.process_time()
            run()
            found.append(time.process_time() - start)
        return min(found[1:])

    def at_work(model: nn.Module) -> int:
        """Parameters of matrices that every token passes."""
        return sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embeddings." not in n)

    model, batch = build("LoRA r=8 on attention", "cpu")
    projection = Projection(200)
    parameters = [p for p in model.parameters() if p.requires_grad]
    operations = training_flops(at_work(model), BATCH * LENGTH, frozen=True)
    collect = fastest(lambda: projected_gradients(model, batch, margin, projection), 2)
    plain = fastest(lambda: torch.autograd.grad(margin(model(**batch), batch).sum(), parameters), 2)
    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=6))
    document = {"input_ids": torch.randint(50257, (1, 256)), "attention_mask": torch.ones(1, 256, dtype=torch.long)}
    adaptation = Adaptation(gpt2, UniformWeighter())
    adapt = fastest(lambda: adaptation.update(document), 2)
    wide = sum(p.numel() for n, p in gpt2.named_parameters() if p.ndim == 2 and "wpe" not in n)
    return Units(operations / collect, operations / plain, training_flops(wide, 256, frozen=False) / adapt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the unit costs of this machine, and stop")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=10_000_000, help="a task")
    parser.add_argument("--dimensions", type=int, default=200, help="of the projection")
    parser.add_argument("--tokens", type=int, default=128, help="an example")
    parser.add_argument("--parameters", type=float, default=110e6, help="of the model whose gradients are collected")
    parser.add_argument("--flops", type=float, default=3e14, help="operations a second that one GPU reaches")
    parser.add_argument("--bandwidth", type=float, default=3e12, help="bytes a second of a GPU's memory")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8, help="examples a GPU and pass of the 7B model")
    parser.add_argument("--sequence", type=int, default=1024, help="tokens an example of the 7B model")
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--document-tokens", type=int, default=512)
    parser.add_argument("--every", type=int, default=200, help="documents between two checkpoints")
    given = parser.parse_args()
    if given.measure:
        print(measure())
        return
    print(
        collection_table(
            given.tasks, given.examples, given.dimensions, given.tokens, given.parameters, given.flops, given.gpus
        )
    )
    print("\n" + counts_line(LLAMA_7B) + "\n")
    print(memory_table(LLAMA_7B, given.rows, given.sequence))
    print("\n" + stream_table(given.documents, given.document_tokens, given.flops, given.bandwidth, given.every))


if __name__ == "__main__":
    main()
