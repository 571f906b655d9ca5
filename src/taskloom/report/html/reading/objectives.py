"""The weights of auxiliary objectives over the steps of a run, and what became of each objective."""

from dataclasses import dataclass
from typing import Any

from taskloom.auxiliary.stages import STAGES
from taskloom.report.html.reading.files import mapping, number, numbers
from taskloom.report.html.reading.run import Run, Series

__all__ = ["Objectives", "read_objectives"]

_FIRST = ("step", "primary", "auxiliary")


@dataclass(frozen=True)
class Objectives:
    """Weights over steps by name, and the ranking at the end.

    Attributes:
        balance: of the primary and the auxiliary loss.
        stages: by stage of the search space, each value's probability.
        weights: of each objective.
        ranking: rows of `objectives.csv`.
        pre, post: scores before and after the final fine-tuning, by task and metric.
        split: that they are of.
    """

    balance: dict[str, Series]
    stages: dict[str, dict[str, Series]]
    weights: dict[str, Series]
    ranking: list[dict[str, Any]]
    pre: dict[str, dict[str, float]]
    post: dict[str, dict[str, float]]
    split: str


def read_objectives(run: Run) -> Objectives | None:
    """Return what a run with auxiliary objectives logged; None for others."""
    names = ("objective_weights.csv", "objectives.csv", "auxiliary.json")
    if not any(run.files.has(name) for name in names):
        return None
    rows = run.files.csv(names[0])
    stages: dict[str, dict[str, Series]] = {stage: {} for stage in STAGES}
    weights: dict[str, Series] = {}
    balance: dict[str, Series] = {}
    for name in rows[0] if rows else ():
        series = [
            (step, value)
            for row in rows
            if (step := number(row.get("step"))) is not None and (value := number(row[name])) is not None
        ]
        stage, _, value = name.partition("=")
        if name in _FIRST[1:]:
            balance[name] = series
        elif stage in STAGES:
            stages[stage][value] = series
        elif name != "step":
            weights[name] = series
    ranking = [
        {"objective": str(row.get("objective")), **numbers({key: row[key] for key in row if key != "objective"})}
        for row in run.files.csv(names[1])
    ]
    results = run.files.json(names[2])
    pre, post = (
        {str(task): numbers(metrics) for task, metrics in mapping(results.get(part)).items()}
        for part in ("pre", "post")
    )
    return Objectives(balance, stages, weights, ranking, pre, post, str(results.get("split") or ""))
