"""How well gradients agree: inner products and cosines."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["cosine", "inner"]

Gradient = Tensor | Mapping[str, Tensor] | Sequence[Tensor | None]


def inner(a: Gradient, b: Gradient) -> Tensor:
    """Return ⟨a, b⟩, summed in float32 or better.

    Args:
        a: a gradient as name -> tensor or as a sequence of tensors (None counts as zero, as `autograd.grad` returns it
            for unused parameters), or rows [n, dimensions] or one row [dimensions].
        b: of the same kind; rows may differ in number.

    Returns:
        A scalar; for rows [n, d] and [m, d] the matrix [n, m], for a row and rows the vector.

    Raises:
        ValueError: the names, numbers or shapes of `a` and `b` do not fit.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape[-1:] != b.shape[-1:] or not (0 < a.dim() < 3 and 0 < b.dim() < 3):
            raise ValueError(
                f"`a` and `b` must be rows of one length, not of shapes {list(a.shape)} and {list(b.shape)}"
            )
        return _wide(a) @ _wide(b).T if b.dim() == 2 else _wide(a) @ _wide(b)
    total = torch.zeros(())
    for x, y in _pairs(a, b):
        total = total.to(x.device) + torch.dot(_wide(x).flatten(), _wide(y).flatten())
    return total


def cosine(a: Gradient, b: Gradient) -> Tensor:
    """Return ⟨a, b⟩ / (|a| |b|), 0 where either is zero; arguments and shapes as in `inner`."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        product = inner(a, b)
        norms = _wide(a).norm(dim=-1), _wide(b).norm(dim=-1)
        scale = norms[0].unsqueeze(-1) * norms[1] if a.dim() == b.dim() == 2 else norms[0] * norms[1]
        return torch.where(scale > 0, product / scale, torch.zeros_like(product))
    scale = (inner(a, a) * inner(b, b)).sqrt()
    return torch.where(scale > 0, inner(a, b) / scale, torch.zeros_like(scale))


def _pairs(a: Gradient, b: Gradient) -> list[tuple[Tensor, Tensor]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            raise ValueError(f"`a` and `b` must name the same parameters; they differ in {sorted(a.keys() ^ b.keys())}")
        pairs = [(value, b[name]) for name, value in a.items()]
    elif isinstance(a, Sequence) and isinstance(b, Sequence):
        if len(a) != len(b):
            raise ValueError(f"`a` and `b` must be of one length, not {len(a)} and {len(b)}")
        pairs = list(zip(a, b, strict=True))
    else:
        raise ValueError(f"`a` and `b` must be of one kind, not {type(a).__name__} and {type(b).__name__}")
    both = [(x, y) for x, y in pairs if x is not None and y is not None]
    for x, y in both:
        if x.shape != y.shape:
            raise ValueError(f"`a` and `b` must be of the same shapes, not {list(x.shape)} and {list(y.shape)}")
    return both


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
