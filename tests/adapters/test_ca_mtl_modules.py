"""Each equation against its formula, written out for one example by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from taskloom.adapters.ca_mtl.modules import (
    ConditionalAttentionBias,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    FiLM,
    NormedBottleneck,
    ResidualBottleneck,
)

CONDITION, SIZE, BATCH, TOKENS = 5, 6, 3, 4


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_parameters(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def film_by_hand(film: FiLM, z: Tensor) -> tuple[list[float], list[float]]:
    """Return γ and β of one example: W z + b, cut in half."""
    weight, bias, size = film.weight.tolist(), film.bias.tolist(), film.out_features // 2
    both = [sum(w * x for w, x in zip(row, z.tolist(), strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    return both[:size], both[size:]


def modulate_by_hand(film: FiLM, z: Tensor, x: Tensor) -> Tensor:
    gamma, beta = film_by_hand(film, z)
    return torch.tensor([[(1 + g) * v + b for g, b, v in zip(gamma, beta, row, strict=True)] for row in x.tolist()])


def norm_by_hand(x: Tensor, weight: list[float], bias: Tensor, eps: float) -> Tensor:
    rows = []
    for row in x.tolist():
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / len(row)
        normalised = [(v - mean) / math.sqrt(variance + eps) for v in row]
        rows.append([n * w + b for n, w, b in zip(normalised, weight, bias.tolist(), strict=True)])
    return torch.tensor(rows)


def conditional_norm_by_hand(film: FiLM, norm: nn.LayerNorm, z: Tensor, x: Tensor) -> Tensor:
    gamma, beta = film_by_hand(film, z)
    weight = [(1 + g) * w + b for g, b, w in zip(gamma, beta, norm.weight.tolist(), strict=True)]
    return norm_by_hand(x, weight, norm.bias, norm.eps)


def linear_by_hand(linear: nn.Linear, x: Tensor) -> Tensor:
    return torch.stack([linear.weight @ row + linear.bias for row in x])


def bottleneck_by_hand(bottleneck: ConditionalBottleneck, z: Tensor, x: Tensor) -> Tensor:
    own_z = bottleneck.transform.weight @ z + bottleneck.transform.bias
    return linear_by_hand(bottleneck.up, linear_by_hand(bottleneck.down, modulate_by_hand(bottleneck.film, own_z, x)))


def test_conditional_alignment() -> None:
    film = FiLM(CONDITION, SIZE)
    z, x = torch.randn(BATCH, CONDITION), torch.randn(BATCH, TOKENS, SIZE)
    expected = torch.stack([modulate_by_hand(film, z[i], x[i]) for i in range(BATCH)])
    torch.testing.assert_close(film.modulate(x, z), expected)


@pytest.mark.parametrize(("max_length", "num_blocks"), [(6, 2), (7, 3), (9, 4), (4, 1), (3, 5)])
@pytest.mark.parametrize("tokens", [3, 7, 10])
def test_conditional_attention_bias(max_length: int, num_blocks: int, tokens: int) -> None:
    bias = ConditionalAttentionBias(CONDITION, max_length, num_blocks)
    random_parameters(bias)
    z = torch.randn(BATCH, CONDITION)
    s = math.ceil(max_length / num_blocks)
    expected = torch.zeros(BATCH, 1, tokens, tokens)
    for e in range(BATCH):
        gamma, beta = film_by_hand(bias.film, z[e])
        for i in range(min(tokens, max_length)):
            for j in range(min(tokens, max_length)):
                if i // s == j // s:
                    expected[e, 0, i, j] = (1 + gamma[j % s]) * bias.matrix[i, j % s].item() + beta[j % s]
    positions = torch.arange(tokens)
    torch.testing.assert_close(bias(z, positions, positions), expected)
    # One query at a time, as with a key-value cache, sees the row of its own position.
    last = bias(z, positions[-1:], positions)
    torch.testing.assert_close(last, expected[:, :, -1:])


def test_conditional_layer_norm() -> None:
    film, norm = FiLM(CONDITION, SIZE), nn.LayerNorm(SIZE, eps=1e-3)
    random_parameters(norm)
    z, x = torch.randn(BATCH, CONDITION), torch.randn(BATCH, TOKENS, SIZE)
    expected = torch.stack([conditional_norm_by_hand(film, norm, z[i], x[i]) for i in range(BATCH)])
    torch.testing.assert_close(ConditionalLayerNorm()(x, norm, film, z), expected)


def test_conditional_layer_norm_without_bias() -> None:
    film, norm = FiLM(CONDITION, SIZE), nn.LayerNorm(SIZE, bias=False)
    with_zero = nn.LayerNorm(SIZE)
    z, x = torch.randn(BATCH, CONDITION), torch.randn(BATCH, TOKENS, SIZE)
    expected = ConditionalLayerNorm()(x, with_zero, film, z)
    torch.testing.assert_close(ConditionalLayerNorm()(x, norm, film, z), expected)


def test_conditional_bottleneck_and_how_it_joins() -> None:
    bottleneck = ConditionalBottleneck(CONDITION, SIZE, 2)
    normed, residual = NormedBottleneck(bottleneck, SIZE, eps=1e-3), ResidualBottleneck(bottleneck)
    random_parameters(normed)
    z, h, attended = (torch.randn(BATCH, *shape) for shape in ((CONDITION,), (TOKENS, SIZE), (TOKENS, SIZE)))
    for i in range(BATCH):
        b = bottleneck_by_hand(bottleneck, z[i], h[i])
        torch.testing.assert_close(bottleneck(h, z)[i], b)
        torch.testing.assert_close(residual(h, z)[i], h[i] + b)
        expected = conditional_norm_by_hand(normed.norm_film, normed.norm, z[i], b + attended[i])
        torch.testing.assert_close(normed(h, attended, z)[i], expected, rtol=1e-4, atol=1e-5)
