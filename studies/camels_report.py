"""The tables and the plots of `studies.camels`.

python -m studies.camels_report --data DATA --runs runs/camels

Every weighter reads the same streams and is asked the same questions, so that their nll is compared question by
question. A difference is tested over streams (paired t-test: would another stream show it?) and over paragraphs (paired
randomization: what was answered about a paragraph changes weighters with probability 1/2; would other paragraphs of
these articles show it?).
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_1samp

from studies.camels import (
    BASES,
    META_BASE,
    NO_SETTING,
    RATES,
    STREAMS,
    TOKENS,
    UNTUNED,
    WEIGHTERS,
    choose_setting,
    make_weighter,
    read,
    run_stream,
    stream,
    tokenizer_of,
    validated,
)
from taskloom.storage import write_atomically

RESULTS = Path(__file__).parent / "results"
SWAPS = 10_000
COLOURS = {"uniform": "#777777", "salient": "#4c72b0", "tfidf": "#55a868", "learned": "#dd8452"}
Run = dict[str, Any]


def finished(data: Path, runs: Path, base: str) -> dict[str, list[Run]]:
    """Return the runs on the test streams by weighter, "none" first, of the weighters that have read all of them."""
    found = {}
    for weighter in ("none", *WEIGHTERS):
        asked = (runs / "streams").glob(f"{base}-{weighter}-*-stream*.json")
        if len(list(asked)) == len(STREAMS):
            setting = NO_SETTING if weighter == "none" else choose_setting(data, runs, weighter)
            found[weighter] = [run_stream(data, runs, base, weighter, setting, part) for part in STREAMS]
    return found


def summary(of_weighter: list[Run], before: list[Run]) -> dict[str, Any]:
    """Return each stream's scores after it, and what it gained."""

    def gains(name: str) -> list[float]:
        return [after["scores"][name] - first["scores"][name] for after, first in zip(of_weighter, before, strict=True)]

    # An untuned model is not asked for answers.
    generated = all("f1" in run["scores"] for run in (*of_weighter, *before))
    answers = {name: [run["scores"][name] for run in of_weighter] for name in ("f1", "exact_match") if generated}
    return {
        "optimizer": of_weighter[0]["optimizer"],
        "rate": of_weighter[0]["rate"],
        "nll": [run["scores"]["nll"] for run in of_weighter],
        **answers,
        "nll gain": [-value for value in gains("nll")],
        **({"f1 gain": gains("f1")} if generated else {}),
        "unrelated nll gain": [
            b["unrelated nll"] - a["unrelated nll"] for a, b in zip(of_weighter, before, strict=True)
        ],
    }


def difference(first: list[Run], second: list[Run]) -> dict[str, Any]:
    """Return by how much the first weighter's nll after a stream is below the second's, in nats a token."""
    by_stream = [b["scores"]["nll"] - a["scores"]["nll"] for a, b in zip(first, second, strict=True)]
    sums, tokens = [], []
    for a, b in zip(first, second, strict=True):
        paragraphs: dict[int, float] = {}
        for x, y in zip(a["rows"], b["rows"], strict=True):
            paragraphs[x["paragraph"]] = paragraphs.get(x["paragraph"], 0.0) + (y["nll"] - x["nll"]) * x["tokens"]
        sums.append(np.array(list(paragraphs.values())))
        tokens.append(sum(row["tokens"] for row in a["rows"]))
    observed = statistics.mean(by_stream)
    generator = np.random.default_rng(0)
    signs = [generator.choice([-1.0, 1.0], size=(SWAPS, len(each))) for each in sums]
    swapped = np.mean([sign @ each / n for sign, each, n in zip(signs, sums, tokens, strict=True)], axis=0)
    as_large = int((np.abs(swapped) >= abs(observed) - 1e-12).sum())
    over_streams: Any = ttest_1samp(by_stream, 0.0)
    return {
        "by_stream": by_stream,
        "mean": observed,
        "p_over_streams": float(over_streams.pvalue),
        "p_over_paragraphs": (as_large + 1) / (SWAPS + 1),
    }


def draw_gains(summaries: dict[str, dict[str, Any]]) -> None:
    """Draw each weighter's gains of nll, a point a stream, for each base model."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from taskloom.report.figures import STYLE, save_figure

    with rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(summaries) + 0.6, 3.2), layout="constrained")
        grid = figure.subplots(1, len(summaries), squeeze=False)[0]
        for axes, (base, rows) in zip(grid, summaries.items(), strict=True):
            names = [name for name in WEIGHTERS if name in rows]
            for place, name in enumerate(names):
                values = rows[name]["nll gain"]
                axes.bar(place, statistics.mean(values), width=0.6, color=COLOURS[name], alpha=0.45)
                axes.scatter([place + 0.15 * (n - 1) for n in range(len(values))], values, color=COLOURS[name], s=18)
            axes.axhline(0, color="black", lw=0.8)
            axes.set_xticks(range(len(names)), names)
            axes.set_title("before tuning on questions" if base == UNTUNED else f"{base} ({BASES[base]} blocks)")
            axes.set_ylabel("nll gain (nats a token)")
        save_figure(figure, RESULTS / "camels-gains.png")


def draw_weights(data: Path, runs: Path, weighters: list[str]) -> dict[str, Any]:
    """Draw the weights of a test paragraph, one below the other; return how weights spread over all of the streams."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    from taskloom.report.figures import STYLE
    from taskloom.report.token_weights import TokenWeights, token_weights_png

    tokenizer = tokenizer_of(runs)
    texts = [document.text for part in STREAMS for document in stream(data, runs, part).documents]
    shown = texts[1]
    images, all_values = [], {}
    found: dict[str, Any] = {}
    for name in weighters:
        weighter = make_weighter(data, runs, name)
        rows = []
        for text in texts:
            ids = torch.tensor([tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"]])
            with torch.no_grad():
                rows.append(weighter(ids, torch.ones_like(ids))[0, 1:].numpy())
        values = all_values[name] = np.concatenate(rows)
        found[name] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "share of zeros": float((values <= 1e-6).mean()),
            "deciles": [float(each) for each in np.quantile(values, np.linspace(0, 1, 11))],
        }
        ids = tokenizer(shown, truncation=True, max_length=TOKENS)["input_ids"]
        with torch.no_grad():
            weights = weighter(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0].tolist()
        path = runs / f"weights-{name}.png"
        token_weights_png(TokenWeights.from_ids(name, ids, weights, tokenizer), path)
        images.append(imread(path))
    if {"salient", "learned"} <= found.keys():
        named = all_values["salient"] > 0
        found["learned"] |= {
            "mean on named entities": float(all_values["learned"][named].mean()),
            "mean elsewhere": float(all_values["learned"][~named].mean()),
        }
    with rc_context(STYLE):
        heights = [image.shape[0] / 150 for image in images]
        figure = Figure(figsize=(images[0].shape[1] / 150, sum(heights)), facecolor="white")
        top = 1.0
        for image, height in zip(images, heights, strict=True):
            share = height / sum(heights)
            axes = figure.add_axes((0, top - share, 1, share))
            axes.imshow(image)
            axes.axis("off")
            top -= share
        figure.savefig(RESULTS / "camels-weights.png", dpi=150)
    return found


def report(data: Path, runs: Path) -> None:
    """Write results and plots to `studies/results` and print the tables."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    found = {base: runs_of for base in (*BASES, UNTUNED) if "none" in (runs_of := finished(data, runs, base))}
    result: dict[str, Any] = {"tuning": {base: read(runs / f"{base}.json") for base in found if base in BASES}}
    for name in ("inner", "meta"):
        result[name] = read(runs / f"{name}.json") if (runs / f"{name}.json").exists() else None
    summaries: dict[str, dict[str, Any]] = {}
    for base, of_weighter in found.items():
        before = of_weighter["none"]
        summaries[base] = {name: summary(each, before) for name, each in of_weighter.items()}
        adapted = [name for name in of_weighter if name != "none"]
        pairs = [("learned", name) for name in adapted if name != "learned"] if "learned" in adapted else []
        pairs += [(name, "uniform") for name in adapted if name not in ("uniform", "learned")]
        result[base] = {
            "streams": summaries[base],
            "differences": {f"{a} - {b}": difference(of_weighter[a], of_weighter[b]) for a, b in pairs},
            "against none": {name: difference(of_weighter[name], before) for name in adapted},
        }
        print_tables(base, summaries[base], result[base])
    validation = {"none": run_stream(data, runs, META_BASE, "none", NO_SETTING, "validation")["scores"]["nll"]}
    for name in found[META_BASE].keys() - {"none"}:
        for optimizer in RATES:
            for (_, rate), nll in validated(data, runs, META_BASE, name, optimizer).items():
                validation[f"{name}, {optimizer} {rate:g}"] = nll
    result["validation nll"] = dict(sorted(validation.items()))
    weighters = [name for name in WEIGHTERS if name in next(iter(found.values())) and name != "uniform"]
    result["weights"] = draw_weights(data, runs, weighters)
    draw_gains(summaries)
    write_atomically(RESULTS / "camels.json", json.dumps(result, indent=1))


def print_tables(base: str, rows: dict[str, Any], found: dict[str, Any]) -> None:
    print(f"\n{base}\n")
    print("| weights | rate | nll by stream | nll gain | F1 | F1 gain | exact match | gain on unrelated questions |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        by_stream = ", ".join(f"{value:.3f}" for value in row["nll"])
        cells = [cell(row.get(key)) for key in ("nll gain", "f1", "f1 gain", "exact_match", "unrelated nll gain")]
        setting = f"{row['optimizer']} {row['rate']:g}" if row["rate"] else ""
        print(f"| {name} | {setting} | {by_stream} | {' | '.join(cells)} |")
    print("\n| lower nll | by stream | mean | p over streams | p over paragraphs |\n| --- | --- | --- | --- | --- |")
    differences = found["differences"] | {f"{name} - none": each for name, each in found["against none"].items()}
    for pair, each in differences.items():
        by_stream = ", ".join(f"{value:+.3f}" for value in each["by_stream"])
        p_values = f"{each['p_over_streams']:.2f} | {each['p_over_paragraphs']:.4f}"
        print(f"| {pair} | {by_stream} | {each['mean']:+.3f} | {p_values} |")


def cell(values: list[float] | None) -> str:
    return "" if values is None else f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/camels"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report(arguments.data, arguments.runs)


if __name__ == "__main__":
    main()
