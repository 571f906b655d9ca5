"""A pipeline's stages: what is done, how long it took, and what failed."""

from taskloom.report.html.section import Section
from taskloom.report.html.view import View

__all__ = ["pipeline"]

#: A sign for each status, beside its name.
SIGNS = {"done": "✓", "running": "…", "failed": "✗", "waiting": "○"}


def pipeline(view: View) -> Section | None:
    """Return the stages; None without a pipeline."""
    if not view.pipelines:
        return None
    parts = [
        {
            "name": each.name,
            "description": each.description,
            "stages": [(stage, SIGNS.get(stage.status, "?"), _time(stage.seconds)) for stage in each.stages],
            "done": sum(stage.status == "done" for stage in each.stages),
            "seconds": _time(sum(stage.seconds or 0.0 for stage in each.stages)),
        }
        for each in view.pipelines
    ]
    return Section("pipeline", "Pipeline", {"parts": parts})


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
