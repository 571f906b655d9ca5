"""The tables and the plot of `studies.hyperdecoders`.

python -m studies.hyperdecoders_report --data DATA --runs runs/hyperdecoders
"""

import argparse
import json
import statistics
from collections import Counter
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor

from studies.hyperdecoders import (
    METHODS,
    PLOTTED,
    REPORTING,
    Examples,
    adapted_model,
    best_rate,
    load_suite,
    read,
    upper_layers,
)
from taskloom.adapters.hyperdecoder.modules import Generator
from taskloom.report.figures import STYLE, save_figure
from taskloom.storage import write_atomically
from taskloom.tasks import TaskSuite

RESULTS = Path(__file__).parent / "results"


def report(data: Path, runs: Path) -> None:
    """Write the tables and the plot to `studies/results`."""
    suite, trainings = load_suite(data), read(runs)
    examples = Examples(runs, suite, "dev")
    answers = [torch.tensor([int(examples.items[i]["labels"][0]) for i in indices]) for indices in examples.of_task]
    majority = [max(Counter(each[REPORTING].tolist()).values()) / len(each[REPORTING]) for each in answers]
    rows = {"majority answer": [majority]}
    for method in METHODS:
        rate = best_rate(trainings, method)
        chosen = [each for each in trainings if (each["method"], each["rate"]) == (method, rate)]
        rows[method] = [[statistics.mean(task[REPORTING]) for task in each["right"].values()] for each in chosen]
    result = {
        "tasks": suite.names,
        "accuracy": rows,
        "rates": {method: best_rate(trainings, method) for method in METHODS},
        "parameters": {each["method"]: each["parameters"] for each in trainings},
        "loss": {f"{each['method']} {each['rate']:g} {each['seed']}": round(each["loss"], 4) for each in trainings},
        "variance": _variance(runs, suite, examples, answers, best_rate(trainings, PLOTTED)),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / "hyperdecoders.json", json.dumps(result, indent=1))
    print(f"| adapters | trained | rate | {' | '.join(suite.names)} | mean, ± over seeds |")
    for name, seeds in rows.items():
        means = [statistics.mean(seed) for seed in seeds]
        spread = f" ± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
        each = " | ".join(f"{statistics.mean(values):.3f}" for values in zip(*seeds, strict=True))
        size, rate = result["parameters"].get(name, ""), result["rates"].get(name, "")
        print(f"| {name} | {size} | {rate} | {each} | {statistics.mean(means):.3f}{spread} |")
    for name, seeds in rows.items():
        if name in METHODS and name != "shared":
            pairs = zip(seeds, rows["shared"], strict=True)
            differences = [statistics.mean(ours) - statistics.mean(theirs) for ours, theirs in pairs]
            print(f"{name} - shared: {[round(value, 3) for value in differences]}")
    print(result["variance"])


@torch.no_grad()
def _variance(
    runs: Path, suite: TaskSuite, examples: Examples, answers: list[Tensor], rate: float
) -> dict[str, dict[str, float]]:
    """Plot the generated weights, and return how much of their variance tasks explain, and answers within a task."""
    pooled = torch.stack([item["pooled"] for item in examples.items])
    task = torch.tensor([item["task"] for item in examples.items])
    answer = torch.cat([values.unique(return_inverse=True)[1] for values in answers])
    points = {"states that weights are generated from": pooled}
    model = adapted_model(upper_layers(), PLOTTED, len(suite), seed=1, layers=0)
    weights = load_file(runs / "adapters" / f"{rate:g}-1.safetensors")
    model.load_state_dict(weights, strict=False)
    [generator] = [part for part in model.modules() if isinstance(part, Generator)]
    for layer, name in ((0, "generated weights, lowest layer"), (9, "generated weights, top layer")):
        generated = generator(generator.process(pooled), layer)
        points[name] = torch.cat([generated.down.flatten(1), generated.up.flatten(1)], dim=1)
    shares = {name: {"tasks": _explained(x, task), "answers": _within(x, task, answer)} for name, x in points.items()}
    _plot(points["generated weights, top layer"], task, suite.names, shares)
    return shares


def _explained(points: Tensor, group: Tensor) -> float:
    """Return the share of the points' variance that lies between groups."""
    total = (points - points.mean(dim=0)).square().sum()
    between = sum(
        (group == g).sum() * (points[group == g].mean(dim=0) - points.mean(dim=0)).square().sum()
        for g in group.unique()
    )
    return float(between / total)


def _within(points: Tensor, task: Tensor, answer: Tensor) -> float:
    """Return the mean over tasks of the share that lies between answers, less what chance would give."""
    shares = []
    for number in task.unique():
        own = task == number
        groups = len(answer[own].unique())
        chance = (groups - 1) / (int(own.sum()) - 1)
        shares.append((_explained(points[own], answer[own]) - chance) / (1 - chance))
    return statistics.mean(shares)


def _plot(points: Tensor, task: Tensor, names: list[str], shares: dict[str, dict[str, float]]) -> None:
    centred = points - points.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    plane = vectors[:, -2:].flip(1) * values[-2:].flip(0).sqrt()
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.5))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, name in enumerate(names):
            own = plane[task == number]
            left.scatter(own[:, 0], own[:, 1], s=9, alpha=0.6, label=name, color=f"C{number}")
        left.legend(markerscale=2, fontsize="small", frameon=False)
        share = values[-2:].flip(0) / values.sum()
        left.set_xlabel(f"first component ({share[0]:.0%} of the variance)")
        left.set_ylabel(f"second component ({share[1]:.0%})")
        left.set_title("Generated adapter weights of the top layer, an example each")
        bars = torch.arange(len(shares))
        for shift, (group, label) in enumerate((("tasks", "tasks"), ("answers", "answers, within a task"))):
            right.barh(bars + 0.4 * shift, [each[group] for each in shares.values()], 0.36, label=label)
        right.set_yticks(bars + 0.2, [name.replace(", ", ",\n").replace(" that ", "\nthat ") for name in shares])
        right.invert_yaxis()
        right.set_xlabel("share of the variance that lies between")
        right.legend(frameon=False)
        figure.tight_layout()
        save_figure(figure, RESULTS / "hyperdecoders.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/hyperdecoders"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report(arguments.data, arguments.runs)


if __name__ == "__main__":
    main()
