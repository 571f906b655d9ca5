"""Auxiliary objectives beside a task: generated from four choices, weighed by how well their gradients agree (AANG).

Dery, Michel, Khodak, Neubig, Talwalkar: AANG: Automating Auxiliary Learning (ICLR 2023, arXiv 2205.14082).
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

if TYPE_CHECKING:
    from taskloom.auxiliary.space import Objective as Objective
    from taskloom.auxiliary.space import SearchSpace as SearchSpace
    from taskloom.auxiliary.trainer import AuxiliaryTrainer as AuxiliaryTrainer
    from taskloom.auxiliary.weights import ObjectiveWeights as ObjectiveWeights

__all__ = ["AuxiliaryTrainer", "Objective", "ObjectiveWeights", "SearchSpace"]

_HOMES = {
    "AuxiliaryTrainer": "taskloom.auxiliary.trainer",
    "Objective": "taskloom.auxiliary.space",
    "ObjectiveWeights": "taskloom.auxiliary.weights",
    "SearchSpace": "taskloom.auxiliary.space",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
