"""Hyperdecoders as their authors constructed them (Ivison and Peters 2022, arXiv 2203.08304), on one page.

Independent of `taskloom`. T5's stacks are transformers' own; beside every feed-forward block stands an adapter, and
before each call of a stack all of its layers' adapters are made at once: for a decoder at every decoding step. Modes
have the published names: "none", "manual" (learnt), "manual_specific" (learnt, one a task), "task" (generated from a
task embedding) and "generated" (generated from the mean of the encoder's states). Two liberties: each example of "task"
and "manual_specific" has its own task, in evaluation too, where the authors take the first example's for all; and the
learnt adapters that the authors keep beside generated ones without ever using them are left out.
"""

import copy
import math

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5LayerFF, T5Stack


class Adapter(nn.Module):
    def __init__(self, hidden: int, size: int, learnt: bool) -> None:
        super().__init__()
        self.given: tuple[Tensor, ...] | None = None  # down, its bias, up, its bias, each with a row an example
        if learnt:
            self.down, self.up = nn.Linear(hidden, size), nn.Linear(size, hidden)
            for linear in (self.down, self.up):
                nn.init.xavier_uniform_(linear.weight, gain=1e-4)
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.given is None:
            return self.up(self.down(x).relu())
        down, down_bias, up, up_bias = self.given
        return (x @ down + down_bias.unsqueeze(1)).relu() @ up + up_bias.unsqueeze(1)


class TaskAdapters(nn.Module):
    def __init__(self, hidden: int, size: int, num_tasks: int) -> None:
        super().__init__()
        self.down, self.up = (nn.Parameter(torch.empty(num_tasks, *s)) for s in ((hidden, size), (size, hidden)))
        self.down_bias, self.up_bias = (nn.Parameter(torch.zeros(num_tasks, s)) for s in (size, hidden))
        for weight in (self.down, self.up):
            nn.init.xavier_uniform_(weight, gain=1e-4)

    def forward(self, task: Tensor) -> tuple[Tensor, ...]:
        return self.down[task], self.down_bias[task], self.up[task], self.up_bias[task]


class Generator(nn.Module):
    def __init__(self, hidden: int, num_layers: int, size: int, bottleneck: int) -> None:
        super().__init__()
        self.layer_embedding = nn.Embedding(num_layers, 10)
        self.bottleneck = nn.Linear(hidden + 10, bottleneck)
        self.down, self.up = nn.Linear(bottleneck, hidden * size), nn.Linear(bottleneck, size * hidden)
        self.down_bias, self.up_bias = nn.Linear(bottleneck, size), nn.Linear(bottleneck, hidden)
        fan_ins = {self.down: hidden, self.up: size, self.down_bias: 1, self.up_bias: 1}  # of what is generated
        for linear, fan_in in fan_ins.items():
            bound = 1e-3 * math.sqrt(3 / (bottleneck * fan_in))
            nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(linear.bias)
        self.shape = (hidden, size)

    def forward(self, embedding: Tensor) -> list[tuple[Tensor, ...]]:
        layers, (hidden, size) = [], self.shape
        for layer in self.layer_embedding.weight:
            x = torch.cat([embedding, layer.expand(len(embedding), -1)], dim=1)
            x = self.bottleneck(x).relu()
            down, up = self.down(x).view(-1, hidden, size), self.up(x).view(-1, size, hidden)
            layers.append((down, self.down_bias(x), up, self.up_bias(x)))
        return layers


class FeedForward(nn.Module):
    def __init__(self, layer: T5LayerFF, adapter: Adapter, norm_input: bool) -> None:
        super().__init__()
        self.layer_norm, self.DenseReluDense, self.dropout = layer.layer_norm, layer.DenseReluDense, layer.dropout
        self.adapter, self.norm_input = adapter, norm_input

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.layer_norm(hidden)
        adapted = self.adapter(normed if self.norm_input else hidden)
        return hidden + self.dropout(self.DenseReluDense(normed)) + adapted


def mean_pooling(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class AdaptedStack(T5Stack):
    def __init__(
        self, config: T5Config, mode: str, size: int, bottleneck: int, num_tasks: int, norm_input: bool, mlp: bool
    ) -> None:
        super().__init__(config)
        self.mode, hidden, num_layers = mode, config.d_model, config.num_layers
        if mode == "none":
            return
        # An encoder that generates its own adapters uses learnt ones in its first pass.
        learnt = mode == "manual" or (mode == "generated" and not config.is_decoder)
        for block in self.block:
            block.layer[-1] = FeedForward(block.layer[-1], Adapter(hidden, size, learnt), norm_input)
        if mode == "manual_specific":
            self.task_adapters = nn.ModuleList(TaskAdapters(hidden, size, num_tasks) for _ in range(num_layers))
        if mode in ("task", "generated"):
            self.generator = Generator(hidden, num_layers, size, bottleneck)
        if mode == "task":
            self.task_embedding = nn.Embedding(num_tasks, hidden)
        if mode == "generated":
            layers = (nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)) if mlp else ()
            self.mlp = nn.Sequential(*layers)

    def give(self, layers: list[tuple[Tensor, ...]] | None) -> None:
        for i, block in enumerate(self.block):
            block.layer[-1].adapter.given = None if layers is None else layers[i]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        task: Tensor | None = None,
        **kwargs,
    ):
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
            **kwargs,
        }
        if self.mode in ("manual_specific", "task", "generated"):
            self.give(None)
        if self.mode == "manual_specific":
            self.give([adapters(task) for adapters in self.task_adapters])
        elif self.mode == "task":
            self.give(self.generator(self.task_embedding(task)))
        elif self.mode == "generated":
            states, mask = encoder_hidden_states, encoder_attention_mask
            if not self.is_decoder:
                states, mask = super().forward(**inputs).last_hidden_state, attention_mask
            self.give(self.generator(self.mlp(mean_pooling(states, mask))))
        return super().forward(**inputs)


class PublishedHyperdecoder(T5ForConditionalGeneration):
    """T5 with adapters; `task` (LongTensor[batch]) and `attention_mask` go with the inputs, also to `generate`.

    Its parameters have T5's names, and beside them those in `added_parameters`.
    """

    def __init__(
        self,
        config: T5Config,
        encoder: str = "manual",
        decoder: str = "generated",
        encoder_adapter_dim: int = 64,
        decoder_adapter_dim: int = 64,
        bottleneck: int = 128,
        num_tasks: int = 1,
        adapter_norm_input: bool = False,
        process_encoder_output: bool = True,
    ) -> None:
        super().__init__(copy.deepcopy(config))
        common = (bottleneck, num_tasks, adapter_norm_input, process_encoder_output)
        self.encoder = AdaptedStack(self.encoder.config, encoder, encoder_adapter_dim, *common)
        self.decoder = AdaptedStack(self.decoder.config, decoder, decoder_adapter_dim, *common)
        self.encoder.embed_tokens = self.decoder.embed_tokens = self.shared

    def added_parameters(self) -> dict[str, nn.Parameter]:
        added = ("adapter", "task_adapters", "generator", "task_embedding", "mlp")
        return {name: p for name, p in self.named_parameters() if any(part in added for part in name.split("."))}
