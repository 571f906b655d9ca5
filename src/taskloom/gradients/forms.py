"""The forms in which a module's per-example gradients come, before anyone multiplies them out.

A linear layer's gradient is a sum of outer products over the tokens, an embedding's touches a few rows of its table.
Kept in that form it is small and cheap to project; `dense` multiplies it out. A gradient without structure is a plain
tensor [batch, *shape].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Columns", "Form", "Outer", "Rows", "dense"]


@dataclass(frozen=True)
class Outer:
    """Σ_t left_t right_tᵀ, the gradient of a matrix [rows, columns].

    Attributes:
        left: [batch, terms, rows].
        right: [batch, terms, columns]. Parameters of more dimensions count all but the first as columns.
    """

    left: Tensor
    right: Tensor

    def dense(self, shape: Sequence[int]) -> Tensor:
        return torch.bmm(self.left.mT, self.right).reshape(len(self.left), *shape)


@dataclass(frozen=True)
class Rows:
    """The gradient of a matrix [rows, width] whose row index_t receives values_t, for each term t.

    Attributes:
        index: integers [batch, terms].
        values: [batch, terms, width].
    """

    index: Tensor
    values: Tensor

    def dense(self, shape: Sequence[int]) -> Tensor:
        batch, _, width = self.values.shape
        rows = shape[0]
        slot = self.index + rows * torch.arange(batch, device=self.index.device).unsqueeze(1)
        table = self.values.new_zeros(batch * rows, width)
        return table.index_add_(0, slot.reshape(-1), self.values.reshape(-1, width)).reshape(batch, *shape)


@dataclass(frozen=True)
class Columns:
    """The gradient of a matrix [height, columns] whose column index_t receives values_t: `Rows`, transposed."""

    index: Tensor
    values: Tensor

    def dense(self, shape: Sequence[int]) -> Tensor:
        height, columns = shape
        return Rows(self.index, self.values).dense((columns, height)).mT


Form = Outer | Rows | Columns | Tensor


def dense(form: Form, shape: Sequence[int]) -> Tensor:
    """Return the gradient, [batch, *shape]."""
    return form if isinstance(form, Tensor) else form.dense(shape)
