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
    "class_margin": "taskloom.affinity.outputs",
    "cluster_tasks": "taskloom.affinity.cluster",
    "collect_gradients": "taskloom.affinity.collect",
    "forward_evaluate": "taskloom.affinity.estimate",
    "forward_selection": "taskloom.affinity.selection",
    "leave_one_out": "taskloom.affinity.selection",
    "log_odds": "taskloom.affinity.outputs",
    "random_subsets": "taskloom.affinity.subsets",
    "signed_logit": "taskloom.affinity.outputs",
    "split_dimensions": "taskloom.affinity.bagging",
}

__all__ = [
    "AffinityMatrix",
    "Estimates",
    "Gains",
    "GradientSource",
    "GradientStore",
    "GradientTable",
    "SubsetSurrogate",
    "TaskGradients",
    "affinity_matrix",
    "class_margin",
    "cluster_tasks",
    "collect_gradients",
    "forward_evaluate",
    "forward_selection",
    "leave_one_out",
    "log_odds",
    "random_subsets",
    "signed_logit",
    "split_dimensions",
]

if TYPE_CHECKING:
    from taskloom.affinity.bagging import split_dimensions as split_dimensions
    from taskloom.affinity.cluster import cluster_tasks as cluster_tasks
    from taskloom.affinity.collect import collect_gradients as collect_gradients
    from taskloom.affinity.estimate import AffinityMatrix as AffinityMatrix
    from taskloom.affinity.estimate import affinity_matrix as affinity_matrix
    from taskloom.affinity.estimate import forward_evaluate as forward_evaluate
    from taskloom.affinity.outputs import class_margin as class_margin
    from taskloom.affinity.outputs import log_odds as log_odds
    from taskloom.affinity.outputs import signed_logit as signed_logit
    from taskloom.affinity.scores import Estimates as Estimates
    from taskloom.affinity.scores import Gains as Gains
    from taskloom.affinity.selection import forward_selection as forward_selection
    from taskloom.affinity.selection import leave_one_out as leave_one_out
    from taskloom.affinity.source import GradientSource as GradientSource
    from taskloom.affinity.source import GradientTable as GradientTable
    from taskloom.affinity.source import TaskGradients as TaskGradients
    from taskloom.affinity.store import GradientStore as GradientStore
    from taskloom.affinity.subsets import random_subsets as random_subsets
    from taskloom.affinity.surrogate import SubsetSurrogate as SubsetSurrogate

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
