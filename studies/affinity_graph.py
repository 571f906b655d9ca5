"""Does the estimate of task affinity hold on a real graph? Grad-TAG on the departments of email-Eu-core.

    python -m studies.affinity_graph train GRAPHS --out runs/affinity-graph     # true trainings; resumable
    python -m studies.affinity_graph report GRAPHS --out runs/affinity-graph    # estimates, tables, figures as JSON

GRAPHS is the folder that holds ``email_eu_core``. A task is a department: is this person a member? Every finished
training is one line of ``trainings.jsonl``, so an interrupted study goes on where it stopped. `report` takes the base
model's gradients, estimates all subsets, trains the groups that the estimates give, and writes ``results.json`` and
``section.md``; it trains what it needs and finds missing.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from taskloom.graphs import (
    SIGN,
    NodeTasks,
    SIGNSettings,
    load_snap,
    propagate,
    score_sign,
    spectral_features,
    split_communities,
    train_sign,
)

GRAPH = "email_eu_core"


@dataclass(frozen=True)
class Setting:
    """One configuration of the study: the tasks' examples, the model, and how many subsets are truly trained."""

    title: str
    train: float
    validation: float
    negatives: float | None
    model: SIGNSettings
    subsets: int
    seeds: int
    tuned: SIGNSettings | None = None
    sizes: tuple[int, int] = (2, 6)
    tasks: int = 20
    features: int = 64
    calibration: int = 10
    groups: int = 5
    random_draws: int = 10
    many_dimensions: int | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """How the truth is trained: from scratch, as the published experiments do, or on from the base model."""
        return ("scratch", "tuned", "descent") if self.tuned else ("scratch",)

    def seeds_of(self, how: str) -> int:
        """Descent has nothing random."""
        return 1 if how == "descent" else self.seeds


SETTINGS = {
    "scarce": Setting(
        title="scarce data: 10% of the nodes for training, 10 negatives a positive, 32 hidden, 30 epochs",
        train=0.1,
        validation=0.4,
        negatives=10,
        model=SIGNSettings(hidden=32, epochs=30),
        tuned=SIGNSettings(hidden=32, epochs=20, lr=0.003),
        subsets=100,
        seeds=6,
        many_dimensions=800,
    ),
    "wide": Setting(
        title="the published split and model, cut short: 20/20/60, 256 hidden, 5 negatives a positive, 30 epochs",
        train=0.2,
        validation=0.2,
        negatives=5,
        model=SIGNSettings(epochs=30),
        subsets=60,
        seeds=3,
        random_draws=5,
    ),
}


def load(setting: Setting, graphs: Path) -> NodeTasks:
    """The largest departments with their examples; the inputs are hops of spectral features."""
    graph = load_snap(graphs / GRAPH).largest(setting.tasks)
    hops = propagate(graph, spectral_features(graph, setting.features))
    return split_communities(
        graph, hops, train=setting.train, validation=setting.validation, negatives=setting.negatives
    )


def draw_subsets(setting: Setting, names: Sequence[str]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Random distinct subsets, the sizes uniform: those that C is chosen on, and those that are reported."""
    rng = random.Random(0)
    drawn: dict[tuple[str, ...], None] = {}
    while len(drawn) < setting.calibration + setting.subsets:
        chosen = set(rng.sample(list(names), rng.randint(*setting.sizes)))
        drawn[tuple(name for name in names if name in chosen)] = None
    subsets = list(drawn)
    return subsets[: setting.calibration], subsets[setting.calibration :]


def descend(base: SIGN, data: NodeTasks, tasks: Sequence[str], steps: int = 30, lr: float = 0.1) -> SIGN:
    """Plain gradient descent from the base model, without dropout, on the sum of the examples' losses.

    This is the training that a first-order expansion is about: no preconditioning, no noise, a short way. The sum is
    divided by the mean number of examples a task, so that `lr` means the same for subsets of all sizes.
    """
    model = deepcopy(base)
    columns = data.columns(tasks)
    mask = data.masks["train"][:, columns]
    x, labels = data.inputs, data.labels[:, columns].float()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        losses = F.binary_cross_entropy_with_logits(model(x)[:, columns], labels, reduction="none")
        loss = losses[mask].sum() * len(columns) / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


class Trainings:
    """Truly trained models' scores, kept as JSON lines: each (how, tasks, seed) is trained at most once."""

    def __init__(self, setting: Setting, data: NodeTasks, folder: Path) -> None:
        self.setting, self.data, self.file = setting, data, folder / "trainings.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._base: SIGN | None = None
        self._done: dict[tuple, dict] = {}
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                self._done[self._key(record["how"], record["tasks"], record["seed"])] = record

    @staticmethod
    def _key(how: str, tasks: Sequence[str], seed: int) -> tuple:
        return how, frozenset(tasks), seed

    @property
    def base(self) -> SIGN:
        """The model of all tasks that gradients are taken at."""
        if self._base is None:
            self._base = train_sign(self.data, self.data.names, self.setting.model, seed=0)
        return self._base

    def get(self, how: str, tasks: Sequence[str], seed: int) -> dict:
        """The record of a training: from "scratch"; "tuned" from the base model with Adam; or its plain "descent"."""
        key = self._key(how, tasks, seed)
        if key not in self._done:
            start = None if how == "scratch" else self.base
            settings = self.setting.tuned if how == "tuned" else self.setting.model
            begun = time.perf_counter()
            if how == "descent":
                model = descend(self.base, self.data, tasks)
            else:
                model = train_sign(self.data, tasks, settings, seed=seed, start=start)
            seconds = time.perf_counter() - begun
            record = {"how": how, "tasks": list(tasks), "seed": seed, "seconds": round(seconds, 4)}
            for part in ("validation", "test"):
                scores = score_sign(model, self.data, self.data.names if start else tasks, part)
                record[part] = {task: {key: round(scores[task][key], 5) for key in ("f1", "loss")} for task in tasks}
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            self._done[key] = record
        return self._done[key]


def train(setting: Setting, trainings: Trainings, title: str) -> None:
    """Train every subset with every seed, and the models that groups are compared with."""
    names = trainings.data.names
    calibration, reported = draw_subsets(setting, names)
    for seed in range(setting.seeds):
        for how in setting.ways:
            for subset in [*calibration, *reported]:
                trainings.get(how, subset, min(seed, setting.seeds_of(how) - 1))
        trainings.get("scratch", names, seed)
        for name in names:
            trainings.get("scratch", [name], seed)
        print(f"{title}: seed {seed} of {setting.seeds} done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["train", "report"])
    parser.add_argument("graphs", type=Path, help=f"the folder that holds {GRAPH}")
    parser.add_argument("--out", type=Path, required=True, help="where trainings and results go")
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: SETTINGS[name] for name in arguments.settings}
    trainings = {
        name: Trainings(setting, load(setting, arguments.graphs), arguments.out / name)
        for name, setting in settings.items()
    }
    if arguments.step == "train":
        for name, setting in settings.items():
            train(setting, trainings[name], name)
    else:
        from studies.affinity_graph_report import report

        report(settings, trainings, arguments.out)


if __name__ == "__main__":
    main()
