"""Several projections out of one collection, to average over and to see how much an estimate owes to its projection.

The columns of a random projection are independent of each other, so any of its columns make a projection themselves.
A store of 600 dimensions is therefore also three independent ones of 200, for one pass over the data.
"""

import math

from taskloom.affinity.source import GradientSource, TaskGradients

__all__ = ["split_dimensions"]


def split_dimensions(source: GradientSource, members: int) -> list[GradientSource]:
    """Return a source as `members` sources of fewer dimensions each, for `SubsetSurrogate`'s bagging.

    Raises:
        ValueError: `members` does not divide the dimensions.
    """
    if members < 1 or source.dimensions % members:
        raise ValueError(f"`members` must divide the {source.dimensions} dimensions of the source, found {members}")
    return [_Columns(source, member, members) for member in range(members)]


class _Columns:
    """Every task's gradients in some of a source's dimensions, scaled so that inner products stay unbiased."""

    def __init__(self, source: GradientSource, member: int, members: int) -> None:
        self.source = source
        self.tasks = source.tasks
        self.dimensions = source.dimensions // members
        self._columns = slice(member * self.dimensions, (member + 1) * self.dimensions)
        self._scale = math.sqrt(members)

    def train(self, task: str) -> TaskGradients:
        return self._part(self.source.train(task))

    def validation(self, task: str) -> TaskGradients:
        return self._part(self.source.validation(task))

    def _part(self, rows: TaskGradients) -> TaskGradients:
        gradients = rows.gradients[:, self._columns] * self._scale
        return TaskGradients(gradients, rows.outputs, rows.labels, rows.loss)
