"""Learning curves: what each run logged over its steps, as a whole and for each task."""

from collections.abc import Callable, Sequence
from typing import Any

from taskloom.report.html.reading.run import Run, Series
from taskloom.report.html.section import Section
from taskloom.report.html.svg import Line, LineChart, thinned
from taskloom.report.html.view import View

__all__ = ["curves"]

_WHOLE = {
    "dev/mean": "Mean dev score",
    "loss": "Training loss",
    "dev/nll": "Dev nll of the questions",
    "dev/f1": "Dev F1 of the answers",
    "dev/loss": "Validation loss of the weighter",
    "dev/nll_gain": "What an update gains (nll)",
    "dev/kl": "Change on unrelated text (KL)",
}


def curves(view: View) -> Section | None:
    """Return the charts; None if no run has logged anything."""
    runs = [run for run in view.runs if run.kind not in ("sweep", "groups")]
    smooth = {"loss"}
    charts = [
        LineChart(
            f"whole-{name}", title, _lines(view, runs, lambda run, name=name: run.history.whole[name], name in smooth)
        )
        for name, title in _WHOLE.items()
    ]
    charts = [chart for chart in charts if chart]
    tasks = list(dict.fromkeys(task for run in runs for task in run.history.tasks))
    shown = tasks[: view.limits.panels] if len(tasks) > 1 else []
    scores = [value for run in runs for series in run.history.dev.values() for _, value in series]
    panels: list[dict[str, Any]] = []
    for place, task in enumerate(shown):
        few = view.limits.points if len(shown) <= 40 else view.limits.points // 3
        dev = LineChart(
            f"dev-{place}",
            "Dev score",
            _lines(view, runs, lambda run, task=task: run.history.dev.get(task, []), points=few),
            low=min(scores, default=0.0),
            high=max(scores, default=1.0),
        )
        loss = LineChart(
            f"loss-{place}",
            "Training loss",
            _lines(view, runs, lambda run, task=task: run.history.loss.get(task, []), smooth=True, points=few),
            low=0.0,
        )
        if dev or loss:
            panels.append({"task": task, "charts": [chart for chart in (dev, loss) if chart]})
    if not charts and not panels:
        return None
    every = [*charts, *(chart for panel in panels for chart in panel["charts"])]
    # The seeds of a setting have one colour and dash.
    known = {place: view.labels.short(setting.name) for place, setting in enumerate(view.settings)}
    names = {known.get(line.index, line.name): line.index for chart in every for line in chart.lines}
    left_out = []
    if len(tasks) > len(shown) and len(tasks) > 1:
        left_out.append(f"Curves of {len(tasks) - len(shown):,} of {len(tasks):,} tasks; their scores are above")
    apart = list(dict.fromkeys(run.name for run in runs if run.kind == "way" and panels))
    values = {"charts": charts, "panels": panels, "legend": list(names.items()), "apart": apart}
    return Section(
        "curves", "Learning curves", values, {"charts": {chart.key: chart.data() for chart in every}}, left_out
    )


def _lines(
    view: View,
    runs: Sequence[Run],
    series: Callable[[Run], Series],
    smooth: bool = False,
    points: int | None = None,
) -> list[Line]:
    return [
        Line(view.labels.short(run.name), thinned(found, points or view.limits.points), view.colour(run), smooth)
        for run in runs
        if (found := series(run))
    ]
