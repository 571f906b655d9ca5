"""Random projections of gradients that never hold a parameters × dimensions matrix (Grad-TAG, section 3.2).

By the lemma of Johnson and Lindenstrauss inner products survive a random projection: E⟨Pᵀg, Pᵀh⟩ = ⟨g, h⟩. The matrix
P is a function of (seed, parameter name, row, column), see `hashing`; blocks of its rows are made when they are needed.

With `factor=k` a matrix gradient G is first compressed on both sides, AᵀGB with A and B random of k columns, and its
k × k rest is projected densely: P = (A ⊗ B) P', which is unbiased too. A and B act on the two sides of a linear
layer's outer products, so that the gradient itself is never formed and whole models cost little.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taskloom.gradients.forms import Columns, Form, Outer, Rows, dense
from taskloom.gradients.hashing import Distribution, random_rows, stream_key

__all__ = ["Projection"]

#: Entries of P that are made at once, and bytes of them that a projection may keep.
BLOCK_ENTRIES = 2**22
CACHE_BYTES = 2**28


class _Cache(dict[tuple, Tensor]):
    """Blocks of P by place, up to `CACHE_BYTES`. The first stay: batches ask for all blocks in the same order."""

    size = 0

    def keep(self, key: tuple, block: Tensor) -> None:
        needed = block.numel() * block.element_size()
        if self.size + needed <= CACHE_BYTES:
            self[key] = block.contiguous()
            self.size += needed

    def __reduce__(self) -> tuple:
        return _Cache, ()


@dataclass(frozen=True)
class Projection:
    """A linear map from a model's gradients to `dimensions` numbers, the same on every device and in every process.

    Attributes:
        dimensions: the paper's d.
        distribution: of P's entries.
        seed: another seed, another P.
        factor: None projects each parameter densely, at parameters × dimensions operations an example. With an
            integer k, each side of a matrix that is longer than k is compressed to k first, at a small part of that
            and with more variance: for whole models. Vectors are projected densely.
    """

    dimensions: int = 200
    distribution: Distribution = "rademacher"
    seed: int = 0
    factor: int | None = None
    _cache: _Cache = field(default_factory=_Cache, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise ValueError(f"`dimensions` must be at least 1, not {self.dimensions}")
        if self.distribution not in ("rademacher", "gaussian"):
            raise ValueError(f"`distribution` must be 'rademacher' or 'gaussian', not {self.distribution!r}")
        if self.factor is not None and self.factor < 1:
            raise ValueError(f"`factor` must be at least 1 or None, not {self.factor}")

    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """Return Pᵀg of each example, float32 [batch, dimensions].

        Args:
            gradients: parameter name -> [batch, *shape], at least one.
        """
        if not gradients:
            raise ValueError("`gradients` is empty: there is nothing to project")
        parts = (self.project_parameter(name, gradient, gradient.shape[1:]) for name, gradient in gradients.items())
        total = next(parts)
        for part in parts:
            total += part
        return total

    def back(self, coefficients: Tensor, parameters: Mapping[str, torch.Size | Tensor]) -> dict[str, Tensor]:
        """Return P c, the change of the parameters that `coefficients` stand for, in float32.

        Args:
            coefficients: c, [dimensions].
            parameters: name -> the parameter or its shape.

        Raises:
            ValueError: `coefficients` is not [dimensions].
        """
        if coefficients.shape != (self.dimensions,):
            raise ValueError(f"`coefficients` must be of shape [{self.dimensions}], not {list(coefficients.shape)}")
        c = coefficients.detach().float()
        shapes = {name: value.shape if isinstance(value, Tensor) else value for name, value in parameters.items()}
        return {name: self._back(c, name, shape) for name, shape in shapes.items()}

    def _back(self, c: Tensor, name: str, shape: Sequence[int]) -> Tensor:
        rows, columns = self._sketches(name, shape, c.device)
        rest = (
            shape[0] if rows is None else rows.shape[1],
            math.prod(shape[1:]) if columns is None else columns.shape[1],
        )
        size = math.prod(shape) if rows is None and columns is None else math.prod(rest)
        change = torch.cat([block @ c for _, block in self._blocks(name, size, c.device)]) / math.sqrt(self.dimensions)
        if rows is None and columns is None:
            return change.reshape(tuple(shape))
        change = change.reshape(rest)
        change = change if rows is None else rows @ change
        return (change if columns is None else change @ columns.T).reshape(tuple(shape))

    def project_parameter(self, name: str, gradient: Form, shape: Sequence[int]) -> Tensor:
        """Return one parameter's share of Pᵀg, float32 [batch, dimensions].

        Args:
            name: the parameter's name, which selects its part of P.
            gradient: in any of the forms of `taskloom.gradients.forms`.
            shape: the parameter's shape.
        """
        gradient = _float32(gradient)
        rows, columns = self._sketches(name, shape, _device(gradient))
        if rows is None and columns is None:
            return self._project_dense(name, gradient, shape)
        return self._project_flat(name, _compress(gradient, rows, columns, shape).flatten(1))

    def _project_dense(self, name: str, gradient: Form, shape: Sequence[int]) -> Tensor:
        if isinstance(gradient, Tensor):
            return self._project_flat(name, gradient.flatten(1))
        if isinstance(gradient, Outer):
            return self._project_outer(name, gradient)
        return self._project_touched(name, gradient, shape)

    def _project_flat(self, name: str, gradient: Tensor) -> Tensor:
        """Project [batch, numbers]."""
        total = gradient.new_zeros(len(gradient), self.dimensions)
        for start, block in self._blocks(name, gradient.shape[1], gradient.device):
            total.addmm_(gradient[:, start : start + len(block)], block)
        return total.div_(math.sqrt(self.dimensions))

    def _project_outer(self, name: str, gradient: Outer) -> Tensor:
        """Project without P's matrix gradients of all examples at once: as many of its rows as fit a few blocks."""
        batch, _, width = gradient.right.shape
        height = gradient.left.shape[2]
        step = max(1, BLOCK_ENTRIES // (batch * width))
        if step >= height:
            return self._project_flat(name, gradient.dense((height * width,)))
        total = gradient.left.new_zeros(batch, self.dimensions)
        for top in range(0, height, step):
            part = Outer(gradient.left[:, :, top : top + step], gradient.right)
            flat = torch.bmm(part.left.mT, part.right).flatten(1)
            for start, block in self._blocks(name, flat.shape[1], flat.device, first=top * width):
                total.addmm_(flat[:, start : start + len(block)], block)
        return total.div_(math.sqrt(self.dimensions))

    def _project_touched(self, name: str, gradient: Rows | Columns, shape: Sequence[int]) -> Tensor:
        """Project the rows (columns) that an example touches: no other entry of P is made."""
        batch, _, width = gradient.values.shape
        total = gradient.values.new_zeros(batch, self.dimensions)
        touched, slot = gradient.index.unique(return_inverse=True)
        entry = torch.arange(width, device=touched.device)
        step = max(1, BLOCK_ENTRIES // (width * max(batch, self.dimensions)))
        for first in range(0, len(touched), step):
            some = touched[first : first + step]
            inside = (slot >= first) & (slot < first + step)
            values = gradient.values * inside.unsqueeze(-1)
            flat = Rows((slot - first).clamp(0, len(some) - 1), values).dense((len(some), width))
            if isinstance(gradient, Rows):
                places = some.unsqueeze(1) * width + entry
            else:
                places = some.unsqueeze(1) + shape[1] * entry
            block = random_rows(self._key(name), places.reshape(-1), self.dimensions, self.distribution)
            total.addmm_(flat.flatten(1), block.float())
        return total.div_(math.sqrt(self.dimensions))

    def _sketches(self, name: str, shape: Sequence[int], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Return A [rows, k] and B [columns, k] of a parameter, None for a side that is left as it is."""
        if self.factor is None or len(shape) < 2:
            return None, None
        lengths = {"rows": shape[0], "columns": math.prod(shape[1:])}
        rows, columns = (
            self._sketch(name, side, length, self.factor, device) if length > self.factor else None
            for side, length in lengths.items()
        )
        return rows, columns

    def _sketch(self, name: str, side: str, length: int, width: int, device: torch.device) -> Tensor:
        place = (name, side, length, device)
        sketch = self._cache.get(place)
        if sketch is None:
            key = stream_key(self.seed, name, side)
            entries = random_rows(key, torch.arange(length, device=device), width, self.distribution)
            sketch = entries.float() / math.sqrt(width)
            self._cache.keep(place, sketch)
        return sketch

    def _blocks(self, name: str, size: int, device: torch.device, first: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Yield rows first ... first + size of a parameter's P, unscaled, as (start, float32 [rows, dimensions])."""
        key = self._key(name)
        step = max(1, BLOCK_ENTRIES // self.dimensions)
        for start in range(0, size, step):
            numbers = min(step, size - start)
            place = (name, first + start, numbers, device)
            block = self._cache.get(place)
            if block is None:
                rows = torch.arange(first + start, first + start + numbers, device=device)
                block = random_rows(key, rows, self.dimensions, self.distribution)
                self._cache.keep(place, block)
            yield start, block.float()

    def _key(self, name: str) -> int:
        return stream_key(self.seed, name)


def _compress(gradient: Form, rows: Tensor | None, columns: Tensor | None, shape: Sequence[int]) -> Tensor:
    """Return AᵀGB of each example, [batch, k or rows, k or columns]."""
    if isinstance(gradient, Columns):
        return _compress(Rows(gradient.index, gradient.values), columns, rows, shape[::-1]).mT
    if isinstance(gradient, Tensor):
        matrix = gradient.flatten(2)
        matrix = matrix if rows is None else rows.T @ matrix
        return matrix if columns is None else matrix @ columns
    if isinstance(gradient, Rows):
        values = gradient.values if columns is None else gradient.values @ columns
        if rows is None:
            return dense(Rows(gradient.index, values), (shape[0], values.shape[2]))
        return torch.bmm(rows[gradient.index].mT, values)
    left = gradient.left if rows is None else gradient.left @ rows
    right = gradient.right if columns is None else gradient.right @ columns
    return torch.bmm(left.mT, right)


def _float32(gradient: Form) -> Form:
    if isinstance(gradient, Tensor):
        return gradient.detach().float()
    if isinstance(gradient, Outer):
        return Outer(gradient.left.float(), gradient.right.float())
    return type(gradient)(gradient.index, gradient.values.float())


def _device(gradient: Form) -> torch.device:
    if isinstance(gradient, Tensor):
        return gradient.device
    return gradient.left.device if isinstance(gradient, Outer) else gradient.values.device
