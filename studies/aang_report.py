"""The tables and the plot of `studies.aang`.

python -m studies.aang_report --data DATA --runs runs/aang

A difference between two arms is tested twice: over seeds (paired t-test), which says whether other seeds would show
it, and over the test sentences (paired randomization: each sentence's predictions, of all seeds, change arms with
probability 1/2), which says whether other sentences would.
"""

import argparse
import csv
import json
import statistics
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp
from sklearn.metrics import accuracy_score, f1_score

from studies.aang import ARMS, LABELS, run_folder
from taskloom.auxiliary.history import HISTORY_FILE, WeightHistory, read_weight_history
from taskloom.auxiliary.ranking import RANKING_FILE
from taskloom.report.objectives import objective_curves, stage_curves
from taskloom.storage import write_atomically

RESULTS = Path(__file__).parent / "results"
PLOTTED = "learned"
SWAPS = 10_000


def rows_of(data: Path, split: str) -> list[dict[str, str]]:
    path = data / "textclf" / "citation_intent" / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def finished(runs: Path, arm: str) -> dict[int, Path]:
    """Return the finished runs of an arm by seed."""
    prefix = run_folder(runs, arm, 0).name.removesuffix("0")
    folders = {int(path.name.removeprefix(prefix)): path for path in runs.glob(f"{prefix}[0-9]*")}
    return {seed: path for seed, path in sorted(folders.items()) if (path / "finished.json").exists()}


def predictions(run: Path) -> np.ndarray:
    """Return the predicted class index of each test sentence."""
    with (run / "predictions" / "citation_intent-test.tsv").open(encoding="utf-8", newline="") as file:
        return np.array([LABELS.index(row["prediction"]) for row in csv.DictReader(file, delimiter="\t")])


def macro_f1(found: np.ndarray, gold: np.ndarray) -> float:
    """Return the mean F1 of the classes, the same as in the runs."""
    return float(f1_score(gold, found, average="macro", zero_division=0.0))  # pyright: ignore[reportArgumentType]


def scores(run: Path, found: np.ndarray, gold: np.ndarray, new: np.ndarray) -> dict[str, float]:
    """Return a run's scores on dev, test, and the test sentences that are not in train."""
    dev = json.loads((run / "scores.json").read_text("utf-8"))["dev"]["citation_intent"]
    return {
        "dev macro_f1": dev["macro_f1"],
        "dev accuracy": dev["accuracy"],
        "test macro_f1": macro_f1(found, gold),
        "test accuracy": float(accuracy_score(gold, found)),
        "new test macro_f1": macro_f1(found[new], gold[new]),
        "new test accuracy": float(accuracy_score(gold[new], found[new])),
    }


def difference(first: dict[int, np.ndarray], second: dict[int, np.ndarray], gold: np.ndarray) -> dict[str, Any]:
    """Compare two arms' test macro-F1 over their common seeds."""
    seeds = sorted(first.keys() & second.keys())
    a, b = (np.stack([arm[seed] for seed in seeds]) for arm in (first, second))
    by_seed = [macro_f1(x, gold) - macro_f1(y, gold) for x, y in zip(a, b, strict=True)]
    observed = statistics.mean(by_seed)
    generator = np.random.default_rng(0)
    as_large = 0
    for _ in range(SWAPS):
        swap = generator.random(len(gold)) < 0.5
        x, y = np.where(swap, b, a), np.where(swap, a, b)
        mean = sum(fast_macro_f1(p, gold) - fast_macro_f1(q, gold) for p, q in zip(x, y, strict=True)) / len(seeds)
        as_large += abs(mean) >= abs(observed) - 1e-12
    over_seeds: Any = ttest_1samp(by_seed, 0.0)  # the paired test is that of the differences
    return {
        "seeds": seeds,
        "by_seed": by_seed,
        "mean": observed,
        "p_over_seeds": float(over_seeds.pvalue),
        "p_over_sentences": (as_large + 1) / (SWAPS + 1),
    }


def fast_macro_f1(found: np.ndarray, gold: np.ndarray) -> float:
    """Return the same as `macro_f1`, a hundred times as fast, if every class is in `gold`."""
    right = np.bincount(gold[found == gold], minlength=len(LABELS))
    total = np.bincount(found, minlength=len(LABELS)) + np.bincount(gold, minlength=len(LABELS))
    return float(np.mean(2 * right / total))


def mean_history(histories: list[WeightHistory]) -> WeightHistory:
    """Average the weights over runs."""

    def mean(values: list[np.ndarray]) -> np.ndarray:
        return np.mean(values, axis=0)

    first = histories[0]
    return replace(
        first,
        primary=mean([each.primary for each in histories]),
        auxiliary=mean([each.auxiliary for each in histories]),
        stages={
            stage: {value: mean([each.stages[stage][value] for each in histories]) for value in values}
            for stage, values in first.stages.items()
        },
        objectives={name: mean([each.objectives[name] for each in histories]) for name in first.objectives},
    )


def final_weights(runs: dict[int, Path]) -> dict[str, Any]:
    """Return the last weights, by seed, and the objectives' mean cosines."""
    found: dict[str, Any] = {}
    for seed, run in runs.items():
        history = read_weight_history(run / HISTORY_FILE)
        with (run / RANKING_FILE).open(encoding="utf-8", newline="") as file:
            ranking = [{name: row[name] for name in ("objective", "weight", "cosine")} for row in csv.DictReader(file)]
        found[str(seed)] = {
            "balance": [float(history.primary[-1]), float(history.auxiliary[-1])],
            "stages": {s: {v: float(w[-1]) for v, w in values.items()} for s, values in history.stages.items()},
            "ranking": ranking,
        }
    return found


def report(data: Path, runs: Path) -> None:
    """Write results and plot to `studies/results` and print the tables."""
    test, trained = rows_of(data, "test"), {row["text"] for row in rows_of(data, "train")}
    gold = np.array([LABELS.index(row["label"]) for row in test])
    new = np.array([row["text"] not in trained for row in test])
    folders = {arm: found for arm in ARMS if (found := finished(runs, arm))}
    found = {arm: {seed: predictions(run) for seed, run in by_seed.items()} for arm, by_seed in folders.items()}
    table = {
        arm: {seed: scores(run, found[arm][seed], gold, new) for seed, run in by_seed.items()}
        for arm, by_seed in folders.items()
    }
    differences = {
        f"{second} - {first}": difference(found[second], found[first], gold) for first, second in combinations(found, 2)
    }
    result = {
        "test": {"sentences": len(gold), "not in train": int(new.sum())},
        "scores": table,
        "differences of test macro_f1": differences,
        "weights": {arm: final_weights(folders[arm]) for arm in (PLOTTED, "tapt") if arm in folders},
        "predictions": {arm: {s: p.tolist() for s, p in by_seed.items()} for arm, by_seed in found.items()},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / "aang.json", json.dumps(result, indent=1))
    if PLOTTED in folders:
        history = mean_history([read_weight_history(run / HISTORY_FILE) for run in folders[PLOTTED].values()])
        stage_curves(history, RESULTS / "aang-stages.png")
        objective_curves(history, RESULTS / "aang-objectives.png")

    names = list(next(iter(next(iter(table.values())).values())))
    print(f"| arm | seeds | {' | '.join(names)} |")
    for arm, by_seed in table.items():
        cells = [cell([each[name] for each in by_seed.values()]) for name in names]
        print(f"| {arm} | {len(by_seed)} | {' | '.join(cells)} |")
    print("| difference of test macro-F1 | by seed | mean | p over seeds | p over sentences |")
    for pair, each in differences.items():
        by_seed = ", ".join(f"{value:+.3f}" for value in each["by_seed"])
        p_values = f"{each['p_over_seeds']:.2f} | {each['p_over_sentences']:.2f}"
        print(f"| {pair} | {by_seed} | {each['mean']:+.3f} | {p_values} |")


def cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/aang"))
    arguments = parser.parse_args()
    report(arguments.data, arguments.runs)


if __name__ == "__main__":
    main()
