"""The recipes of all published Hyperdecoders configurations, written from one table.

    python -m scripts.hyperdecoder_recipes

rewrites ``recipes/hyperdecoders/*/*.yaml`` from ``hyperdecoder_configurations.csv``, which holds a line for each
configuration of the published code (https://github.com/allenai/hyperdecoders, arXiv 2203.08304); what all of a folder
have in common stands in `FOLDERS` and `TRAINING`. An empty cell leaves the default, which is the published code's too.
``recipes/hyperdecoders/README.md`` says how the published settings are read.
"""

import csv
import re
from pathlib import Path
from typing import Any

import yaml

from taskloom.storage import write_atomically

__all__ = ["configurations", "recipe", "recipe_text", "recipes_folder"]

TABLE = Path(__file__).with_name("hyperdecoder_configurations.csv")

GLUE = ["rte", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "cola"]
NLI = ["anli", "art", "mnli"]
MRQA = ["HotpotQA", "NaturalQuestionsShort", "NewsQA", "SearchQA", "SQuAD", "TriviaQA-web"]
SUMMARIES = ["xsum", "cnn_dailymail", "wiki_lingua_english_en"]
TASKS = {
    "GLUE": GLUE,
    "MRQA": ["mrqa"],
    # What is conditioned on the data set needs one task for each.
    "MRQA by data set": [f"mrqa-{name}" for name in MRQA],
    "NLI": NLI,
    "summaries": SUMMARIES,
    "summaries and NLI": [*SUMMARIES, *NLI],
}

GLUE_SETTINGS = {
    "data": {"max_length": 128, "max_target_length": 128},
    "training": {"max_steps": 65536, "evaluate_every": 1000, "keep_checkpoints": 1},
}
FOLDERS: dict[str, dict[str, dict[str, Any]]] = {
    "experiments": GLUE_SETTINGS,
    "glue_ablations": GLUE_SETTINGS,
    "mrqa_experiments": {
        "data": {"max_length": 512, "max_target_length": 64},
        "training": {"epochs": 4, "keep_checkpoints": 5},
    },
    "xsum_nli": {
        "data": {"max_length": 512, "max_target_length": 128, "limits": {"dev": 1600}},
        "training": {"max_steps": 100_000, "evaluate_every": 5000, "keep_checkpoints": 1},
    },
}
TRAINING = {
    "learning_rate": 3e-4,
    "weight_decay": 0.0,
    "warmup_steps": 500,
    "schedule": "linear",
    "label_smoothing": 0.1,
    "loss": "examples",
}


def configurations() -> list[dict[str, str]]:
    """Return the lines of the table, by column."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def recipe(row: dict[str, str]) -> dict[str, Any]:
    """Return the recipe of one line of the table as plain YAML values."""
    folder = FOLDERS[row["recipe"].partition("/")[0]]
    data = dict(folder["data"])
    if row["split_validation_test"] == "true":
        data["split_validation_test"] = True
    tasks = [f"text2text/{task}" for task in TASKS[row["tasks"]]]
    # The published code knows MRQA as one data set, in which its six parts have the shares of their sizes.
    sampling = {} if "mrqa" in tasks[0] else {"sampling": {"strategy": "temperature", "temperature": 10}}
    return {
        "description": _description(row),
        "seed": 42,
        "model": {"path": row["model"]},
        "data": data,
        "tasks": tasks,
        "adapter": _adapter(row),
        **sampling,
        "training": {
            **folder["training"],
            "batch_size": int(row["batch_size"]),
            "gradient_accumulation": int(row["gradient_accumulation"]),
            "eval_batch_size": int(row["eval_batch_size"]),
            **TRAINING,
            **{name: yaml.safe_load(value) for name, value in _pairs(row["training"])},
        },
    }


def _description(row: dict[str, str]) -> str:
    model = row["model"].rpartition("/")[2]
    place = re.search(r"tables? \d( and \d)?", row["paper"])
    end = f"{place[0]} of the paper; needs a GPU" if place else "needs a GPU"
    if row["also_trained"] == "everything":
        return f"Full fine-tuning, {row['tasks']}, {model}, to compare with Hyperdecoders; {end}"
    return f"Hyperdecoders, {row['tasks']}, {model}: encoder {row['encoder']}, decoder {row['decoder']}; {end}"


def _adapter(row: dict[str, str]) -> dict[str, Any]:
    also = row["also_trained"].split()
    if also == ["everything"]:
        return {"method": "none"}
    kinds = {row["encoder"], row["decoder"]}
    # Of what the table holds, a recipe says what has an effect on these kinds of adapters.
    names = ["adapter_dim", "encoder_adapter_dim", "decoder_adapter_dim"]
    if kinds & {"task_generated", "instance_generated"}:
        names.append("bottleneck")
    names.append("adapter_norm_input")
    if "instance_generated" in kinds:
        names.append("process_encoder_output")
    return {
        "method": "hyperdecoder",
        "encoder": row["encoder"],
        "decoder": row["decoder"],
        **{name: yaml.safe_load(row[name]) for name in names if row[name]},
        **{f"unfreeze_{part}": True for part in also},
    }


def _pairs(settings: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (setting.partition("=") for setting in settings.split())]


def recipe_text(row: dict[str, str]) -> str:
    """Return the YAML file of one line of the table."""
    lines = [
        "Made by `python -m scripts.hyperdecoder_recipes` of its table: change that, not this file.",
        f"The published configuration {row['recipe']}.json (arXiv 2203.08304), read as ../README.md says.",
    ]
    if row["paper"]:
        lines.append(f"It gives {row['paper']}.")
    if row["note"]:
        lines.append(f"Note: {row['note']}.")
    values = recipe(row)
    head = {name: values.pop(name) for name in ("description", "seed")}
    sections = [head, *({name: section} for name, section in values.items())]
    header = "".join(f"# {line}\n" for line in lines)
    return header + "\n".join(yaml.dump(section, Dumper=_Dumper, sort_keys=False, width=200) for section in sections)


class _Dumper(yaml.SafeDumper):
    """Lists are indented below their key, as in the other recipes."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, indentless=False)


def recipes_folder() -> Path:
    """Return the folder that the recipes are written to."""
    return Path(__file__).resolve().parents[1] / "recipes" / "hyperdecoders"


def main() -> None:
    for row in configurations():
        write_atomically(recipes_folder() / f"{row['recipe']}.yaml", recipe_text(row))


if __name__ == "__main__":
    main()
