"""How good is it? Metrics, baselines, and the way from logits to predictions.

The public names are loaded on first use, because scikit-learn and SciPy take a second to import.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "exact_match": "taskloom.evaluation.answers",
    "glue_metrics": "taskloom.evaluation.glue",
    "majority_baseline": "taskloom.evaluation.baselines",
    "mrqa_scores": "taskloom.evaluation.mrqa",
    "primary": "taskloom.evaluation.metrics",
    "score_task": "taskloom.evaluation.metrics",
    "squad_scores": "taskloom.evaluation.mrqa",
    "token_f1": "taskloom.evaluation.answers",
}

__all__ = [
    "exact_match",
    "glue_metrics",
    "majority_baseline",
    "mrqa_scores",
    "primary",
    "score_task",
    "squad_scores",
    "token_f1",
]

if TYPE_CHECKING:
    from taskloom.evaluation.answers import exact_match as exact_match
    from taskloom.evaluation.answers import token_f1 as token_f1
    from taskloom.evaluation.baselines import majority_baseline as majority_baseline
    from taskloom.evaluation.glue import glue_metrics as glue_metrics
    from taskloom.evaluation.metrics import primary as primary
    from taskloom.evaluation.metrics import score_task as score_task
    from taskloom.evaluation.mrqa import mrqa_scores as mrqa_scores
    from taskloom.evaluation.mrqa import squad_scores as squad_scores

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
