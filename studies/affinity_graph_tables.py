"""The tables of `studies.affinity_graph` as Markdown."""

import math
import statistics

HOW = {
    "scratch": "trained from scratch with Adam",
    "tuned": "trained on from the base model with Adam",
    "descent": "30 steps of plain gradient descent from the base model",
}
COLUMNS = {
    "error": "rel. error of subset mean",
    "entry_error": "rel. error per task",
    "pearson": "Pearson, subsets",
    "spearman": "Spearman, subsets",
    "within_pearson": "Pearson within tasks",
    "within_spearman": "Spearman within tasks",
    "sized_pearson": "Pearson within tasks, size removed",
}


def section(results: dict) -> str:
    """All tables, one part a setting."""
    parts = []
    for name, result in results.items():
        parts.append(f"### Setting `{name}`: {result['title']}\n")
        for how, metrics in result["agreement"].items():
            for metric, rows in metrics.items():
                parts.append(agreement_table(HOW[how], metric, rows, result["seeds"][how]))
        parts += [
            cost_table(result["costs"], result["seeds"]["scratch"]),
            group_table(result["groups"], result["seeds"]["scratch"]),
        ]
    return "\n".join(parts)


def agreement_table(how: str, metric: str, rows: dict, seeds: int) -> str:
    runs = f"mean of {seeds} seeds" if seeds > 1 else "nothing random"
    names = {"f1": "F1", "loss": "loss (nats)"}
    lines = [
        (
            f"**Estimated against truly trained {names[metric]}** (truth: {how}, {runs}, on average "
            f"{rows['true value']:.3f}):\n"
        ),
        "| | C | " + " | ".join(COLUMNS.values()) + " |",
        "| --- | ---: |" + " ---: |" * len(COLUMNS),
    ]
    for way, row in rows.items():
        if way == "true value":
            continue
        strength = "" if row["C"] is None or way.startswith("base") else f"{row['C']:g}"
        cells = [cell(key, row["mean"][key], row["sd"].get(key, 0.0)) for key in COLUMNS]
        lines.append(f"| {way} | {strength} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def cell(key: str, mean: float, sd: float) -> str:
    if math.isnan(mean):
        return "–"
    if key.endswith("error"):
        return f"{100 * mean:.1f}%" + (f" ± {100 * sd:.1f}" if sd else "")
    return f"{mean:.2f}" + (f" ± {sd:.2f}" if sd else "")


def cost_table(costs: dict, seeds: int) -> str:
    truth = costs["true trainings, one seed"]
    estimate = costs["collecting"] + costs["surrogate"]
    whole = estimate + costs["base training"]
    return "\n".join(
        [
            "**Cost**, CPU seconds on one core:\n",
            (
                f"| {costs['subsets']} true trainings, one seed | base training | collecting | all estimates | "
                "ratio with base training | without |"
            ),
            "| ---: | ---: | ---: | ---: | ---: | ---: |",
            (
                f"| {truth:.1f} | {costs['base training']:.2f} | {costs['collecting']:.2f} | {costs['surrogate']:.2f} "
                f"| "
                f"1 : {truth / whole:.1f} ({100 * whole / truth:.1f}%) | "
                f"1 : {truth / estimate:.1f} ({100 * estimate / truth:.1f}%) |"
            ),
            f"\nAgainst all {seeds} seeds of the truth, the ratios are {seeds} times as large.\n",
        ]
    )


def group_table(groups: dict, seeds: int) -> str:
    lines = [
        (
            f"**One model a group**, means over tasks on the test nodes (± standard deviation over {seeds} seeds; "
            "for random groups over draws, each the mean of the seeds):\n"
        ),
        "| groups | sizes | F1 | loss |",
        "| --- | --- | ---: | ---: |",
    ]
    for name, row in groups.items():
        sizes = f"{len(row['sizes'])} × 1" if max(row["sizes"]) == 1 else ", ".join(map(str, row["sizes"]))
        scores = [
            f"{statistics.mean(row[metric]):.3f} ± {statistics.stdev(row[metric]):.3f}" for metric in ("f1", "loss")
        ]
        lines.append(f"| {name} | {sizes} | {' | '.join(scores)} |")
    return "\n".join([*lines, ""])
