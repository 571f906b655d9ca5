"""How many parameters each published Hyperdecoders configuration trains, counted on the meta device.

    python -m scripts.hyperdecoder_parameters

rewrites the table ``docs/methods/hyperdecoders-parameters.md``. No weights are needed: models are built from the shapes
of the published checkpoints.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from scripts.hyperdecoder_recipes import configurations, recipes_folder
from taskloom.adapters.recipes import adapt
from taskloom.generative import GenerativeModel
from taskloom.recipe import Recipe, load_recipe
from taskloom.storage import write_atomically
from taskloom.tasks.presets import resolve_tasks

__all__ = ["PAGE", "build_on_meta", "line", "page"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods" / "hyperdecoders-parameters.md"

#: T5 v1.1, which the LM-adapted checkpoints continue: gated feed-forward blocks, and a head apart from the embeddings.
V1_1: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
SMALL = {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6, **V1_1}
BASE = {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12, **V1_1}
LARGE = {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16, **V1_1}
SHAPES: dict[str, dict[str, Any]] = {
    "google-t5/t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "google/t5-small-lm-adapt": SMALL,
    "google/t5-base-lm-adapt": BASE,
    "google/t5-large-lm-adapt": LARGE,
    "google/t5-v1_1-large": LARGE,
}

INTRODUCTION = """\
# Hyperdecoders: trained parameters of the published configurations

Made by `python -m scripts.hyperdecoder_parameters`, which builds each recipe of `recipes/hyperdecoders/` without
weights. *Trained* counts what receives gradients: adapters, generators and, where a configuration says so, parts of the
base model. *Share* is that of all parameters, the adapters' included. Widths are those of the adapters of encoder and
decoder, with the bottleneck of the generators behind.

The published code counts more, since it also makes plain adapters where generated ones are used.

| recipe | encoder | decoder | widths | trained | of | share |
|---|---|---|---|---:|---:|---:|
"""


def build_on_meta(recipe: Recipe) -> GenerativeModel:
    """Return the recipe's model on the meta device; its tasks must be presets."""
    tasks = [task for task, _ in resolve_tasks(recipe.tasks, Path(), has_data_dir=False)]
    shape = SHAPES[recipe.model.path]
    with torch.device("meta"):
        base = T5ForConditionalGeneration(T5Config(vocab_size=32128, d_kv=64, **shape))
        if not shape.get("tie_word_embeddings", True):
            # transformers ties them in a new model all the same; a checkpoint that holds both keeps them apart.
            base.lm_head.weight = nn.Parameter(torch.empty_like(base.shared.weight))
        adapted = adapt(base, recipe.adapter, len(tasks), recipe.data.max_length, "SEQ_2_SEQ_LM")
        return GenerativeModel(adapted, tasks, recipe.training.label_smoothing)


def page() -> str:
    """Return the page with the table."""
    return INTRODUCTION + "".join(map(line, configurations()))


def line(row: dict[str, str]) -> str:
    """Return a configuration's line of the table on the page."""
    trained, total = build_on_meta(load_recipe(recipes_folder() / f"{row['recipe']}.yaml")).trainable_parameters()
    cells = [f"`{row['recipe']}`"]
    if row["also_trained"] == "everything":
        cells += ["all", "all", ""]
    else:
        # An encoder or decoder without adapters is trained as a whole.
        cells += [("all" if row[side] == "none" else row[side]) for side in ("encoder", "decoder")]
        cells.append(_widths(row))
    return f"| {' | '.join([*cells, f'{trained:,}', f'{total:,}', f'{trained / total:.2%}'])} |\n"


def _widths(row: dict[str, str]) -> str:
    widths = [
        row[f"{side}_adapter_dim"] or row["adapter_dim"] for side in ("encoder", "decoder") if row[side] != "none"
    ]
    generated = any(row[side].endswith("_generated") for side in ("encoder", "decoder"))
    return " / ".join(widths) + (f", {row['bottleneck']}" if generated else "")


def main() -> None:
    write_atomically(PAGE, page())


if __name__ == "__main__":
    main()
