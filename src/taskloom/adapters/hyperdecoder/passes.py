"""What a stack's adapters are generated from in a forward pass, and the weights that are kept while it generates text.

In a forward pass with gradients each layer makes its weights where it uses them, so that not all layers' are alive at
once. While text is generated, the weights of a sequence are made once, for all layers together, and kept until it is
finished: of an encoder-decoder model for as long as the decoder is called with the same encoder states, of a
decoder-only model beside the key-value cache, whose reordering they follow.
"""

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor
from transformers import Cache

from taskloom.adapters.context import PassContext
from taskloom.adapters.hyperdecoder.modules import AdapterWeights, mean_pool

if TYPE_CHECKING:
    from taskloom.adapters.hyperdecoder.layer import HyperdecoderLayer

__all__ = [
    "KeptFor",
    "Pass",
    "Prompt",
    "Source",
    "StackContext",
    "attach_source",
    "attached_source",
]

#: Where a key-value cache carries what its sequences' adapters are generated from.
_ATTRIBUTE = "hyperdecoder_source"
_REORDERING = ("reorder_cache", "batch_repeat_interleave", "batch_select_indices")


@dataclass(eq=False)
class Source:
    """What adapter weights are generated from, and the weights themselves where they are kept.

    Attributes:
        task: task ids, LongTensor[sets]; None if the adapters do not depend on the task.
        pooled: mean states, FloatTensor[sets, hidden]; None if the adapters do not depend on them, or not known yet.
        inputs: what the generator makes of `pooled` once for all layers.
        kept: generated weights by layer number; None keeps none.
    """

    task: Tensor | None = None
    pooled: Tensor | None = None
    inputs: Tensor | None = None
    kept: dict[int, AdapterWeights] | None = None

    def pick(self, index: Tensor) -> None:
        """Continue with the sequences of `index`, LongTensor[any]."""
        if self.task is not None:
            self.task = self.task.index_select(0, index.to(self.task.device))
        if self.pooled is not None:
            self.pooled = self.pooled.index_select(0, index.to(self.pooled.device))
        if self.inputs is not None:
            self.inputs = self.inputs.index_select(0, index.to(self.inputs.device))
        if self.kept is not None:
            self.kept = {layer: weights.of(index.to(weights.down.device)) for layer, weights in self.kept.items()}


@dataclass(eq=False)
class Prompt:
    """The prompts of a decoder-only model's input, whose states are pooled.

    Attributes:
        length: leading columns that are the prompt, padding included, an int or LongTensor[rows].
        mask: attention mask [prompts, columns] of at least these columns; None counts every column.
        every: rows that belong to one prompt, such as its beams.
    """

    length: int | Tensor
    mask: Tensor | None
    every: int = 1

    def pool(self, hidden: Tensor) -> Tensor:
        """Return the mean states of the prompts, FloatTensor[prompts, hidden], of those of all rows."""
        hidden, mask = hidden[:: self.every], self.mask
        if isinstance(self.length, int):
            return mean_pool(hidden[:, : self.length], None if mask is None else mask[:, : self.length])
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        inside = columns < self.length[:: self.every].unsqueeze(1)
        return mean_pool(hidden, inside if mask is None else inside & (mask[:, : len(columns)] != 0))


@dataclass(eq=False)
class Pass:
    """One forward pass of a stack.

    Attributes:
        source: what the adapters are generated from.
        learnt: use the adapters that need no source: an encoder's first pass.
        start: first column that is adapted, an int or LongTensor[rows].
        prompt: the prompt to pool on the way, if any.
    """

    source: Source = field(default_factory=Source)
    learnt: bool = False
    start: int | Tensor = 0
    prompt: Prompt | None = None


@dataclass(eq=False)
class KeptFor:
    """What kept weights of a decoder belong to: the very tensors that it is called with, and unchanged parameters."""

    states: Tensor
    mask: Tensor | None
    task: Tensor | None
    version: int

    def others(self) -> tuple[Tensor | None, Tensor | None, int]:
        return self.mask, self.task, self.version


class StackContext(PassContext[Pass]):
    """The forward pass that one stack is in; shared by the stack's adapters.

    Attributes:
        layers: the wrapped modules, lowest first.
        homes: by adapter, the layer in which the generator lives.
        expands: whether rows of a batch may stand for several of an example, as in a generation.
    """

    layers: "list[HyperdecoderLayer]"
    homes: "dict[str, HyperdecoderLayer]"

    def __init__(self) -> None:
        super().__init__()
        self.expands = False
        self._recent: tuple[ref[Tensor], tuple[Tensor | None, Tensor | None, int], Source] | None = None
        self._records_gradients = False

    @property
    def home(self) -> "HyperdecoderLayer":
        """The layer in which the generator of the adapter in use lives."""
        return self.homes[self.layers[0].adapter]

    @property
    def running(self) -> Pass:
        return self._state if self._state is not None else Pass()

    def begin(self, state: Pass | None) -> None:
        super().begin(state)
        self._records_gradients = torch.is_grad_enabled()

    def check_checkpointing(self) -> None:
        """Raise RuntimeError if the running layer records no gradients although its stack does."""
        if self._records_gradients and not torch.is_grad_enabled() and self.running.source.inputs is not None:
            raise RuntimeError(
                "Reentrant gradient checkpointing would lose the gradient of what adapters are generated from. Use "
                'gradient_checkpointing_kwargs={"use_reentrant": False}.'
            )

    def keep(self, source: Source, key: "KeptFor") -> None:
        """Keep the weights that `source` generates for as long as the decoder is called with what `key` says."""
        source.kept = {}

        def forget(_: Any) -> None:
            source.kept = {}

        self._recent = ref(key.states, forget), key.others(), source

    def kept_for(self, key: "KeptFor") -> Source | None:
        """Return the source whose weights were kept for `key`, or None."""
        if self._recent is None:
            return None
        states, others, source = self._recent
        same = states() is key.states and all(map(operator.is_, others[:2], key.others()[:2]))
        return source if same and others[2] == key.version else None

    @property
    def version(self) -> int:
        """A number that grows whenever a parameter that weights are made from is changed in place."""
        return sum(
            parameter._version for layer in self.layers for parameter in layer.sources() if not parameter.is_inference()
        )

    def forget(self) -> None:
        """Let go of kept weights, because parameters may have changed or the text is finished."""
        self._recent = self._state = None


def attached_source(cache: Cache | None) -> Source | None:
    """Return what the adapters of a cache's sequences are generated from, or None if it is not known."""
    return getattr(cache, _ATTRIBUTE, None)


def attach_source(cache: Cache, source: Source) -> None:
    """Let `cache` carry what its sequences' adapters are generated from, through reordering and copying."""
    setattr(cache, _ATTRIBUTE, source)
    for name in _REORDERING:
        if not isinstance(getattr(cache, name), _Following):
            setattr(cache, name, _Following(cache, name))


class _Following:
    """A cache's method that reorders its sequences, and what is attached to them; copies follow their own cache."""

    def __init__(self, cache: Cache, name: str) -> None:
        self.cache = ref(cache)  # which holds this: it must go, with all its keys and values, when its user lets go
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return _Following, (self.cache(), self.name)

    def __call__(self, argument: Any) -> Any:
        cache = self.cache()
        assert cache is not None
        source = attached_source(cache)
        if source is not None:
            source.pick(self._index(argument, source))
        return getattr(type(cache), self.name)(cache, argument)

    def _index(self, argument: Any, source: Source) -> Tensor:
        if self.name != "batch_repeat_interleave":
            return argument
        known = source.pooled if source.pooled is not None else source.task
        return torch.arange(0 if known is None else len(known)).repeat_interleave(argument)
