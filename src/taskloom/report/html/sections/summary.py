"""The summary: every run in a line, the best marked, and in what their recipes differ."""

import json
from typing import Any

from taskloom.report.html.reading.files import mapping, number
from taskloom.report.html.reading.run import KINDS, Run
from taskloom.report.html.reading.settings import Spread, differing_fields
from taskloom.report.html.reading.sweeps import read_sweep
from taskloom.report.html.section import Section
from taskloom.report.html.svg import show
from taskloom.report.html.view import View

__all__ = ["best_settings", "mean_of", "plain", "summary"]

#: So many differences stand in the summary; all of them are in the recipes' section.
MOST = 8


def summary(view: View) -> Section:
    """Return the table of runs."""
    rows = [_row(view, run) for run in view.runs if run.kind != "way"]
    differing = differing_fields([run for run in view.runs if run.kind != "way"])
    differing.pop("seed", None)
    notes = [note for run in view.runs for note in run.notes]
    notes += [note for pipeline in view.pipelines for note in pipeline.notes]
    values = {
        "rows": rows,
        "headline": _headline(view),
        "scored": any(row["mean"] is not None for row in rows),
        "results": any(row["result"] for row in rows),
        "seeds": any(row["seed"] is not None for row in rows),
        "names": [run.name for run in view.runs if run.kind != "way"],
        "differing": [(name, [plain(value) for value in each]) for name, each in list(differing.items())[:MOST]],
        "more": max(0, len(differing) - MOST),
        "missing": [line for run in view.runs if run.kind != "way" for line in missing(view, run)],
        "notes": list(dict.fromkeys(notes)),
    }
    return Section("summary", "Summary", values)


def best_settings(view: View) -> set[int]:
    """Return the places of the settings with the highest mean dev scores among those with the same tasks."""
    return {place for group in compared(view) for place, score in group.items() if score == max(group.values())}


def compared(view: View) -> list[dict[int, float]]:
    """Return the mean dev scores of settings, those together that have the same tasks and not all the same score."""
    groups: dict[frozenset[str], dict[int, float]] = {}
    for place, setting in enumerate(view.settings):
        if (found := mean_of(view, place)) is not None:
            groups.setdefault(frozenset(setting.runs[0].tasks), {})[place] = found.mean
    return [group for group in groups.values() if len(set(group.values())) > 1]


def mean_of(view: View, place: int) -> Spread | None:
    """Return the mean dev scores of a setting's seeds."""
    values = tuple(run.mean for run in view.settings[place].runs if run.mean is not None)
    return Spread(values) if values else None


def missing(view: View, run: Run) -> list[str]:
    """Say what a run does not have yet."""
    if run.kind == "sweep":
        return []
    lines = []
    if not run.finished:
        steps = run.history.steps
        reached = f"it has logged {steps:,} steps" if steps else "nothing is logged yet"
        part = any(run.path.is_relative_to(pipeline.path) for pipeline in view.pipelines)
        how = "The command that ran the pipeline goes on with it" if part else "Continue it with --resume"
        lines.append(f"{run.name}: not finished; {reached}. {how}")
    elif not run.scores:
        lines.append(f"{run.name}: finished, but it has no scores.json")
    return lines


def plain(value: Any) -> str:
    """Return a field of a recipe as text."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _headline(view: View) -> str:
    runs = [run for run in view.runs if run.kind != "way"]
    tasks = {task for run in runs for task in run.tasks}
    sweeps = sum(run.kind == "sweep" for run in runs)
    counts = [("run", len(runs) - sweeps), ("sweep", sweeps)]
    parts = [f"{n} {what}{'s' * (n != 1)}" for what, n in counts if n] or ["0 runs"]
    if tasks:
        parts.append(f"{len(tasks)} task{'s' * (len(tasks) != 1)}")
    text = ", ".join(parts) + "."
    if len(compared(view)) == 1:
        best = sorted(best_settings(view))
        found = mean_of(view, best[0])
        assert found is not None
        name = " and ".join(view.labels.short(view.settings[place].name) for place in best)
        spread = "" if found.std is None else f" ± {show(found.std)} over {len(found.values)} seeds"
        text += f" The highest mean dev score is {show(found.mean)}{spread}: {name}."
    return text


def _row(view: View, run: Run) -> dict[str, Any]:
    state = "finished" if run.finished else "not finished"
    if run.kind == "sweep":
        state = ""
    return {
        "name": run.name,
        "colour": view.colour(run),
        "kind": KINDS[run.kind],
        "description": str(run.recipe.get("description") or ""),
        "state": state,
        "seed": run.seed,
        "tasks": len(run.tasks) or None,
        "steps": run.history.steps or None,
        "mean": run.mean,
        "best": view.place(run) in best_settings(view),
        "result": _result(run),
        "minutes": run.minutes,
        "started": str(run.environment.get("started") or "")[:16].replace("T", " "),
    }


def _result(run: Run) -> str:
    """Return what came of a run that has no mean dev score."""
    before, after = mapping(run.scores.get("before")), mapping(run.scores.get("after"))
    match run.kind:
        case "adapt":
            stream = [number(mapping(part.get("stream")).get("nll")) for part in (before, after)]
            return f"nll of the stream's questions {show(stream[0])} → {show(stream[1])}" if any(stream) else ""
        case "meta-train":
            values = number(before.get("loss")), number(mapping(run.scores.get("best")).get("loss"))
            return f"validation loss {show(values[0])} → {show(values[1])}" if any(values) else ""
        case "tune-qa":
            best = number(mapping(mapping(run.scores.get("best")).get("nll")).get("value"))
            return f"nll {show(number(before.get('nll')))} → {show(best)}" if best is not None else ""
        case "groups":
            means = mapping(run.scores.get("mean"))
            return ", ".join(f"{way} {show(number(value))}" for way, value in means.items() if way != "groups")
        case "sweep":
            sweep = read_sweep(run)
            found = next((row.mean for row in sweep.rows if row.mean is not None), None)
            return f"best {sweep.metric} {show(found)}" if found is not None else "no trial has come to an end"
        case _:
            return ""
