"""The cost of task affinity: collecting gradients, estimating 1,000 subsets of tasks, and clustering 500 tasks.

    python -m benchmarks.affinity [--quick] [collect] [estimate] [cluster]

Collecting is measured by `benchmarks.gradients`, which this calls.

Estimates: 10 tasks of 500 training and 200 validation examples, 200 dimensions, random subsets of 1 to 10 tasks. Ours
is everything from the gradients to the estimate of every subset on every task; the published procedure is its
regressions alone, one scikit-learn fit a subset with scikit-learn's own tolerance and features of float32, timed on
some of the subsets and scaled to all (`measured_fits`). It has no offset, so the base model's outputs are 0 here. The
coefficients of those subsets are compared with fits to a tight tolerance. Target: at least 10 times faster.

Clusters: 20 planted blocks of 25 tasks each, and a matrix without structure, the hardest case. Targets: 300 s, 8 GB.
Times are processor time on one thread.
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.measure import interleaved_seconds, peak_memory, print_row, ratio
from benchmarks.reference.affinity import fit_subset
from taskloom.affinity import GradientTable, SubsetSurrogate, TaskGradients, cluster_tasks
from taskloom.affinity.cluster import density
from taskloom.affinity.sdp import solve_relaxation

PARTS = ["collect", "estimate", "cluster"]
NUM_TASKS, TRAIN, VALIDATION, DIMENSIONS, SUBSETS = 10, 500, 200, 200, 1000
OURS, PUBLISHED = "taskloom", "scikit-learn, a fit a subset"


def gradients(scale: float) -> GradientTable:
    """Return gradients with a decaying spectrum that predict the class as well for related tasks as for their own."""
    generator = torch.Generator().manual_seed(0)
    spectrum = scale * torch.logspace(0, -1, DIMENSIONS)
    shared = torch.randn(DIMENSIONS, generator=generator)
    splits: tuple[dict[str, TaskGradients], dict[str, TaskGradients]] = ({}, {})
    for task in range(NUM_TASKS):
        direction = shared + torch.randn(DIMENSIONS, generator=generator)
        for split, size in zip(splits, (TRAIN, VALIDATION), strict=True):
            features = torch.randn(size, DIMENSIONS, generator=generator)
            noise = torch.randn(size, generator=generator)
            labels = (features @ direction / DIMENSIONS**0.5 + noise > 0).long()
            rows = features * spectrum * (2 * labels - 1)[:, None]
            split[f"task{task}"] = TaskGradients(rows, torch.zeros(size), labels, "logistic")
    return GradientTable(*splits)


def estimate_rows(C: float, scale: float, fits: int, rounds: int) -> None:  # noqa: N803
    source = gradients(scale)
    generator = np.random.default_rng(0)
    subsets = [
        [
            source.tasks[task]
            for task in generator.choice(NUM_TASKS, generator.integers(1, NUM_TASKS + 1), replace=False)
        ]
        for _ in range(SUBSETS)
    ]
    some = list(range(0, SUBSETS, SUBSETS // fits))
    variants = {
        OURS: lambda: SubsetSurrogate(source, C).estimate(subsets),
        PUBLISHED: lambda: [fit_subset(source, subsets[number], C, tolerance=1e-4) for number in some],
    }
    seconds = interleaved_seconds(variants, rounds, warmup=1)
    found = SubsetSurrogate(source, C).fit(subsets).numpy()[some]
    exact = np.array([fit_subset(source, subsets[number], C, tolerance=1e-9) for number in some])
    print_row(
        benchmark="estimate",
        subsets=SUBSETS,
        tasks=NUM_TASKS,
        dimensions=DIMENSIONS,
        C=C,
        gradient_scale=scale,
        seconds=statistics.median(seconds[OURS]),
        published_seconds=statistics.median(seconds[PUBLISHED]) * SUBSETS / len(some),
        measured_fits=len(some),
        published_over_ours=ratio(seconds, PUBLISHED, OURS) * SUBSETS / len(some),
        largest_difference=f"{(np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)).max():.1e}",
        peak_megabytes=(peak_memory(variants[OURS]) or 0) / 1e6 or None,
        rounds=rounds,
    )


def cluster_row(name: str, tasks: int, k: int, signal: float) -> None:
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(tasks) % k)
    noise = generator.standard_normal((tasks, tasks))
    matrix = signal * (labels[:, None] == labels) + (noise + noise.T) / 2
    clusters: list[list[int]] = []
    taken: list[float] = []

    def run() -> None:
        start = time.process_time()
        clusters[:] = cluster_tasks(matrix, k)
        taken.append(time.process_time() - start)

    memory = peak_memory(run)
    planted = sorted(np.flatnonzero(labels == label).tolist() for label in range(k))
    relaxation = solve_relaxation(matrix, k, tolerance=1e-4, max_steps=200)
    print_row(
        benchmark="cluster",
        case=name,
        tasks=tasks,
        k=k,
        seconds=taken[0],
        peak_megabytes=None if memory is None else memory / 1e6,
        recovered=clusters == planted if signal else None,
        density=density(matrix, clusters),
        upper_bound=relaxation.bound,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few fits and 200 tasks: within two minutes")
    parser.add_argument("parts", nargs="*", help=f"what to measure, of {', '.join(PARTS)}; all by default")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {unknown.pop()}: choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)
    threadpool_limits(1)  # scikit-learn's and NumPy's, too: idle threads that spin would count as work
    if "collect" in parts:
        quick = ["--quick"] if arguments.quick else []
        subprocess.run([sys.executable, "-m", "benchmarks.gradients", *quick], check=True)
    fits, rounds, tasks = (10, 2, 200) if arguments.quick else (50, 3, 500)
    if "estimate" in parts:
        for C, scale in ((0.01, 1.0),) if arguments.quick else ((0.01, 1.0), (1.0, 1.0), (0.01, 10.0)):  # noqa: N806
            estimate_rows(C, scale, fits, rounds)
    if "cluster" in parts:
        cluster_row("planted blocks", tasks, 20, signal=2.0)
        cluster_row("no structure", tasks, 20, signal=0.0)


if __name__ == "__main__":
    main()
