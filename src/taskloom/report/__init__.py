"""What a run looked like: learning curves and tables of scores.

The public names are loaded on first use, because matplotlib takes its time to import.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "affinity_heatmap": "taskloom.report.heatmap",
    "learning_curves": "taskloom.report.curves",
    "objective_curves": "taskloom.report.objectives",
    "score_markdown": "taskloom.report.scores",
    "score_table": "taskloom.report.scores",
    "stage_curves": "taskloom.report.objectives",
}

__all__ = [
    "affinity_heatmap",
    "learning_curves",
    "objective_curves",
    "score_markdown",
    "score_table",
    "stage_curves",
]

if TYPE_CHECKING:
    from taskloom.report.curves import learning_curves as learning_curves
    from taskloom.report.heatmap import affinity_heatmap as affinity_heatmap
    from taskloom.report.objectives import objective_curves as objective_curves
    from taskloom.report.objectives import stage_curves as stage_curves
    from taskloom.report.scores import score_markdown as score_markdown
    from taskloom.report.scores import score_table as score_table

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
