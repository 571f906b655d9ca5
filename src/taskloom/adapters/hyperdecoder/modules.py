"""The equations of Hyperdecoders (arXiv 2203.08304, section 3): the bottleneck adapter and its weights' generator.

An adapter stands beside the feed-forward block of a layer (He et al. 2022's parallel adapter):

    h' = h + FF(norm(h)) + ReLU(x D + b_D) U + b_U,    x = h or norm(h)

with D of `[hidden, adapter]` and U of `[adapter, hidden]`. Where these are generated, one generator serves all layers
of a stack: from an input s and the embedding l_i of layer i,

    z = ReLU(W [s; l_i] + b),    D = W_D z + c_D,    U = W_U z + c_U,    b_D = V_D z + d_D,    b_U = V_U z + d_U

s is the embedding of a task, or the mean of the states of an example, put through Linear-ReLU-Linear.
"""

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["AdapterWeights", "Generator", "SharedAdapter", "TaskAdapters", "bottleneck", "mean_pool"]

#: Gain of the Xavier initialisation of learnt adapters, which start as almost nothing (the published value).
_GAIN = 1e-4
#: Scale of the hyper-fan-in initialisation, for the same reason (the published value).
_SCALE = 1e-3


class AdapterWeights(NamedTuple):
    """The weights of one layer's adapters, one set for each example or group of examples."""

    down: Tensor  #: D, FloatTensor[sets, hidden, adapter]
    up: Tensor  #: U, FloatTensor[sets, adapter, hidden]
    down_bias: Tensor  #: b_D, FloatTensor[sets, adapter]
    up_bias: Tensor  #: b_U, FloatTensor[sets, hidden]

    def of(self, index: Tensor) -> "AdapterWeights":
        """Return the sets that `index`, LongTensor[any], picks."""
        return AdapterWeights(*(part.index_select(0, index) for part in self))

    def to(self, dtype: torch.dtype) -> "AdapterWeights":
        return self if self.down.dtype == dtype else AdapterWeights(*(part.to(dtype) for part in self))

    def split(self, sets: int) -> "list[AdapterWeights]":
        """Return consecutive parts of so many sets each."""
        return [AdapterWeights(*parts) for parts in zip(*(part.split(sets) for part in self), strict=True)]


def bottleneck(x: Tensor, weights: AdapterWeights) -> Tensor:
    """Return ReLU(x D + b_D) U + b_U.

    Args:
        x: FloatTensor[rows, tokens, hidden]. Rows may be a multiple of the sets of weights: the rows of one set, such
            as an example's beams, then stand next to each other.
        weights: the weights, in any type; the product is made in that of `x`.

    Raises ValueError if the rows cannot be shared out among the sets.
    """
    sets = len(weights.down)
    if len(x) % sets:
        raise ValueError(f"`x` has {len(x)} rows, which {sets} sets of adapter weights cannot share out evenly.")
    down, up, down_bias, up_bias = weights.to(x.dtype)
    grouped = x.reshape(sets, -1, x.shape[-1])
    hidden = torch.baddbmm(down_bias.unsqueeze(1), grouped, down).relu()
    return torch.baddbmm(up_bias.unsqueeze(1), hidden, up).view(x.shape)


def mean_pool(states: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the real tokens, FloatTensor[rows, hidden]; zero for a row without any.

    Args:
        states: FloatTensor[rows, tokens, hidden].
        mask: [rows, tokens], 0 or False on padding; None counts every token.
    """
    if mask is None:
        return states.mean(dim=1)
    # Not a product with the mask: what stands on padding may be NaN.
    real = (mask != 0).unsqueeze(-1)
    total = torch.where(real, states, 0).sum(dim=1)
    return total / real.sum(dim=1).clamp(min=1)


class SharedAdapter(nn.Module):
    """A bottleneck adapter with weights of its own, the same for all examples."""

    def __init__(self, hidden: int, adapter: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, adapter)
        self.up = nn.Linear(adapter, hidden)
        for linear in (self.down, self.up):
            nn.init.xavier_uniform_(linear.weight, gain=_GAIN)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapter's output for `x`, FloatTensor[..., hidden]."""
        return self.up(self.down(x.to(self.down.weight.dtype)).relu()).to(x.dtype)


class TaskAdapters(nn.Module):
    """Bottleneck adapters with weights of their own, one for each task."""

    def __init__(self, num_tasks: int, hidden: int, adapter: int) -> None:
        super().__init__()
        self.shape = (hidden, adapter)
        # Tables with a row for each task, in modules whose per-example gradients are known.
        self.down, self.up, self.down_bias, self.up_bias = (
            nn.Embedding.from_pretrained(torch.zeros(num_tasks, size), freeze=False)
            for size in (hidden * adapter, adapter * hidden, adapter, hidden)
        )
        for table, shape in ((self.down, (hidden, adapter)), (self.up, (adapter, hidden))):
            for of_one_task in table.weight.data:
                nn.init.xavier_uniform_(of_one_task.view(shape), gain=_GAIN)

    def forward(self, task: Tensor) -> AdapterWeights:
        """Return the weights of each of `task`, LongTensor[sets]."""
        hidden, adapter = self.shape
        down, up = self.down(task).view(-1, hidden, adapter), self.up(task).view(-1, adapter, hidden)
        return AdapterWeights(down, up, self.down_bias(task), self.up_bias(task))


class Generator(nn.Module):
    """Generates the adapter weights of all layers of a stack, a layer at a time or all at once.

    Args:
        num_layers: layers that are adapted.
        hidden: width of the model and of the generator's input.
        adapter: width of the adapters.
        bottleneck: width of the generator's hidden layer.
        layer_embedding: width of the layer embeddings.
        num_tasks: None generates from states; a number also learns as many task embeddings to generate from.
        process: put pooled states through Linear-ReLU-Linear first.
    """

    #: It lives in one layer and serves all; see `taskloom.sharding`.
    sharded_calls: ClassVar[tuple[str, ...]] = ("process",)

    def __init__(
        self,
        num_layers: int,
        hidden: int,
        adapter: int,
        bottleneck: int,
        layer_embedding: int,
        num_tasks: int | None = None,
        process: bool = False,
    ) -> None:
        super().__init__()
        #: Whether examples of one task have their weights generated once; see `taskloom.gradients.capture`.
        self.merges_examples = True
        self.shape = (hidden, adapter)
        self.task_embedding = None if num_tasks is None else nn.Embedding(num_tasks, hidden)
        self.mlp = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
            if process and num_tasks is None
            else None
        )
        self.layer_embedding = nn.Embedding(num_layers, layer_embedding)
        self.input = nn.Linear(hidden + layer_embedding, bottleneck)
        # Conv1D is a linear map whose weight is [inputs, outputs]. These weights are large, and every layer adds to
        # their gradient: of this shape autograd adds in place, of the transposed one it holds several copies.
        self.down = Conv1D(hidden * adapter, bottleneck)
        self.up = Conv1D(adapter * hidden, bottleneck)
        self.down_bias = Conv1D(adapter, bottleneck)
        self.up_bias = Conv1D(hidden, bottleneck)
        # Hyper-fan-in: the generated weights, not the generator's, get the variance that their own fan-in asks for.
        for linear, fan_in in ((self.down, hidden), (self.up, adapter), (self.down_bias, 1), (self.up_bias, 1)):
            bound = _SCALE * math.sqrt(3 / (bottleneck * fan_in))
            nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(linear.bias)

    def process(self, pooled: Tensor) -> Tensor:
        """Return what weights are generated from, FloatTensor[sets, hidden], of pooled states of the same shape."""
        pooled = pooled.to(self.input.weight.dtype)
        return pooled if self.mlp is None else self.mlp(pooled)

    def forward(self, source: Tensor, layer: int | None = None) -> AdapterWeights:
        """Return the weights of one layer, or those of all layers one after the other: a set for each of `source`.

        Args:
            source: processed states, FloatTensor[sets, hidden], or task ids, LongTensor[sets].
            layer: the layer's number among those that are adapted; None makes all layers' weights in one product,
                which reads this generator's large matrices once.
        """
        all_layers = torch.arange(self.layer_embedding.num_embeddings, device=source.device)
        layers = all_layers if layer is None else all_layers[layer : layer + 1]
        if self.task_embedding is None:
            return self._generate(source, layers)
        table = self.task_embedding.weight
        if self.merges_examples and len(table) < len(source):
            starts = len(table) * torch.arange(len(layers), device=source.device)
            return self._generate(table, layers).of((starts.unsqueeze(1) + source).flatten())
        return self._generate(self.task_embedding(source), layers)

    def _generate(self, inputs: Tensor, layers: Tensor) -> AdapterWeights:
        """Return the weights of `layers`, LongTensor[layers], generated from `inputs`, FloatTensor[sets, hidden]."""
        embedded = self.layer_embedding(layers.repeat_interleave(len(inputs)))
        z = self.input(torch.cat([inputs.repeat(len(layers), 1), embedded.to(inputs.dtype)], dim=1)).relu()
        hidden, adapter = self.shape
        return AdapterWeights(
            down=self.down(z).view(-1, hidden, adapter),
            up=self.up(z).view(-1, adapter, hidden),
            down_bias=self.down_bias(z),
            up_bias=self.up_bias(z),
        )
