"""A pipeline's stages: what is done, how long it took, and what failed."""

from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.report.html.reading.find import Evaluation
from taskloom.report.html.reading.run import score
from taskloom.report.html.section import Section
from taskloom.report.html.view import View

__all__ = ["pipeline"]

#: A sign for each status, beside its name.
SIGNS = {"done": "✓", "running": "…", "failed": "✗", "interrupted": "–", "waiting": "○"}


def pipeline(view: View) -> Section | None:
    """Return the stages; None without a pipeline."""
    if not view.pipelines:
        return None
    parts = [
        {
            "name": each.name,
            "description": each.description if each.description != view.title else "",
            "stages": [(stage, SIGNS.get(stage.status, "?"), _time(stage.seconds)) for stage in stages],
            "done": sum(stage.status == "done" for stage in stages),
            # The runs' own dev scores are in a section of their own.
            "evaluations": [_scores(evaluation) for evaluation in each.evaluations if evaluation.split != "dev"],
            "seconds": _time(sum(stage.seconds or 0.0 for stage in each.stages)),
        }
        for each in view.pipelines
        # The stage that makes this page is not over while it does.
        for stages in [[stage for stage in each.stages if stage.kind != "report"]]
    ]
    return Section("pipeline", "Pipeline", {"parts": parts})


def _scores(evaluation: Evaluation) -> dict[str, Any]:
    titles = list(dict.fromkeys(title for scores in evaluation.scores.values() for title in scores))
    rows = []
    for title in titles:
        metrics = [scores.get(title) for scores in evaluation.scores.values()]
        rows.append((title, _score(evaluation.majority.get(title)), _marked([_score(each) for each in metrics])))
    means = _marked([evaluation.means.get(model) for model in evaluation.scores])
    return {
        "name": evaluation.name,
        "split": evaluation.split,
        "models": list(evaluation.scores),
        "rows": rows,
        "means": means,
    }


def _score(metrics: Mapping[str, float] | None) -> float | None:
    return score(metrics) if metrics else None


def _marked(values: Sequence[float | None]) -> list[tuple[float | None, bool]]:
    """Return values with whether they are the highest, unless all are the same."""
    known = [value for value in values if value is not None]
    return [(value, value is not None and min(known) < max(known) == value) for value in values]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
