"""The cost of hyperdecoders: generation and training, over the published procedure, the plain model and LoRA.

    python -m benchmarks.hyperdecoder [--quick] [generate] [train] [decoder]

The main configuration: learnt adapters of 64 in the encoder, adapters of 64 in the decoder made for each example
through a bottleneck of 128. Random weights of T5's sizes, and of SmolLM2-135M's for decoder-only models.

generate: 32 tokens, no more and no fewer, from sources of 64. Published: each decoding step makes all layers' weights
again. Targets: tokens per second at least 1.6 times at t5-small's size with a batch of 8, and 1.8 at t5-base's with 16.

train: one step is forward, backward and AdamW on what is trained, source 128, target 16. LoRA is PEFT's, on all queries
and values, with the rank that trains as many parameters. Targets: at most 1.25 LoRA steps, and at most half of the
published memory above the frozen base. The frozen base's memory is that of the same step where all that is trained is
one vector, added where the first adapter is: what any adapter there needs for gradients to flow. Memory above the base
counts tensors at the peak of a step, its activations, generated weights and gradients, but not parameters and AdamW's
state, which are the same for both. Resident memory is shown beside it; the allocator's holes blur it.

decoder: 32 tokens after prompts of 64 from a decoder-only model, over the model without adapters.

Times are processor time on one thread, on a GPU elapsed time, there also at t5-large's size in bf16.
"""

import argparse
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from benchmarks.measure import Run, interleaved_seconds, peak_allocated, peak_memory, print_row, ratio
from benchmarks.reference.hyperdecoder import PublishedHyperdecoder
from taskloom.adapters import HyperdecoderConfig

PARTS = ["generate", "train", "decoder"]
NEW_TOKENS = 32
SIZES = {
    "t5-small": {"d_model": 512, "num_layers": 6, "num_heads": 8, "d_ff": 2048},
    "t5-base": {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072},
    "t5-large": {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096},
}
FLOOR, OURS, STORED, PUBLISHED, LORA = "frozen base", "taskloom", "taskloom, recompute off", "published", "LoRA"
FASTER = {"t5-small": "published_over_ours >= 1.6", "t5-base": "published_over_ours >= 1.8"}

Place = Callable[[nn.Module], Any]


def placement(device: str, dtype: torch.dtype) -> Place:
    def place(model: nn.Module) -> Any:
        return model.to(device, dtype)

    return place


def t5_config(size: str) -> T5Config:
    return T5Config(vocab_size=32128, d_kv=64, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, **SIZES[size])


def t5(size: str, place: Place) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return place(T5ForConditionalGeneration(t5_config(size)))


def published(size: str, place: Place) -> PublishedHyperdecoder:
    torch.manual_seed(0)
    return place(PublishedHyperdecoder(t5_config(size)))


def ours(size: str, place: Place, **fields: Any) -> PeftModel:
    config = HyperdecoderConfig(encoder="shared", decoder="instance_generated", task_type="SEQ_2_SEQ_LM", **fields)
    return place(get_peft_model(t5(size, place), config))


def texts(batch: int, tokens: int, vocabulary: int, device: str, left: bool = False) -> dict[str, Tensor]:
    """Return random texts of half to all of `tokens`, the first of them whole, and their mask."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(tokens // 2, tokens + 1, (batch, 1), generator=generator)
    lengths[0] = tokens
    mask = (torch.arange(tokens) < lengths).long()
    ids = torch.randint(3, vocabulary, (batch, tokens), generator=generator)
    return {"input_ids": ids.to(device), "attention_mask": (mask.flip(1) if left else mask).to(device)}


def generation(model: Any, inputs: dict[str, Tensor], beams: int) -> Run:
    model.eval()
    length = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    return lambda: model.generate(**inputs, **length, num_beams=beams, do_sample=False)


def generate_rows(size: str, batch: int, beams: int, rounds: int, device: str, dtype: torch.dtype) -> None:
    place = placement(device, dtype)
    inputs = texts(batch, 64, 32128, device)
    models = {FLOOR: t5(size, place), OURS: ours(size, place), PUBLISHED: published(size, place)}
    seconds = interleaved_seconds(
        {name: generation(model, inputs, beams) for name, model in models.items()}, rounds, warmup=1
    )
    rates = {name: batch * NEW_TOKENS / statistics.median(taken) for name, taken in seconds.items()}
    print_row(
        benchmark="generate",
        size=size,
        batch=batch,
        beams=beams,
        published_over_ours=ratio(seconds, PUBLISHED, OURS),
        target=FASTER.get(size) if beams == 1 else None,
        over_frozen_base=ratio(seconds, OURS, FLOOR),
        published_over_frozen_base=ratio(seconds, PUBLISHED, FLOOR),
        tokens_per_second=round(rates[OURS], 1),
        published_tokens_per_second=round(rates[PUBLISHED], 1),
        frozen_base_tokens_per_second=round(rates[FLOOR], 1),
        device=device,
        dtype=str(dtype),
        rounds=rounds,
    )


def training_step(model: nn.Module, inputs: dict[str, Tensor], trained: Iterable[nn.Parameter]) -> Run:
    """Return a function that does one step on `trained`."""
    model.requires_grad_(False).train()
    trained = [parameter.requires_grad_() for parameter in trained]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step() -> None:
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def with_one_vector(model: T5ForConditionalGeneration) -> list[nn.Parameter]:
    """Add a trained vector to the output of the encoder's first feed-forward block."""
    vector = nn.Parameter(torch.zeros_like(model.encoder.final_layer_norm.weight))
    model.encoder.block[0].layer[-1].register_forward_hook(lambda _module, _inputs, output: output + vector)
    return [vector]


def count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def lora(size: str, place: Place, parameters: int) -> PeftModel:
    """Return LoRA of the rank whose number of parameters is nearest to `parameters`."""

    def of_rank(rank: int, base: nn.Module) -> PeftModel:
        return get_peft_model(base, LoraConfig(r=rank, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"))

    with torch.device("meta"):
        per_rank = count(of_rank(1, T5ForConditionalGeneration(t5_config(size))).parameters())
        per_rank -= count(T5ForConditionalGeneration(t5_config(size)).parameters())
    return place(of_rank(round(parameters / per_rank), t5(size, place)))


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def train_rows(size: str, batch: int, rounds: int, device: str, dtype: torch.dtype) -> None:
    place = placement(device, dtype)
    inputs = texts(batch, 128, 32128, device)
    inputs["labels"] = texts(batch, 16, 32128, device)["input_ids"]

    base, theirs = t5(size, place), published(size, place)
    models: dict[str, tuple[nn.Module, list[nn.Parameter]]] = {
        FLOOR: (base, with_one_vector(base)),
        PUBLISHED: (theirs, list(theirs.added_parameters().values())),
    }
    for name, recompute in ((OURS, True), (STORED, False)):
        model = ours(size, place, recompute=recompute)
        models[name] = (model, trainable(model))
    adapted = lora(size, place, count(models[OURS][1]))
    models[LORA] = (adapted, trainable(adapted))
    sizes = {name: count(trained) for name, (_, trained) in models.items()}
    steps = {name: training_step(model, inputs, trained) for name, (model, trained) in models.items()}
    seconds = interleaved_seconds(steps, rounds, warmup=1)
    peaks = {name: peak_allocated(step) for name, step in steps.items()}
    resident = {name: peak_memory(step) for name, step in steps.items()}
    above = {name: peak - peaks[FLOOR] for name, peak in peaks.items()}
    for name in models:
        print_row(
            benchmark="train",
            size=size,
            batch=batch,
            variant=name,
            over_lora=ratio(seconds, name, LORA),
            over_published=ratio(seconds, name, PUBLISHED),
            over_frozen_base=ratio(seconds, name, FLOOR),
            above_base_megabytes=above[name] / 1e6,
            above_base_over_published=above[name] / above[PUBLISHED],
            target="over_lora <= 1.25, above_base_over_published <= 0.5" if name == OURS else None,
            peak_megabytes=peaks[name] / 1e6,
            resident_megabytes=None if resident[name] is None else resident[name] / 1e6,
            seconds=statistics.median(seconds[name]),
            trained_parameters=sizes[name],
            device=device,
            dtype=str(dtype),
            rounds=rounds,
        )


def decoder_row(layers: int, batch: int, rounds: int, device: str, dtype: torch.dtype) -> None:
    place = placement(device, dtype)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    inputs = texts(batch, 64, config.vocab_size, device, left=True)
    adapter = HyperdecoderConfig(decoder="instance_generated", task_type="CAUSAL_LM")
    models = {
        FLOOR: place(LlamaForCausalLM(config)),
        OURS: place(get_peft_model(LlamaForCausalLM(config), adapter)),
    }
    seconds = interleaved_seconds(
        {name: generation(model, inputs, beams=1) for name, model in models.items()}, rounds, warmup=1
    )
    print_row(
        benchmark="decoder",
        size="SmolLM2-135M",
        layers=layers,
        batch=batch,
        over_frozen_base=ratio(seconds, OURS, FLOOR),
        tokens_per_second=round(batch * NEW_TOKENS / statistics.median(seconds[OURS]), 1),
        frozen_base_tokens_per_second=round(batch * NEW_TOKENS / statistics.median(seconds[FLOOR]), 1),
        device=device,
        dtype=str(dtype),
        rounds=rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"any of {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help="t5-small's size, no beams, few rounds: within two minutes"
    )
    parser.add_argument("--rounds", type=int, help="rounds (default 3, quick 2; 2 where one takes a minute)")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"{unknown[0]!r} is no part: one of {', '.join(PARTS)}")
    parts = arguments.parts or PARTS
    rounds = arguments.rounds or (2 if arguments.quick else 3)
    fewer = arguments.rounds or 2
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    settings = [("t5-small", 8, torch.float32)]
    if not arguments.quick:
        settings.append(("t5-base", 16, torch.float32))
        if on_gpu:
            settings.append(("t5-large", 16, torch.bfloat16))
    torch.set_num_threads(1)
    with threadpool_limits(1):  # SciPy and PyTorch have OpenMP libraries of their own
        if "generate" in parts:
            for size, batch, dtype in settings:
                for beams in (1,) if arguments.quick else (1, 4):
                    generate_rows(size, batch, beams, rounds if beams == 1 else fewer, device, dtype)
        if "train" in parts:
            for size, batch, dtype in settings:
                train_rows(size, batch, fewer, device, dtype)
        if "decoder" in parts:
            decoder_row(6 if arguments.quick else 30, 8, rounds, device, torch.float32)


if __name__ == "__main__":
    main()
