"""The estimates of `studies.affinity_graph`, their agreement with the true trainings, the groups, and the tables."""

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from studies.affinity_graph import Setting, Trainings, draw_subsets
from studies.agreement import Scores, agreement, ceiling
from taskloom.affinity import (
    GradientStore,
    GradientTable,
    SubsetSurrogate,
    TaskGradients,
    affinity_matrix,
    cluster_tasks,
    collect_gradients,
    random_subsets,
)
from taskloom.affinity.cluster import transformed
from taskloom.gradients import Projection, written_back
from taskloom.graphs import community_loaders, community_margin, score_sign, train_sign

METRICS = ("f1", "loss")
PROJECTIONS = (0, 1, 2)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
Subset = tuple[str, ...]
#: (C, subsets) -> {metric: [subsets, tasks]}
Estimator = Callable[[float, Sequence[Subset]], dict[str, Scores]]


class Estimators:
    """The ways to estimate, all from the gradients of one base model."""

    def __init__(self, trainings: Trainings) -> None:
        self.model, self.data = trainings.base, trainings.data
        self.projections = [Projection(seed=seed) for seed in PROJECTIONS]
        begun = time.process_time()
        self.stores = [self._collected(projection) for projection in self.projections]
        self.collect_seconds = (time.process_time() - begun) / len(PROJECTIONS)
        many = trainings.setting.many_dimensions
        self.wide_store = self._collected(Projection(many)) if many else None

    def _collected(self, projection: Projection) -> GradientTable:
        with tempfile.TemporaryDirectory() as folder:
            store = collect_gradients(
                self.model,
                community_loaders(self.data, "train"),
                community_margin,
                validation=community_loaders(self.data, "validation"),
                folder=Path(folder) / "gradients",
                projection=projection,
            )
            return in_memory(store)

    def surrogate(self, seeds: Sequence[int], strength: float, offset: bool = True) -> SubsetSurrogate:
        tables = [self.stores[seed] if offset else without_offset(self.stores[seed]) for seed in seeds]
        return SubsetSurrogate(tables, C=strength, tolerance=1e-5)

    def linearized(self, seeds: Sequence[int], offset: bool = True) -> Estimator:
        def estimate(strength: float, subsets: Sequence[Subset]) -> dict[str, Scores]:
            surrogate = self.surrogate(seeds, strength, offset)
            coefficients = surrogate.fit(subsets)
            return {metric: surrogate.evaluate(coefficients, metric).numpy() for metric in METRICS}

        return estimate

    def forward(self, seed: int, offset: bool = True) -> Estimator:
        def estimate(strength: float, subsets: Sequence[Subset]) -> dict[str, Scores]:
            rows = []
            for change in self.surrogate([seed], strength, offset).fit(subsets):
                with written_back(self.model, self.projections[seed], change):
                    rows.append(score_sign(self.model, self.data, self.data.names))
            return {metric: np.array([[row[n][metric] for n in self.data.names] for row in rows]) for metric in METRICS}

        return estimate

    def many_dimensions(self) -> Estimator:
        def estimate(strength: float, subsets: Sequence[Subset]) -> dict[str, Scores]:
            surrogate = SubsetSurrogate(self.wide_store, C=strength, tolerance=1e-5)
            coefficients = surrogate.fit(subsets)
            return {metric: surrogate.evaluate(coefficients, metric).numpy() for metric in METRICS}

        return estimate

    def ways(self) -> dict[str, list[Estimator]]:
        """Every way to estimate, with one member a projection; each remembers its answers."""
        ways: dict[str, list[Estimator]] = {
            "base model, no estimate": [self.base()],
            "offset, linearised": [self.linearized([seed]) for seed in PROJECTIONS],
            "offset, linearised, 3 projections averaged": [self.linearized(PROJECTIONS)],
            "offset, forward": [self.forward(0)],
            "no offset, linearised": [self.linearized([seed], offset=False) for seed in PROJECTIONS],
            "no offset, forward (as published)": [self.forward(0, offset=False)],
        }
        if self.wide_store is not None:
            ways[f"offset, linearised, {self.wide_store.dimensions} dimensions"] = [self.many_dimensions()]
        return {name: [remembering(member) for member in members] for name, members in ways.items()}

    def base(self) -> Estimator:
        scores = score_sign(self.model, self.data, self.data.names)

        def estimate(_strength: float, subsets: Sequence[Subset]) -> dict[str, Scores]:
            rows = np.ones((len(subsets), 1))
            return {metric: rows * [scores[name][metric] for name in self.data.names] for metric in METRICS}

        return estimate


def remembering(estimator: Estimator) -> Estimator:
    """The same answers, computed once: they do not depend on which truth they are compared with."""
    known: dict[tuple, dict[str, Scores]] = {}

    def estimate(strength: float, subsets: Sequence[Subset]) -> dict[str, Scores]:
        key = (strength, tuple(subsets))
        if key not in known:
            known[key] = estimator(strength, subsets)
        return known[key]

    return estimate


def in_memory(store: GradientStore) -> GradientTable:
    """The store's rows, read whole, so that its folder may go."""

    def copied(rows: TaskGradients) -> TaskGradients:
        return TaskGradients(rows.gradients.clone(), rows.outputs.clone(), rows.labels.clone(), rows.loss)

    return GradientTable(
        {task: copied(store.train(task)) for task in store.tasks},
        {task: copied(store.validation(task)) for task in store.tasks},
    )


def without_offset(table: GradientTable) -> GradientTable:
    """The published regression: the base model's output is left out."""

    def cut(rows: TaskGradients) -> TaskGradients:
        return TaskGradients(rows.gradients, torch.zeros_like(rows.outputs), rows.labels, rows.loss)

    return GradientTable(
        {task: cut(table.train(task)) for task in table.tasks},
        {task: cut(table.validation(task)) for task in table.tasks},
    )


def truth(trainings: Trainings, how: str, subsets: Sequence[Subset], part: str = "validation") -> dict[str, Scores]:
    """{metric: [seeds, subsets, tasks]} of the true trainings."""
    names = trainings.data.names
    seeds = trainings.setting.seeds_of(how)
    scores = {metric: np.full((seeds, len(subsets), len(names)), np.nan) for metric in METRICS}
    for seed in range(seeds):
        for row, subset in enumerate(subsets):
            found = trainings.get(how, subset, seed)[part]
            for task in subset:
                for metric in METRICS:
                    scores[metric][seed, row, names.index(task)] = found[task][metric]
    return scores


def compare(trainings: Trainings, ways: Mapping[str, list[Estimator]], how: str) -> dict:
    """The agreement of every way to estimate, with C chosen on the calibration subsets; per metric."""
    calibration, reported = draw_subsets(trainings.setting, trainings.data.names)
    calibrating, wanted = truth(trainings, how, calibration), truth(trainings, how, reported)
    rows: dict[str, dict] = {metric: {} for metric in METRICS}
    for name, members in ways.items():
        tried = {strength: converged(members, strength, calibration) for strength in STRENGTHS}
        for metric in METRICS:
            true = calibrating[metric].mean(axis=0)
            errors = {
                strength: statistics.fmean(agreement(each[metric], true)["entry_error"] for each in found)
                for strength, found in tried.items()
                if found
            }
            strength = min(errors, key=errors.__getitem__)
            finals = [member(strength, reported)[metric] for member in members]
            each = [agreement(final, wanted[metric].mean(axis=0)) for final in finals]
            rows[metric][name] = {
                "C": strength,
                "mean": {key: statistics.fmean(one[key] for one in each) for key in each[0]},
                "sd": {key: statistics.stdev(one[key] for one in each) if len(each) > 1 else 0.0 for key in each[0]},
            }
    for metric in METRICS:
        rows[metric]["true value"] = float(np.nanmean(wanted[metric]))
        if len(wanted[metric]) > 1:
            rows[metric]["one true training"] = {"C": None, "mean": ceiling(wanted[metric]), "sd": {}}
    return rows


def converged(members: Sequence[Estimator], strength: float, subsets: Sequence[Subset]) -> list[dict[str, Scores]]:
    """The estimates, or nothing where the regression has no finite answer within reach (separable, hardly regular)."""
    try:
        return [member(strength, subsets) for member in members]
    except RuntimeError:
        return []


def costs(trainings: Trainings, estimators: Estimators) -> dict[str, float]:
    """CPU seconds, measured in this process: true trainings on a sample of the subsets, the estimate on all."""
    _, reported = draw_subsets(trainings.setting, trainings.data.names)
    sample = reported[:: max(1, len(reported) // 10)][:10]

    def seconds(action: Callable[[], object]) -> float:
        begun = time.process_time()
        action()
        return time.process_time() - begun

    training = [seconds(lambda s=s: train_sign(trainings.data, s, trainings.setting.model)) for s in sample]
    return {
        "subsets": len(reported),
        "true trainings, one seed": statistics.fmean(training) * len(reported),
        "base training": seconds(lambda: train_sign(trainings.data, trainings.data.names, trainings.setting.model)),
        "collecting": estimators.collect_seconds,
        "surrogate": seconds(lambda: estimators.linearized([0])(0.01, reported)),
    }


def groups(trainings: Trainings, estimators: Estimators, strength: float) -> dict[str, dict]:
    """Test scores of one model a group, for groups of several origins; means over tasks, per seed."""
    setting, names = trainings.setting, trainings.data.names
    k, seeds = setting.groups, range(setting.seeds)
    surrogate = estimators.surrogate(PROJECTIONS, strength)
    higher = random_subsets(names, size=len(names) // k)
    chosen = {
        f"estimated affinity ({metric})": cluster_tasks(
            affinity_matrix(surrogate, metric=metric, subsets=higher).symmetric("standardize").numpy(), k
        )
        for metric in METRICS
    }
    chosen |= {
        f"true affinity of the reported subsets ({metric})": cluster_tasks(true_affinity(trainings, metric), k)
        for metric in METRICS
    }
    found = {
        "one model for all": partition_scores(trainings, [list(range(len(names)))], seeds),
        "one model a task": partition_scores(trainings, [[task] for task in range(len(names))], seeds),
    }
    found |= {origin: partition_scores(trainings, clusters, seeds) for origin, clusters in chosen.items()}
    for metric in METRICS:
        sizes = [len(cluster) for cluster in chosen[f"estimated affinity ({metric})"]]
        draws = [
            partition_scores(trainings, random_partition(len(names), sizes, draw), seeds)
            for draw in range(setting.random_draws)
        ]
        found[f"random groups of the same sizes ({metric})"] = {
            "sizes": sorted(sizes, reverse=True),
            **{key: [statistics.fmean(draw[key]) for draw in draws] for key in METRICS},
        }
    return found


def true_affinity(trainings: Trainings, metric: str) -> Scores:
    """Row i, column j: the mean validation score of task i over the reported subsets with j; unseen pairs: row mean."""
    _, reported = draw_subsets(trainings.setting, trainings.data.names)
    scores = truth(trainings, "scratch", reported)[metric].mean(axis=0) * (-1 if metric == "loss" else 1)
    held = (~np.isnan(scores)).astype(float)
    counts = held.T @ held
    mean = np.where(counts > 0, np.nan_to_num(scores).T @ held / np.maximum(counts, 1), np.nan)
    filled = np.where(np.isnan(mean), np.nanmean(mean, axis=1, keepdims=True), mean)
    standard = transformed(filled, "standardize")
    return (standard + standard.T) / 2


def random_partition(tasks: int, sizes: Sequence[int], seed: int) -> list[list[int]]:
    order = random.Random(seed).sample(range(tasks), tasks)
    return [[order.pop() for _ in range(size)] for size in sizes]


def partition_scores(trainings: Trainings, clusters: Sequence[Sequence[int]], seeds: Sequence[int]) -> dict:
    names = trainings.data.names
    scores: dict = {"sizes": sorted(map(len, clusters), reverse=True), **{metric: [] for metric in METRICS}}
    for seed in seeds:
        found = {}
        for cluster in clusters:
            found |= trainings.get("scratch", [names[task] for task in sorted(cluster)], seed)["test"]
        for metric in METRICS:
            scores[metric].append(statistics.fmean(found[name][metric] for name in names))
    return scores


def report(settings: Mapping[str, Setting], trainings: Mapping[str, Trainings], folder: Path) -> None:
    """Write ``results.json`` and ``section.md``."""
    from studies.affinity_graph_tables import section

    results = {}
    for name, setting in settings.items():
        estimators = Estimators(trainings[name])
        ways = estimators.ways()
        agreements = {how: compare(trainings[name], ways, how) for how in setting.ways}
        strength = agreements["scratch"]["loss"]["offset, linearised, 3 projections averaged"]["C"]
        results[name] = {
            "title": setting.title,
            "seeds": {how: setting.seeds_of(how) for how in setting.ways},
            "examples": {part: int(trainings[name].data.masks[part].sum()) for part in ("train", "validation", "test")},
            "agreement": agreements,
            "costs": costs(trainings[name], estimators),
            "groups": groups(trainings[name], estimators, strength),
        }
        print(f"{name}: done", flush=True)
    (folder / "results.json").write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    (folder / "section.md").write_text(section(results), encoding="utf-8")


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 5)
    return value
