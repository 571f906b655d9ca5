"""Which tasks belong together: estimates of what training on any subset of tasks would do (Grad-TAG, arXiv 2409.06091).

The names below are resolved on first use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "AffinityMatrix": "taskloom.affinity.estimate",
    "Estimates": "taskloom.affinity.scores",
    "Gains": "taskloom.affinity.scores",
    "GradientSource": "taskloom.affinity.source",
    "GradientStore": "taskloom.affinity.store",
    "GradientTable": "taskloom.affinity.source",
    "SubsetSurrogate": "taskloom.affinity.surrogate",
    "TaskGradients": "taskloom.affinity.source",
    "affinity_matrix": "taskloom.affinity.estimate",
    "cluster_tasks": "taskloom.affinity.cluster",
    "collect_gradients": "taskloom.affinity.collect",
    "forward_evaluate": "taskloom.affinity.estimate",
    "forward_selection": "taskloom.affinity.selection",
    "leave_one_out": "taskloom.affinity.selection",
    "random_subsets": "taskloom.affinity.subsets",
}

__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from taskloom.affinity.source import GradientSource as GradientSource
    from taskloom.affinity.source import GradientTable as GradientTable
    from taskloom.affinity.source import TaskGradients as TaskGradients

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
