"""What stands in for what a page speaks of: tiny models in folders called like those of the hub, data, variables.

`models` are made once for all pages. A page's own files and variables are made by the function that
`@stands_in(page, block)` names: it runs in the page's folder before the given Python block (0, the first, also comes
before all other blocks), and what it returns are variables.
"""

import csv
import gzip
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

import taskloom.graphs
from taskloom.cli import main
from taskloom.graphs.training import SIGNSettings, train_sign
from tests.adapters.language_models import language_model
from tests.docs.pages import blocks
from tests.online.small_tokenizers import small_tokenizer
from tests.online.tiny_project import documents, write_questions
from tests.tiny import NEGATIVE, POSITIVE, sentence, tiny_encoder, write_jsonl
from tests.tiny_language import tiny_tokenizer

__all__ = ["STAND_INS", "make_models", "stance_data"]

STAND_INS: dict[tuple[str, int], Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {}

Maker = Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]


def stands_in(page: str, block: int = 0) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        STAND_INS[page, block] = make
        return make

    return register


def make_models(folder: Path) -> None:
    """Save tiny models and tokenizers under the names that the pages use; transformers takes a folder for its name."""
    for name in ("bert-base-cased", "roberta-base"):
        tiny_encoder(folder / name)
    for name in ("google/t5-v1_1-base", "google/t5-base-lm-adapt", "google/t5-large-lm-adapt"):
        language_model("t5-gated", dtype=torch.float32).save_pretrained(str(folder / name))
        tiny_tokenizer("t5").save_pretrained(str(folder / name))
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    for name, kind, layers in (
        ("HuggingFaceTB/SmolLM2-135M", "byte_level", 16),
        ("Qwen/Qwen2.5-0.5B", "sentencepiece", 4),
    ):
        tokenizer = small_tokenizer(kind)
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=layers, **sizes)
        LlamaForCausalLM(config).save_pretrained(str(folder / name))
        tokenizer.save_pretrained(str(folder / name))


def stance_data(folder: Path, rows: int = 24, form: str = "csv") -> None:
    """Write stance/{train,dev,test}, as CSV or as JSON lines."""
    rng = random.Random(0)
    for split, count in {"train": rows, "dev": rows // 2, "test": 6}.items():
        lines = []
        for number in range(count):
            label = ("against", "favor", "none")[number % 3]
            word = {"against": NEGATIVE, "favor": POSITIVE, "none": ["film"]}[label][0]
            text = f"{sentence(rng, 4)} {word}"
            lines.append({"target": "book", "tweet": text, "text": text, "label": label})
        if form == "jsonl":
            write_jsonl(folder / f"stance/{split}.jsonl", lines)
            continue
        (folder / "stance").mkdir(parents=True, exist_ok=True)
        with (folder / f"stance/{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def loaders(size: int) -> dict[str, DataLoader]:
    return {
        name: DataLoader(TensorDataset(torch.randn(size, 4), torch.arange(size) % 3), batch_size=5)
        for name in ("first", "second", "third")
    }


def tokens(end: int = 20) -> dict[str, torch.Tensor]:
    ids = torch.arange(3 * 14).remainder(end - 4).add(4).view(3, 14)
    mask = torch.ones_like(ids)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids,
        "tokens": ids,
        "mask": mask,
        "prompts": ids,
        "prompt_mask": mask,
        "task_ids": torch.tensor([0, 3, 1]),
    }


@stands_in("README.md")
def readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Data for the README's examples, and the recipes of the pages that it leads to."""
    opinions(folder, monkeypatch)
    (folder / "new.csv").write_text("target,tweet\nbook,I love the book.\n")
    for page in ("docs/auxiliary.md", "docs/online.md"):
        for block in blocks(page):
            if block.file:
                (folder / block.file).write_text(block.code, "utf-8")
    stance_data(folder / "texts", form="jsonl")
    (folder / "news").mkdir()
    (folder / "news/harbour.txt").write_text("The new harbour of Oslo opened in May.")
    news(folder, monkeypatch)
    return {}


@stands_in("docs/sweeps.md")
def opinions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Data of the README's recipe, one of whose tasks else comes from the hub."""
    stance_data(folder / "data")
    (folder / "data/RTE").mkdir()
    for split in ("train", "dev"):
        rows = [f"{n}\tA dog ran.\tA cat sat.\t{'' if n % 2 else 'not_'}entailment\n" for n in range(16)]
        (folder / f"data/RTE/{split}.tsv").write_text("index\tsentence1\tsentence2\tlabel\n" + "".join(rows))
    return {}


@stands_in("docs/methods/grad-tag.md")
def own_model_and_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    own_tasks(folder)
    (found,) = [block for block in blocks("docs/which-tasks.md") if block.file == "first.yaml"]
    (folder / "my-recipe.yaml").write_text(found.code, "utf-8")
    return own_model(folder, monkeypatch)


@stands_in("README.md", 1)
def own_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "model": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
        "output_fn": lambda outputs, batch: outputs.gather(1, batch[1][:, None])[:, 0],
        "train_loaders": loaders(12),
        "validation_loaders": loaders(9),
    }


@stands_in("README.md", 2)
def encoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"encoder": transformers.AutoModel.from_pretrained("bert-base-cased"), **tokens()}


@stands_in("README.md", 3)
def encoder_decoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"t5": language_model("t5-gated", dtype=torch.float32), **tokens()}


@stands_in("docs/methods/ca-mtl.md")
def twelve_layers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    tiny_encoder(folder / "bert-base-cased", layers=12)
    return tokens()


@stands_in("docs/methods/hyperdecoders.md")
def inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return tokens()


@stands_in("docs/methods/grad-tag.md", 1)
def graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Twenty communities of nine nodes each, in SNAP's layout."""
    rng, size, count = random.Random(0), 9, 20
    near = [(node, node // size * size + rng.randrange(size)) for node in range(size * count) for _ in range(4)]
    far = [(rng.randrange(size * count), rng.randrange(size * count)) for _ in range(60)]
    edges = sorted({(min(pair), max(pair)) for pair in near + far if pair[0] != pair[1]})
    (folder / "com-amazon").mkdir()
    (folder / "com-amazon/edges.txt").write_text("".join(f"{first} {second}\n" for first, second in edges))
    groups = (" ".join(map(str, range(start, start + size))) for start in range(0, size * count, size))
    (folder / "com-amazon/communities.txt").write_text("".join(f"{line}\n" for line in groups))
    small = SIGNSettings(hidden=8, epochs=3)
    monkeypatch.setattr(taskloom.graphs, "train_sign", partial(train_sign, settings=small), raising=False)
    return {}


@stands_in("docs/methods/meta_gradients.md")
def documents_and_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    model = LlamaForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M")
    ids = [torch.randint(4, 300, (1, 6), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    embedding = nn.Embedding(400, 1)
    return {
        "model": model,
        "documents": [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids],
        "weighter": lambda input_ids, attention_mask: embedding(input_ids)[..., 0].exp(),
        "outer_loss": lambda updated: updated(input_ids=ids[0], labels=ids[0]).loss,
    }


@stands_in("docs/auxiliary.md")
def labelled_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    stance_data(folder / "data", form="jsonl")
    return {}


@stands_in("docs/text-to-text.md")
def moods(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for file, label in (("old/train", "positive"), ("new/train", "negative"), ("dev", "positive")):
        write_jsonl(folder / f"{file}.jsonl", [{"text": "What a film!", "label": label}])
    return {}


@stands_in("docs/question-answering.md")
def answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = [{"text": "Lima", "char_spans": [[0, 3]]}]
    question = {"qid": "a", "question": "Where?", "answers": ["Lima"], "detected_answers": found}
    gold = {"context": "Lima.", "qas": [question]}
    (folder / "mrqa/dev").mkdir(parents=True)
    for name in ("SQuAD", "BioASQ"):
        header = {"header": {"dataset": name, "split": "dev"}}
        lines = f"{json.dumps(header)}\n{json.dumps(gold)}\n"
        (folder / f"mrqa/dev/{name}.jsonl").write_text(lines)
        with gzip.open(folder / f"mrqa/dev/{name}.jsonl.gz", "wt") as file:
            file.write(lines)
    (folder / "mrqa/dev/BioASQ.jsonl").unlink()
    (folder / "mrqa/dev/SQuAD.jsonl.gz").unlink()
    task = {
        "preset": "text2text/mrqa-SQuAD",
        "name": "mrqa",
        "splits": dict.fromkeys(("train", "dev", "test"), "mrqa/dev/SQuAD.jsonl"),
    }
    recipe = {"model": {"path": "google/t5-base-lm-adapt"}, "tasks": [task], "output": "runs/mrqa"}
    (folder / "mrqa.yaml").write_text(yaml.safe_dump(recipe))
    train("mrqa.yaml", "training.max_steps=1", "data.max_length=24")
    answer = {"text": "Lima", "answer_start": 0}
    paragraph = {"context": "Lima.", "qas": [{"id": "a", "question": "Where?", "answers": [answer]}]}
    (folder / "dev-v1.1.json").write_text(json.dumps({"data": [{"title": "Peru", "paragraphs": [paragraph]}]}))
    for run in ("mrqa", "squad"):
        (folder / f"runs/{run}").mkdir(exist_ok=True)
        (folder / f"runs/{run}/2000predicted_answers.json").write_text(json.dumps({"a": "Lima"}))
    return {}


def train(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", *arguments])
    assert not end.value.code


@stands_in("docs/online.md")
def news(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Documents with questions in fifty groups, some others without, and text of something else."""
    write_questions(folder / "own.jsonl", documents(50, seed=0))
    write_questions(folder / "other.jsonl", documents(2, seed=1))
    (folder / "web.csv").write_text("raw_text\nUnrelated text of another kind.\n")
    for day in ("monday", "tuesday"):
        (folder / day).mkdir()
        (folder / day / "report.txt").write_text(f"On {day} a ship came from Lima.")
    return {}


@stands_in("docs/methods/aang.md")
def labelled_text_with_a_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (found,) = [block for block in blocks("docs/auxiliary.md") if block.file == "stance.yaml"]
    (folder / "my-recipe.yaml").write_text(found.code, "utf-8")
    return labelled_text(folder, monkeypatch)


def own_tasks(folder: Path, form: str = "csv") -> None:
    """Write stance/, mood/ and praise/, below the page's folder and below data/."""
    rng = random.Random(1)
    for root in (folder, folder / "data"):
        stance_data(root, form=form)
        for task in ("mood", "praise"):
            for split, count in {"train": 16, "dev": 8, "test": 4}.items():
                words = [(POSITIVE if number % 2 else NEGATIVE)[0] for number in range(count)]
                rows = "".join(f"{sentence(rng, 3)} {word},{'good' if word in POSITIVE else 'bad'}\n" for word in words)
                (root / task).mkdir(parents=True, exist_ok=True)
                (root / task / f"{split}.csv").write_text(f"text,label\n{rows}")


@stands_in("docs/getting-started.md")
@stands_in("docs/add-a-task.md")
@stands_in("docs/pipelines.md")
@stands_in("docs/which-tasks.md")
@stands_in("docs/report.md")
def files_of_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    own_tasks(folder)
    return {}


@stands_in("docs/adapters.md")
def tasks_and_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    own_tasks(folder)
    return tokens()


@stands_in("docs/extend.md")
def tasks_as_json_lines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    own_tasks(folder, form="jsonl")
    return {}
