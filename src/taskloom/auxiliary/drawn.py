"""The rows of a view as a step runs them: corrupted and masked, whole or those of one process."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.space import Objective
from taskloom.processes import rank, world_size

__all__ = ["Drawn"]


@dataclass(frozen=True)
class Drawn:
    """The rows of a view, corrupted and masked, with the objectives that are read off it.

    Attributes:
        members: the objectives' positions in the step.
        objectives: the objectives.
        counts: over how much each objective's loss is a mean, in all rows of the view.
        part: how much of these rows' losses counts in this process.
        batch: the rows, before any transform.
        input_ids: ``[rows, tokens]``, corrupted.
        mask: ``[rows, 1, tokens, tokens]``, what is added to the attention scores.
        noise: ``[rows, tokens, width of the embedding]``, see `Body.hidden`; None adds none.
        counted: ``[rows, tokens]``, whose tokens `denoise` predicts.
        predictor: ``[rows, tokens]``, which state predicts a token.
    """

    members: tuple[int, ...]
    objectives: list[Objective]
    counts: list[Tensor]
    part: float
    batch: RowBatch
    input_ids: Tensor
    mask: Tensor
    noise: Tensor | None
    counted: Tensor
    predictor: Tensor

    @property
    def contrasts(self) -> bool:
        """Whether rows are compared with each other, so that they cannot be run apart."""
        return any(each.output == "quick-thoughts" for each in self.objectives)

    def of_process(self) -> "Drawn":
        """Return what this process runs: its share of the rows.

        All processes run a view that cannot be divided, each for its part of the mean: whoever had nothing to do would
        wait for the others.
        """
        rows, processes = len(self.batch), world_size()
        if processes == 1:
            return self
        if self.contrasts or rows < processes:
            return replace(self, part=1 / processes)
        return self.rows(slice(rows * rank() // processes, rows * (rank() + 1) // processes))

    def rows(self, rows: slice) -> "Drawn":
        """Return some of the rows."""
        return self._mapped(lambda tensor: tensor[rows], self.batch.rows(rows))

    def to(self, device: torch.device) -> "Drawn":
        """Return the rows on a device."""
        moved = self._mapped(lambda tensor: tensor.to(device, non_blocking=True), self.batch.to(device))
        return replace(moved, counts=[count.to(device, non_blocking=True) for count in self.counts])

    def _mapped(self, function: Callable[[Tensor], Tensor], batch: RowBatch) -> "Drawn":
        return replace(
            self,
            batch=batch,
            input_ids=function(self.input_ids),
            mask=function(self.mask),
            noise=None if self.noise is None else function(self.noise),
            counted=function(self.counted),
            predictor=function(self.predictor),
        )
