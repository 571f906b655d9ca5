"""The equations of Hyperdecoders, against themselves written out number by number."""

import math

import pytest
import torch
from torch import Tensor

from taskloom.adapters.hyperdecoder.modules import (
    AdapterWeights,
    Generator,
    SharedAdapter,
    TaskAdapters,
    bottleneck,
    mean_pool,
)

HIDDEN, ADAPTER, BOTTLENECK, LAYERS, TASKS = 3, 2, 4, 5, 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def matrix_by_hand(weight: Tensor, bias: Tensor, x: list[float]) -> list[float]:
    return [sum(float(weight[i, j]) * x[j] for j in range(len(x))) + float(bias[i]) for i in range(len(weight))]


def relu(x: list[float]) -> list[float]:
    return [max(value, 0.0) for value in x]


def adapter_by_hand(x: Tensor, down: Tensor, up: Tensor, down_bias: Tensor, up_bias: Tensor) -> list[float]:
    hidden = relu([sum(float(x[i] * down[i, j]) for i in range(HIDDEN)) + float(down_bias[j]) for j in range(ADAPTER)])
    return [sum(hidden[j] * float(up[j, i]) for j in range(ADAPTER)) + float(up_bias[i]) for i in range(HIDDEN)]


def random_weights(sets: int) -> AdapterWeights:
    return AdapterWeights(
        torch.randn(sets, HIDDEN, ADAPTER),
        torch.randn(sets, ADAPTER, HIDDEN),
        torch.randn(sets, ADAPTER),
        torch.randn(sets, HIDDEN),
    )


@pytest.mark.parametrize("every", [1, 2])
def test_bottleneck_uses_each_rows_own_weights(every: int) -> None:
    weights = random_weights(2)
    x = torch.randn(2 * every, 4, HIDDEN)
    found = bottleneck(x, weights)
    for row in range(2 * every):
        own = [part[row // every] for part in weights]
        for token in range(4):
            expected = adapter_by_hand(x[row, token], *own)
            assert found[row, token].tolist() == pytest.approx(expected, abs=1e-5)


def test_rows_that_weights_cannot_share_out_are_refused() -> None:
    with pytest.raises(ValueError, match="3 rows, which 2 sets"):
        bottleneck(torch.randn(3, 2, HIDDEN), random_weights(2))  # as many numbers as two rows of three tokens have


def test_bottleneck_without_tokens_or_in_half_precision() -> None:
    weights = random_weights(2)
    assert bottleneck(torch.randn(2, 0, HIDDEN), weights).shape == (2, 0, HIDDEN)
    assert bottleneck(torch.randn(2, 4, HIDDEN).bfloat16(), weights).dtype == torch.bfloat16


def test_mean_pool_counts_real_tokens_alone() -> None:
    states = torch.randn(3, 4, HIDDEN)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    found = mean_pool(states, mask)
    torch.testing.assert_close(found[0], (states[0, 1] + states[0, 2]) / 2)
    torch.testing.assert_close(found[1], states[1].sum(dim=0) / 4)
    assert found[2].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(mean_pool(states, None), states.sum(dim=1) / 4)
    torch.testing.assert_close(mean_pool(states, mask.bool()), found)


def test_shared_and_task_adapters() -> None:
    shared = SharedAdapter(HIDDEN, ADAPTER)
    tasks = TaskAdapters(TASKS, HIDDEN, ADAPTER)
    for parameter in (*shared.parameters(), *tasks.parameters()):
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 4, HIDDEN)
    by_hand = adapter_by_hand(x[1, 2], shared.down.weight.T, shared.up.weight.T, shared.down.bias, shared.up.bias)
    assert shared(x)[1, 2].tolist() == pytest.approx(by_hand, abs=1e-5)
    found = bottleneck(x, tasks(torch.tensor([2, 0])))
    down, up, down_bias, up_bias = (table.weight[2] for table in (tasks.down, tasks.up, tasks.down_bias, tasks.up_bias))
    by_hand = adapter_by_hand(x[0, 1], down.view(HIDDEN, ADAPTER), up.view(ADAPTER, HIDDEN), down_bias, up_bias)
    assert found[0, 1].tolist() == pytest.approx(by_hand, abs=1e-5)


def generator(**fields: object) -> Generator:
    made = Generator(LAYERS, HIDDEN, ADAPTER, BOTTLENECK, layer_embedding=2, **fields)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def weights_by_hand(made: Generator, inputs: list[float], layer: int) -> list[Tensor]:
    if made.mlp is not None:
        first, _, second = made.mlp
        inputs = matrix_by_hand(second.weight, second.bias, relu(matrix_by_hand(first.weight, first.bias, inputs)))
    embedded = inputs + made.layer_embedding.weight[layer].tolist()
    z = relu(matrix_by_hand(made.input.weight, made.input.bias, embedded))
    down, up, down_bias, up_bias = (
        torch.tensor(matrix_by_hand(linear.weight.T, linear.bias, z))
        for linear in (made.down, made.up, made.down_bias, made.up_bias)
    )
    return [down.view(HIDDEN, ADAPTER), up.view(ADAPTER, HIDDEN), down_bias, up_bias]


@pytest.mark.parametrize("process", [False, True])
def test_generated_weights(process: bool) -> None:
    made = generator(process=process)
    pooled = torch.randn(2, HIDDEN)
    found = made(made.process(pooled), 3)
    for row in range(2):
        for part, expected in zip(found, weights_by_hand(made, pooled[row].tolist(), 3), strict=True):
            torch.testing.assert_close(part[row], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tasks", [[2, 0], [2, 0, 1, 1, 2]])
def test_weights_generated_from_task_embeddings(tasks: list[int]) -> None:
    """Of fewer examples than tasks one by one, of more once a task: no difference in the result."""
    made = generator(num_tasks=TASKS, process=True)
    assert made.mlp is None, "task embeddings are generated from as they are"
    found = made(torch.tensor(tasks), 1)
    assert made.task_embedding is not None
    for row, task in enumerate(tasks):
        expected = weights_by_hand(made, made.task_embedding.weight[task].tolist(), 1)
        for part, by_hand in zip(found, expected, strict=True):
            torch.testing.assert_close(part[row], by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("source", [torch.randn(2, HIDDEN), torch.tensor([2, 0]), torch.tensor([2, 0, 1, 1, 2])])
def test_all_layers_at_once(source: Tensor) -> None:
    made = generator(num_tasks=None if source.is_floating_point() else TASKS)
    layers = made(source).split(len(source))
    assert len(layers) == LAYERS
    for layer, found in enumerate(layers):
        for part, expected in zip(found, made(source, layer), strict=True):
            torch.testing.assert_close(part, expected)


def test_published_start() -> None:
    """Hyper-fan-in: uniform within 1e-3 sqrt(3 / (bottleneck fan-in)), so that generated weights have variance
    1e-6 |z|^2 / (bottleneck fan-in); biases of the generator are zero; learnt adapters are Xavier with gain 1e-4."""
    hidden, adapter, width = 40, 20, 30
    made = Generator(2, hidden, adapter, width, layer_embedding=10)
    for linear, fan_in in ((made.down, hidden), (made.up, adapter), (made.down_bias, 1), (made.up_bias, 1)):
        bound = 1e-3 * math.sqrt(3 / (width * fan_in))
        assert 0.9 * bound < linear.weight.abs().max() <= bound
        assert not linear.bias.any()
    for adapters in (SharedAdapter(hidden, adapter), TaskAdapters(3, hidden, adapter)):
        for name, parameter in adapters.named_parameters():
            bound = 0.0 if "bias" in name else 1e-4 * math.sqrt(6 / (hidden + adapter))
            assert 0.9 * bound <= parameter.abs().max() <= bound
