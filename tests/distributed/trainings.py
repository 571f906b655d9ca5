"""Trainings that one process, or each of several, runs.

    python -m tests.distributed.trainings DATA FOUND CASE[@CHECKPOINT]...

Each starts from the same weights, has no dropout, and writes what it found: the scores before the first step, the
gradient of the first step, and the loss of every step. CASE may be `interrupted`: then the last process is, in step 3.
"""

import json
import os
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from peft import LoraConfig, get_peft_model
from rich.console import Console
from safetensors.torch import save_file
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from taskloom import processes
from taskloom.adapters import CAMTLConfig, HyperdecoderConfig
from taskloom.backbones import load_encoder, load_tokenizer
from taskloom.callbacks import GracefulStop
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel
from taskloom.sampling import Sampling, Sequential, Temperature, Uncertainty
from taskloom.sharding import layers
from taskloom.tasks import TaskSuite
from taskloom.training import MultiTaskTrainer
from tests.tiny import WORDS, tiny_encoder, tiny_tasks, write_jsonl
from tests.tiny_language import WORDS as TEXT_WORDS
from tests.tiny_language import tiny_language_model, tiny_tokenizer

STEPS = 20


@dataclass(frozen=True)
class Case:
    """What differs from the plain encoder with the heads of all tasks."""

    model: str = "encoder"
    adapter: Any = None
    sampling: Sampling | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    checkpointing: bool = False
    sharded: bool = False


HYPER = {"num_tasks": 2, "adapter_dim": 4, "bottleneck": 6, "layer_embedding_dim": 3}

CASES = {
    "mixed": Case(),
    # One task a batch: the others' heads are not used. The last batch of a task holds one example, for two processes.
    "sequential": Case(sampling=Sequential(), arguments={"gradient_accumulation_steps": 2}),
    "temperature": Case(
        sampling=Temperature(2.0),
        trainer={"loss": "examples", "group_by_length": False},
        arguments={"gradient_accumulation_steps": 3},
    ),
    # A pool of 28 candidates, in seven passes, and a batch of several tasks. Under some seeds rounding decides between
    # two candidates.
    "uncertainty": Case(sampling=Uncertainty(even_share=0.6), arguments={"per_device_eval_batch_size": 4, "seed": 8}),
    "aggregator": Case(trainer={"aggregator": "UPGrad"}, arguments={"gradient_accumulation_steps": 2}),
    "random_aggregator": Case(trainer={"aggregator": "PCGrad", "batch_size": 3}),
    "lora": Case(adapter=LoraConfig(r=2, target_modules=["query", "value"], lora_dropout=0.0), checkpointing=True),
    "ca_mtl": Case(adapter=CAMTLConfig(num_tasks=4, max_length=32, freeze_layers="0")),
    "t5": Case(
        "t5",
        HyperdecoderConfig(encoder="task_generated", decoder="instance_generated", task_type="SEQ_2_SEQ_LM", **HYPER),
    ),
    "gpt2": Case("gpt2", HyperdecoderConfig(encoder="none", decoder="per_task", task_type="CAUSAL_LM", **HYPER)),
}

#: Two processes hold the parameters in shards; all but the last have a frozen backbone.
SHARDED = {
    "sharded_lora": Case(adapter=CASES["lora"].adapter, sharded=True, arguments={"max_grad_norm": 0.1}),
    "sharded_ca_mtl": Case(adapter=CASES["ca_mtl"].adapter, sharded=True, sampling=Uncertainty()),
    "sharded_t5": Case("t5", CASES["t5"].adapter, sharded=True),
    "sharded_whole": Case(sharded=True, arguments={"gradient_accumulation_steps": 2}),
}


def shard_on_cpu() -> None:
    """Let accelerate shard parameters on the CPU, which PyTorch can do: accelerate itself asks for GPUs."""
    processes.join()
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)


def make_data(folder: Path) -> None:
    """Write the tiny encoder and the tasks' files; the caches are left to the first who trains."""
    config = tiny_encoder(folder / "encoder") / "config.json"
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config.write_text(json.dumps({**json.loads(config.read_text()), **without}))
    rng = random.Random(1)
    tasks = tiny_tasks(folder / "data", examples=36)
    rows = [[rng.choice(WORDS) for _ in range(rng.randint(2, 9))] for _ in range(36)]
    tagged = [{"words": words, "tags": ["X" if word == "the" else "O" for word in words]} for words in rows]
    for split, some in {"train": tagged[:22], "dev": tagged[22:]}.items():
        write_jsonl(folder / "data" / "tags" / f"{split}.jsonl", some)
    tasks.append(
        {
            "name": "tags",
            "kind": "token",
            "inputs": ["words"],
            "target": "tags",
            "labels": ["O", "X"],
            "path": str(folder / "data" / "tags"),
        }
    )
    (folder / "tasks.json").write_text(json.dumps(tasks))
    texts = []
    for name in ("first", "second"):
        for split, count in {"train": 36, "dev": 11}.items():
            some = [{"text": " ".join(rng.choices(TEXT_WORDS, k=rng.randint(2, 9)))} for _ in range(count)]
            some = [{**row, "target": "yes" if "the" in row["text"] else "very good film"} for row in some]
            write_jsonl(folder / "data" / name / f"{split}.jsonl", some)
        texts.append(
            {
                "name": name,
                "kind": "text2text",
                "inputs": ["{text}"],
                "target": "target",
                "metrics": ["rougeL"] if name == "first" else ["exact_match"],
                "path": str(folder / "data" / name),
                "max_generated_length": 4,
            }
        )
    (folder / "texts.json").write_text(json.dumps(texts))


def whole(gradient: Any) -> torch.Tensor:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()


class Notes(TrainerCallback):
    """Keeps the gradient of the first step and the loss of each."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []
        self.shares: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.gradients = {
                name.removeprefix("module."): whole(parameter.grad)
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.shares.append({name: value for name, value in logs.items() if name.startswith(("share/", "loss/"))})


def build(folder: Path, case: Case, notes: Notes, output: Path) -> MultiTaskTrainer:
    """Return the trainer of a case."""
    encodes = case.model == "encoder"
    declared = json.loads((folder / ("tasks.json" if encodes else "texts.json")).read_text())
    suite = TaskSuite.load(declared, cache_dir=folder / "cache")
    if encodes:
        body, _ = load_encoder(str(folder / "encoder"))
        tokenizer: Any = load_tokenizer(str(folder / "encoder"))
    else:
        body, tokenizer = tiny_language_model(case.model), tiny_tokenizer(case.model)
    if case.checkpointing:
        body.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    if case.adapter is not None:
        body = get_peft_model(body, case.adapter)
        for parameter in body.parameters():  # not the zeros of a fresh adapter, through which no gradient passes
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.1
    model: Any = MultiTaskModel(body, list(suite), head_dropout=0.0) if encodes else GenerativeModel(body, list(suite))
    if case.sharded and processes.world_size() > 1:
        sharding = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": layers(body)}}
    else:
        sharding = {}
    args = TrainingArguments(
        **{
            "output_dir": str(output),
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            "per_device_eval_batch_size": 5,
            "seed": 5,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **case.arguments,
            **sharding,
        }
    )
    trainer = MultiTaskTrainer(
        model,
        args,
        suite,
        tokenizer,
        sampling=case.sampling,
        callbacks=[notes],
        evaluate_every=STEPS // 2,
        **{"batch_size": 7, "max_length": 32, "max_target_length": 8, **case.trainer},
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Interrupt(TrainerCallback):
    """Interrupts the last process in the third step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2 and processes.rank() == processes.world_size() - 1:
            signal.raise_signal(signal.SIGINT)


def interrupted(folder: Path, found: Path) -> None:
    """Write after which step each process has ended when one was interrupted."""
    trainer = build(folder, CASES["mixed"], Notes(), found / "interrupted")
    stop = GracefulStop(Console(quiet=True))
    trainer.add_callback(stop)
    trainer.add_callback(Interrupt())
    trainer.train()
    stop.restore()
    (found / f"interrupted-{processes.rank()}.json").write_text(json.dumps([trainer.state.global_step, stop.requested]))


def resume(folder: Path, name: str, checkpoint: Path, found: Path) -> None:
    """Go on with a case from a checkpoint and write the losses from there on."""
    notes = Notes()
    trainer = build(folder, {**CASES, **SHARDED}[name], notes, found / f"{name}-resumed")
    trainer.train(resume_from_checkpoint=str(checkpoint))
    if processes.is_main():
        (found / f"{name}-resumed.json").write_text(json.dumps(notes.losses))


def run(folder: Path, name: str, found: Path) -> None:
    """Train a case and write what it found, from the main process."""
    notes = Notes()
    trainer = build(folder, {**CASES, **SHARDED}[name], notes, found / f"{name}-checkpoints")
    before = trainer.evaluate()
    chosen = []
    select = trainer.scorer.select

    def spy(*args, **kwargs):
        batch = select(*args, **kwargs)
        chosen.append(batch["input_ids"].sum(dim=1).tolist())
        return batch

    trainer.scorer.select = spy
    trainer.train()
    if processes.is_main():
        found.mkdir(parents=True, exist_ok=True)
        save_file(notes.gradients, found / f"{name}.safetensors")
        content = {"before": before, "losses": notes.losses, "logged": notes.shares, "chosen": chosen}
        (found / f"{name}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    torch.set_num_threads(1)
    names = sys.argv[3:]
    folder, found = Path(sys.argv[1]), Path(sys.argv[2])
    for each in names:
        name, _, checkpoint = each.partition("@")
        if name in SHARDED:  # which come last
            shard_on_cpu()
        if name == "interrupted":
            interrupted(folder, found)
        elif checkpoint:
            resume(folder, name, Path(checkpoint), found)
        else:
            run(folder, name, found)
