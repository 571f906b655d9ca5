"""Where the adapters enter an existing model: PEFT layers around the modules of `families`."""

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from taskloom.adapters.context import fit_to_batch
from taskloom.adapters.hyperdecoder.families import Place
from taskloom.adapters.hyperdecoder.modules import Generator, SharedAdapter, TaskAdapters, bottleneck
from taskloom.adapters.hyperdecoder.passes import Source, StackContext
from taskloom.adapters.wrapping import ModuleWrapper

__all__ = ["ADAPTER_PREFIX", "HyperdecoderLayer"]

#: The prefix of all names of adapter parameters.
ADAPTER_PREFIX = "hyperdecoder_"


class HyperdecoderLayer(ModuleWrapper):
    """A module at whose input or output the adapter of its layer is added.

    The generator serves all layers of a stack; it lives in the lowest of them, as `context.homes` tells.
    """

    adapter_layer_names = ("hyperdecoder_shared", "hyperdecoder_tasks", "hyperdecoder_generator")
    other_param_names = ("places", "recompute")

    hyperdecoder_shared: nn.ModuleDict
    hyperdecoder_tasks: nn.ModuleDict
    hyperdecoder_generator: nn.ModuleDict

    def __init__(self, base_layer: nn.Module, context: StackContext, entry: nn.Module) -> None:
        super().__init__(base_layer)
        self.context = context
        self.places: dict[str, Place] = {}
        self.recompute: dict[str, bool] = {}
        self._tapped: Tensor | None = None
        self._hooks: list[RemovableHandle] = [
            entry.register_forward_pre_hook(self._enter, with_kwargs=True),
            entry.register_forward_hook(self._pool),
        ]

    def stand(self, adapter: str, place: Place, tap: nn.Module, recompute: bool) -> None:
        """Let `adapter` stand at `place` and read its input at `tap`."""
        self.places[adapter] = place
        self.recompute[adapter] = recompute
        if tap is self or tap is self.base_layer:
            return
        if place.tap_at == "input":
            self._hooks.append(tap.register_forward_pre_hook(partial(self._read_input, adapter)))
        else:
            self._hooks.append(tap.register_forward_hook(partial(self._read_output, adapter)))

    def disconnect(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def generator(self) -> Generator | None:
        """The generator of the adapter in use, if it lives here."""
        return self.part("hyperdecoder_generator")

    def sources(self) -> Iterator[nn.Parameter]:
        """Yield the parameters here that the adapter in use makes weights from."""
        for name in ("hyperdecoder_tasks", "hyperdecoder_generator"):
            part: nn.Module | None = self.part(name)
            if part is not None:
                yield from part.parameters()

    def read(self, source: Source, pooled: Tensor) -> None:
        """Let `source` be what the generator, which lives here, makes of pooled states, FloatTensor[sets, hidden]."""
        generator = cast("Generator", self.generator)
        source.pooled = pooled
        source.inputs = generator.process(pooled.to(generator.input.weight.device))

    # --- Hooks on other modules of the layer -----------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Learn which forward pass the layer belongs to."""
        if self.adapter and (torch.is_grad_enabled() or module.training):
            self.context.enter_layer(args[0] if args else kwargs["hidden_states"])
            self.context.check_checkpointing()

    def _pool(self, module: nn.Module, args: tuple, normed: Tensor) -> None:
        """Pool the prompt's states, where that is due: behind the layer's norm, as an encoder's are behind its own.

        Before the norm, a few dimensions of a decoder-only model's states are a thousand times as large as the others.
        """
        prompt = self.context.running.prompt
        if prompt is not None and self is self.context.homes.get(self.adapter):
            self.read(self.context.running.source, prompt.pool(normed))

    def _read_input(self, adapter: str, module: nn.Module, args: tuple) -> None:
        if adapter == self.adapter:
            self._tapped = args[0]

    def _read_output(self, adapter: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        if adapter == self.adapter:
            self._tapped = output

    # --- The adapter -----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        adapter = self.adapter
        place = self.places.get(adapter)
        if place is None:
            return self.base_layer(x, *args, **kwargs)
        if place.at == "input":
            return self.base_layer(x + self._from(self._taken(x), adapter), *args, **kwargs)
        output = self.base_layer(x, *args, **kwargs)
        return output + self._from(self._taken(x), adapter)

    def _taken(self, x: Tensor) -> Tensor:
        tapped, self._tapped = self._tapped, None
        return x if tapped is None else tapped

    def _from(self, x: Tensor, adapter: str) -> Tensor:
        """Return what the adapter makes of `x`, FloatTensor[rows, tokens, hidden]; zero in columns not adapted."""
        start = self.context.running.start
        if isinstance(start, Tensor):
            columns = torch.arange(x.shape[1], device=x.device)
            return self._adapter(x, adapter) * (columns >= start.unsqueeze(1)).unsqueeze(-1)
        if start == 0:
            return self._adapter(x, adapter)
        return F.pad(self._adapter(x[:, start:], adapter), (0, 0, min(start, x.shape[1]), 0))

    def _adapter(self, x: Tensor, adapter: str) -> Tensor:
        running, layer = self.context.running, self.places[adapter].layer
        source, kept = running.source, running.source.kept
        if kept is not None and layer in kept:
            return bottleneck(x, kept[layer])
        shared: SharedAdapter | None = self.part("hyperdecoder_shared")
        home = self.context.homes.get(adapter)
        if shared is not None and (home is None or running.learnt):
            return shared(x)
        if source.inputs is None:
            fit_to_batch(source.task, len(x), expands=self.context.expands)
        inputs = cast("Tensor", source.task if source.inputs is None else source.inputs).to(x.device)
        if home is None:
            tasks: TaskAdapters = self.part("hyperdecoder_tasks")
            weights = tasks(inputs)
            if kept is not None:
                kept[layer] = weights = weights.to(x.dtype)
            return bottleneck(x, weights)
        generator = cast("Generator", home.generator)
        if kept is not None:
            every_layer = generator(inputs).to(x.dtype).split(len(inputs))
            kept.update(enumerate(every_layer))
            return bottleneck(x, kept[layer])

        def adapt(x: Tensor, inputs: Tensor) -> Tensor:
            return bottleneck(x, generator(inputs, layer))

        if self.recompute[adapter] and torch.is_grad_enabled() and not _is_transformed(x):
            return checkpoint(adapt, x, inputs, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
        return adapt(x, inputs)


def _is_transformed(x: Tensor) -> bool:
    """Return whether a compiler or a functional transform is at work, which do not go with checkpointing."""
    return torch.compiler.is_compiling() or is_functorch_wrapped_tensor(x)
