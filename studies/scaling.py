"""Task affinity at 1,000 tasks: seconds and memory of every stage against the number of tasks.

    python -m studies.scaling [--quick] [--tasks 50 100 200 500 1000] [--folder WORK] [--output studies/results]

Generated tasks: 16 tokens, of which three quarters are from the four tokens of the task's family, and a class that
depends on which of the family's tokens there are. The tasks of a family share most of that dependence. The base model
is a BERT of 2 layers, 32 wide, with random weights; its real gradients are collected by `collect_gradients`, 400
training and 100 validation examples a task, 200 dimensions. 10 random subsets a task of 30 tasks each are estimated,
and the tasks clustered by the affinities.

Every stage is a process of its own on one thread, so that its peak memory is its own (a bare process that has imported
everything: the row "import"); what it needs from the one before it is read from files, which counts. A stage that is in
scaling.json already is not measured again; with --folder the stores stay.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter
from safetensors.torch import load_file, save_file
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification

from taskloom.affinity import (
    AffinityMatrix,
    Estimates,
    GradientStore,
    SubsetSurrogate,
    cluster_tasks,
    collect_gradients,
    random_subsets,
    signed_logit,
)
from taskloom.affinity.estimate import affinity_from
from taskloom.affinity.folder import write_affinity
from taskloom.gradients import Projection
from taskloom.recipe import load_recipe
from taskloom.report import affinity_heatmap
from taskloom.report.figures import STYLE, save_figure
from taskloom.storage import write_atomically

SIZES, QUICK_SIZES = (50, 100, 200, 500, 1000), (20, 40)
TRAIN, VALIDATION, DIMENSIONS = 400, 100, 200
SUBSETS_A_TASK, SUBSET_SIZE = 10, 30
FAMILIES, FAMILY_TOKENS, COMMON_TOKENS, LENGTH = 20, 4, 4, 16
STAGES = ("import", "collect", "read", "estimate", "affinity", "cluster", "plot", "write")
TITLES = {
    "collect": "collect and store the gradients",
    "read": "read and check the store",
    "estimate": "estimate all subsets",
    "affinity": "affinity matrix",
    "cluster": "cluster (k found, SDP)",
    "plot": "heatmap",
    "write": "write tables (CSV, JSON) and heatmap",
}


def names(tasks: int) -> list[str]:
    return [f"task-{number:04d}" for number in range(tasks)]


def families(tasks: int) -> np.ndarray:
    """Return each task's family: 20, or as many as give five tasks each."""
    return np.arange(tasks) % max(2, min(FAMILIES, tasks // 5))


def examples(task: int, family: int, split: int, size: int) -> TensorDataset:
    """Return the examples of one split of a task: tokens, and a class of which there are equally many of each."""
    vocabulary = COMMON_TOKENS + FAMILIES * FAMILY_TOKENS
    shared = torch.randn(FAMILIES, vocabulary, generator=torch.Generator().manual_seed(0))[family]
    scores = shared + 0.3 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(10**6 + task))
    scores[:COMMON_TOKENS] *= 0.2
    generator = torch.Generator().manual_seed(2 * task + split)
    own = COMMON_TOKENS + FAMILY_TOKENS * family + torch.randint(FAMILY_TOKENS, (size, LENGTH), generator=generator)
    common = torch.randint(COMMON_TOKENS, (size, LENGTH), generator=generator)
    tokens = torch.where(torch.rand(size, LENGTH, generator=generator) < 0.75, own, common)
    noisy = scores[tokens].sum(1) + 0.2 * LENGTH**0.5 * torch.randn(size, generator=generator)
    return TensorDataset(tokens, (noisy > noisy.median()).long())


def base_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=COMMON_TOKENS + FAMILIES * FAMILY_TOKENS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        num_labels=1,
        initializer_range=0.2,
    )
    return BertForSequenceClassification(config)


def margins(outputs: Any, batch: Any) -> Tensor:
    return signed_logit(outputs["logits"][:, 0], batch[1])


def collect(folder: Path, tasks: int) -> dict[str, Any]:
    family = families(tasks)
    splits = [
        {
            name: DataLoader(examples(task, int(family[task]), split, size), batch_size=100)
            for task, name in enumerate(names(tasks))
        }
        for split, size in enumerate((TRAIN, VALIDATION))
    ]
    collect_gradients(
        base_model(),
        splits[0],
        margins,
        folder=folder / "gradients",
        validation=splits[1],
        projection=Projection(DIMENSIONS),
        forward=lambda model, batch: model(input_ids=batch[0]),
    )
    stored = sum(file.stat().st_size for file in (folder / "gradients").rglob("*") if file.is_file())
    return {"examples": tasks * (TRAIN + VALIDATION), "bytes": stored}


def read(folder: Path, tasks: int) -> dict[str, Any]:
    store = GradientStore.open(folder / "gradients")
    rows = sum(len(store.train(task)) + len(store.validation(task)) for task in store.tasks)
    assert rows == tasks * (TRAIN + VALIDATION)
    return {}


def estimate(folder: Path, tasks: int) -> dict[str, Any]:
    surrogate = SubsetSurrogate(GradientStore.open(folder / "gradients"))
    subsets = random_subsets(surrogate.tasks, min(SUBSET_SIZE, tasks // 2), SUBSETS_A_TASK * tasks)
    found = surrogate.estimate(subsets, scope="members")
    place = {task: number for number, task in enumerate(found.tasks)}
    members = torch.tensor([[place[task] for task in subset] for subset in subsets])
    save_file({"values": found.values, "stderr": found.stderr, "members": members}, folder / "estimates.safetensors")
    return {"subsets": len(subsets), "estimates": int(found.values.isfinite().sum())}


def stored_estimates(folder: Path, tasks: int) -> Estimates:
    stored, named = load_file(folder / "estimates.safetensors"), names(tasks)
    subsets = tuple(tuple(named[task] for task in subset) for subset in stored["members"].tolist())
    return Estimates(tuple(named), subsets, stored["values"], stored["stderr"], None, "loss")


FIELDS = ("values", "stderr", "gain", "gain_stderr", "counts")


def affinity(folder: Path, tasks: int) -> dict[str, Any]:
    found = affinity_from(stored_estimates(folder, tasks))
    save_file({field: getattr(found, field).contiguous() for field in FIELDS}, folder / "affinity.safetensors")
    return {"fewest_subsets_a_pair": int(found.counts.min())}


def stored_affinity(folder: Path, tasks: int) -> AffinityMatrix:
    return AffinityMatrix(tuple(names(tasks)), **load_file(folder / "affinity.safetensors"), metric="loss")


def cluster(folder: Path, tasks: int) -> dict[str, Any]:
    found = cluster_tasks(stored_affinity(folder, tasks).symmetric("standardize"), "auto")
    write_atomically(folder / "clusters.json", json.dumps(found))
    labels = np.empty(tasks, dtype=int)
    for number, members in enumerate(found):
        labels[members] = number
    planted = families(tasks)
    return {
        "families": len(set(planted.tolist())),
        "clusters": len(found),
        "adjusted_rand": float(adjusted_rand_score(planted, labels)),
    }


def plot(folder: Path, tasks: int) -> dict[str, Any]:
    clusters = json.loads((folder / "clusters.json").read_text())
    affinity_heatmap(stored_affinity(folder, tasks), folder / "heatmap.png", alone=False, clusters=clusters)
    return {}


def write(folder: Path, tasks: int) -> dict[str, Any]:
    recipe = load_recipe(
        "affinity/rte-templates-minilm", ["affinity.order=higher", f"affinity.subset_size={SUBSET_SIZE}", "data.dir=."]
    )
    write_affinity(folder / "run", recipe, stored_estimates(folder, tasks), stored_affinity(folder, tasks), {})
    return {"bytes": sum(file.stat().st_size for file in (folder / "run").iterdir())}


def nothing(_folder: Path, _tasks: int) -> dict[str, Any]:
    return {}


RUN: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "import": nothing,
    "collect": collect,
    "read": read,
    "estimate": estimate,
    "affinity": affinity,
    "cluster": cluster,
    "plot": plot,
    "write": write,
}


def measure(stage: str, folder: Path, tasks: int) -> dict[str, Any]:
    """Run one stage in this process, and return what it took."""
    torch.set_num_threads(1)
    wall, processor = time.perf_counter(), time.process_time()
    found = RUN[stage](folder, tasks)
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return {
        "stage": stage,
        "tasks": tasks,
        "processor_seconds": round(time.process_time() - processor, 3),
        "seconds": round(time.perf_counter() - wall, 3),
        "peak_bytes": peak,
        **found,
    }


def exponents(rows: Sequence[dict[str, Any]], quantity: str) -> dict[str, float]:
    """Return each stage's growth between its two largest numbers of tasks: the power of the number of tasks."""
    found = {}
    for stage in STAGES[1:]:
        last = sorted((row["tasks"], row[quantity]) for row in rows if row["stage"] == stage)[-2:]
        if len(last) == 2 and min(value for _, value in last) > 0:
            (few, less), (many, more) = last
            found[stage] = round(float(np.log(more / less) / np.log(many / few)), 2)
    return found


def draw(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """Draw processor seconds and peak memory of every stage against the number of tasks, on logarithmic axes."""
    import matplotlib

    growth = exponents(rows, "processor_seconds")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        panels = figure.subplots(1, 2)
        for number, stage in enumerate(STAGES[1:]):
            chosen = sorted((row for row in rows if row["stage"] == stage), key=lambda row: row["tasks"])
            tasks = [row["tasks"] for row in chosen]
            label = f"{TITLES[stage]}: n^{growth[stage]:.1f}" if stage in growth else TITLES[stage]
            for axes, values in (
                (panels[0], [row["processor_seconds"] for row in chosen]),
                (panels[1], [row["peak_bytes"] / 1e9 for row in chosen]),
            ):
                axes.plot(tasks, values, marker="os^Dv<>"[number], markersize=4, linewidth=1.4, label=label)
        bare = max((row["peak_bytes"] / 1e9 for row in rows if row["stage"] == "import"), default=0)
        panels[1].axhline(bare, color="#888888", linewidth=0.8, linestyle=":")
        panels[1].text(min(row["tasks"] for row in rows), bare, "a bare process", va="top", fontsize=7, color="#555555")
        for axes, title in zip(
            panels, ("processor seconds, one thread", "peak memory of the process (GB)"), strict=True
        ):
            axes.set(xscale="log", yscale="log", xlabel="tasks", title=title)
            axes.set_xticks(sorted({row["tasks"] for row in rows}))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.minorticks_off()
        panels[1].yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=7,
            title="growth between the two largest numbers of tasks",
            title_fontsize=7,
        )
        save_figure(figure, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 and 40 tasks: within two minutes")
    parser.add_argument("--tasks", type=int, nargs="+", help="the numbers of tasks")
    parser.add_argument("--folder", type=Path, help="where stores are made; a temporary folder by default")
    parser.add_argument("--output", type=Path, default=Path("studies/results"), help="where scaling.json and .png go")
    arguments = parser.parse_args()
    results = arguments.output / "scaling.json"
    rows: list[dict[str, Any]] = json.loads(results.read_text())["rows"] if results.is_file() else []
    for tasks in arguments.tasks or (QUICK_SIZES if arguments.quick else SIZES):
        with tempfile.TemporaryDirectory(prefix="taskloom-scaling-") as temporary:
            folder = (arguments.folder or Path(temporary)) / str(tasks)
            folder.mkdir(parents=True, exist_ok=True)
            for stage in STAGES:
                if any(row["stage"] == stage and row["tasks"] == tasks for row in rows):
                    continue
                # Forked, so that nothing is imported again.
                with multiprocessing.get_context("fork").Pool(1) as pool:
                    rows.append(pool.apply(measure, (stage, folder, tasks)))
                print(json.dumps(rows[-1]), flush=True)
                growth = {name: exponents(rows, name) for name in ("processor_seconds", "peak_bytes")}
                lines = ",\n  ".join(json.dumps(row) for row in rows)
                text = f'{{\n "growth": {json.dumps(growth)},\n "rows": [\n  {lines}\n ]\n}}\n'
                write_atomically(results, text)
    draw(rows, arguments.output / "scaling.png")


if __name__ == "__main__":
    main()
