"""Random numbers addressed by place: entry (row, column) of a matrix follows from a key and nothing else.

A counter-based generator (SplitMix64, Steele, Lea & Flood, 2014): the n-th word is a fixed mix of key + n·γ. Any block
of a matrix can thus be made anywhere, in any order, on any device, by any process, and be the same.
"""

import hashlib
import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Distribution", "random_rows", "stream_key"]

Distribution = Literal["rademacher", "gaussian"]


def stream_key(*parts: object) -> int:
    """Return a signed 64-bit key of `parts`, such as a seed and a parameter's name."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def random_rows(key: int, rows: Tensor, columns: int, distribution: Distribution) -> Tensor:
    """Return rows of the matrix that `key` names: entries of mean 0 and variance 1.

    Args:
        key: from `stream_key`.
        rows: int64 [n], the rows' numbers.
        columns: width of the matrix.
        distribution: ±1 with equal probability, as int8, or standard normal, as float32.

    Returns:
        [n, columns].
    """
    if distribution == "rademacher":
        words = _words(key, rows, -(-columns // 64))
        octets = words.view(torch.uint8)[:, : -(-columns // 8)]
        signs = _signs(words.device).index_select(0, octets.reshape(-1).int())
        return signs.view(len(rows), -1)[:, :columns]
    words = _words(key, rows, -(-columns // 2))
    # Box-Muller: the two halves of a word are a radius and an angle, which make two independent normals.
    radius = ((words >> 40) & 0xFFFFFF).float().add_(0.5).mul_(2**-24).log_().mul_(-2).sqrt_()
    angle = (words & 0xFFFFFF).float().mul_(2 * math.pi * 2**-24)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).view(len(rows), -1)[:, :columns]


def _words(key: int, rows: Tensor, width: int) -> Tensor:
    """Return the 64-bit words [n, width] of the rows, as int64; arithmetic wraps around."""
    column = torch.arange(1, width + 1, device=rows.device)
    x = (rows.unsqueeze(1) * width + column).mul_(_signed(0x9E3779B97F4A7C15)).add_(key)
    x = _fold(x, 30).mul_(_signed(0xBF58476D1CE4E5B9))
    x = _fold(x, 27).mul_(_signed(0x94D049BB133111EB))
    return _fold(x, 31)


def _fold(x: Tensor, shift: int) -> Tensor:
    # torch shifts int64 arithmetically: the mask drops the copies of the sign.
    return x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


@cache
def _signs(device: torch.device) -> Tensor:
    """Return the eight signs of each byte, int8 [256, 8]."""
    bits = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1
    return (2 * bits - 1).to(device, torch.int8)
