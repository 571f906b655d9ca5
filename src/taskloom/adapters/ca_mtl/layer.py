"""Where CA-MTL's equations enter an encoder: PEFT layers around the encoder's own modules.

A wrapper holds one set of conditional parts per adapter, in a `ModuleDict` whose name starts with `camtl_`.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from taskloom.adapters.ca_mtl.modules import (
    ConditionalAttentionBias,
    ConditionalBottleneck,
    ConditionalLayerNorm,
    FiLM,
    NormedBottleneck,
    ResidualBottleneck,
)
from taskloom.adapters.context import TaskContext
from taskloom.adapters.wrapping import ModuleWrapper

__all__ = [
    "CAMTLContext",
    "CAMTLLayer",
    "TaskConditionedAttention",
    "TaskConditionedEmbeddings",
    "TaskConditionedLayer",
    "TaskConditionedNorm",
]


class CAMTLContext(TaskContext):
    """What the wrappers of one encoder share during a forward pass, besides the task ids."""

    embeddings: "TaskConditionedEmbeddings"

    def __init__(self) -> None:
        super().__init__()
        #: The attention output of the current layer, for a bottleneck in mode "norm".
        self.attention_output: Tensor | None = None
        #: The previous layer's bottleneck, in mode "chain".
        self.chain: Tensor | None = None

    def start(self, task: Tensor | None) -> None:
        super().start(task)
        self.attention_output = self.chain = None

    def condition(self, adapter: str, batch: int) -> Tensor:
        """Return the transformed task embedding A z + a of each example, FloatTensor[batch, hidden].

        Each place that needs it computes it anew: a shared tensor would not survive reentrant checkpointing, and the
        cost is that of one row per example.
        """
        return self.embeddings.camtl_task_transform[adapter](self.embeddings.task_embedding(adapter, batch))


class CAMTLLayer(ModuleWrapper):
    """A wrapper around one module of the encoder."""

    def __init__(self, base_layer: nn.Module, context: CAMTLContext) -> None:
        super().__init__(base_layer)
        self.context = context

    def condition(self, batch: int) -> Tensor:
        return self.context.condition(self.adapter, batch)


class TaskConditionedEmbeddings(CAMTLLayer):
    """Conditional alignment after the embeddings, and the home of the task embedding z and its transform A z + a."""

    adapter_layer_names = ("camtl_task_embedding", "camtl_task_transform", "camtl_alignment")

    camtl_task_embedding: nn.ModuleDict
    camtl_task_transform: nn.ModuleDict
    camtl_alignment: nn.ModuleDict

    def task_embedding(self, adapter: str, batch: int) -> Tensor:
        """Return z of each example, FloatTensor[batch, hidden]."""
        table = cast("nn.Embedding", self.camtl_task_embedding[adapter])
        return table(self.context.ids(batch, table.weight.device))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        embedded = self.base_layer(*args, **kwargs)
        alignment: FiLM | None = self.part("camtl_alignment")
        if alignment is None:
            return embedded
        return alignment.modulate(embedded, self.task_embedding(self.adapter, len(embedded)))


class TaskConditionedAttention(CAMTLLayer):
    """Self-attention whose scores get the conditional bias, through the additive mask that it takes anyway."""

    adapter_layer_names = ("camtl_attention",)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.adapter:
            self.context.enter_layer(hidden_states)
        bias: ConditionalAttentionBias | None = self.part("camtl_attention")
        if bias is None:
            return self.base_layer(hidden_states, *args, **kwargs)
        mask = args[0] if args else kwargs.get("attention_mask")
        scores = self._masked_bias(bias, hidden_states, mask, kwargs.get("past_key_values"))
        if args:
            args = (scores, *args[1:])
        else:
            kwargs["attention_mask"] = scores
        with _attention_kernel(scores.device):
            return self.base_layer(hidden_states, *args, **kwargs)

    def _masked_bias(self, bias: ConditionalAttentionBias, hidden: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """Return the conditional bias with `mask` in it: None, or [batch, 1, queries, keys], bool or additive."""
        batch, tokens = hidden.shape[:2]
        past = 0 if cache is None else cache.get_seq_length(getattr(self.base_layer, "layer_idx", 0))
        queries = torch.arange(tokens, device=hidden.device) + past
        keys = torch.arange(past + tokens if mask is None else mask.shape[-1], device=hidden.device)
        scores = bias(self.condition(batch), queries, keys).to(hidden.dtype)
        if mask is None and getattr(self.base_layer, "is_causal", False):
            # Attention without a mask would be causal by itself; one with a mask leaves it to the mask.
            mask = keys <= queries.unsqueeze(1)
        if mask is None:
            return scores
        if mask.dtype == torch.bool:
            return torch.where(mask, scores, torch.finfo(scores.dtype).min)
        return scores + mask


def _attention_kernel(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which an attention module whose mask needs a gradient is best run.

    For such a mask torch has no fused kernel on the CPU, and its fallback guards against rows without any key, which
    takes time and which our masks do not have. Whether gradients are recorded decides, and not what is trainable:
    else the outputs of a trained adapter would differ in the last digits from those of the same adapter loaded.
    """
    if device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _WrittenOutAttention()
    return nullcontext()


class _WrittenOutAttention(TorchFunctionMode):
    """Within this context, `scaled_dot_product_attention` is computed by its formula, softmax(Q Kᵀ · scale + M) V."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and not kwargs.get("enable_gqa"):
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: ARG001, where there is a mask, it is the mask that says so
    scale: float | None = None,
) -> Tensor:
    scores = (query * (scale or query.shape[-1] ** -0.5)) @ key.transpose(-2, -1)
    return F.dropout((scores + attn_mask).softmax(dim=-1), dropout_p) @ value


class TaskConditionedNorm(CAMTLLayer):
    """Conditional layer norm, and after a layer's last norm its conditional bottleneck."""

    adapter_layer_names = ("camtl_norm", "camtl_bottleneck")
    other_param_names = ("keeps_output",)

    def __init__(self, base_layer: nn.Module, context: CAMTLContext) -> None:
        super().__init__(base_layer, context)
        #: The adapters whose bottleneck in this layer needs the output of this norm, the attention's.
        self.keeps_output: dict[str, bool] = {}
        self.conditional_norm = ConditionalLayerNorm()

    def forward(self, x: Tensor) -> Tensor:
        film: FiLM | None = self.part("camtl_norm")
        if film is None:
            output = self.base_layer(x)
        else:
            output = self.conditional_norm(x, self.base_layer, film, self.condition(len(x)))
        if self.keeps_output.get(self.adapter):
            self.context.attention_output = output
        bottleneck: NormedBottleneck | ResidualBottleneck | None = self.part("camtl_bottleneck")
        if isinstance(bottleneck, NormedBottleneck):
            attention_output, self.context.attention_output = self.context.attention_output, None
            return bottleneck(output, cast("Tensor", attention_output), self.condition(len(x)))
        if isinstance(bottleneck, ResidualBottleneck):
            return bottleneck(output, self.condition(len(x)))
        return output


class TaskConditionedLayer(CAMTLLayer):
    """A transformer layer with a conditional bottleneck beside it, fed with its output and the previous bottleneck.

    The layers pass on their own outputs; behind the top layer the last bottleneck takes the place of its output. This
    is a wrapper around the whole layer so that the chain stays outside of what gradient checkpointing recomputes.
    """

    adapter_layer_names = ("camtl_chain",)

    def __init__(self, base_layer: nn.Module, context: CAMTLContext, is_top: bool) -> None:
        super().__init__(base_layer, context)
        self.is_top = is_top

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.base_layer(*args, **kwargs)
        bottleneck: ConditionalBottleneck | None = self.part("camtl_chain")
        if bottleneck is None:
            return output
        hidden = output[0] if isinstance(output, tuple) else output
        previous = self.context.chain
        chained = bottleneck(hidden if previous is None else hidden + previous, self.condition(len(hidden)))
        if not self.is_top:
            self.context.chain = chained
            return output
        self.context.chain = None
        return (chained, *output[1:]) if isinstance(output, tuple) else chained
