"""Watching the calls of a model's stacks: when one begins a forward pass, its adapters learn what to generate from.

Hooks around the encoder and the decoder see every way of calling them, `generate` and loops of one's own among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache

from taskloom.adapters.hyperdecoder.families import Side
from taskloom.adapters.hyperdecoder.modules import mean_pool
from taskloom.adapters.hyperdecoder.passes import (
    KeptFor,
    Pass,
    Prompt,
    Source,
    StackContext,
    attach_source,
    attached_source,
)
from taskloom.adapters.hyperdecoder.settings import HyperdecoderSettings

__all__ = ["CONDITIONED", "Calls", "DecoderOnlyWatch", "DecoderWatch", "EncoderWatch", "Generation", "StackWatch"]

#: Kinds of adapters that depend on the task.
CONDITIONED = ("per_task", "task_generated")


@dataclass(eq=False)
class Generation:
    """One call of `generate`.

    Attributes:
        task: task ids, LongTensor[examples].
        examples: examples in the batch, before beams or samples expand it; 0 if not known.
        width: columns of the prompt, padding included.
        mask: attention mask [examples, width], if one was given.
        source: of a decoder-only model, what this call's adapters are generated from.
    """

    task: Tensor | None
    examples: int = 0
    width: int = 0
    mask: Tensor | None = None
    source: Source | None = None

    def rows_per_example(self, rows: int) -> int:
        """Return how many of a batch's rows belong to one example."""
        return rows // self.examples if self.examples and rows % self.examples == 0 else 1


@dataclass(eq=False)
class Calls:
    """How the whole model is being called: the arguments that stacks do not see.

    Attributes:
        task: task ids of the forward pass, LongTensor[batch].
        prompt_length: leading columns that are the prompt, padding included, an int or LongTensor[batch].
        generation: the call of `generate` that is running, if any.
    """

    task: Tensor | None = None
    prompt_length: int | Tensor | None = None
    generation: Generation | None = None


class StackWatch:
    """Begins the passes of one stack.

    Args:
        side: which stack it is.
        calls: how the whole model is being called.
        configs: the adapters' settings by name.
    """

    def __init__(self, side: Side, calls: Calls, configs: Mapping[str, HyperdecoderSettings]) -> None:
        self.side = side
        self.calls = calls
        self.configs = configs
        self.context = StackContext()
        self.context.layers, self.context.homes = [], {}
        self.hooks: list[RemovableHandle] = []

    def watch(self, stack: nn.Module) -> None:
        self.hooks.append(stack.register_forward_pre_hook(self._called, with_kwargs=True))

    def leave(self) -> None:
        for hook in self.hooks:
            hook.remove()
        for layer in self.context.layers:
            layer.disconnect()

    def begin(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any], kind: str) -> None:
        """Begin a pass with adapters of this kind."""
        raise NotImplementedError

    def _called(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        self.context.expands = self.calls.generation is not None
        self.begin(stack, args, kwargs, self._kind())
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is not None and torch.is_grad_enabled():
            # A pass that is recomputed is told by the storage of what enters its layers: the caller may pass these
            # embeddings again.
            kwargs = {**kwargs, "inputs_embeds": embeddings.clone()}
        return args, kwargs

    def _kind(self) -> str:
        """Return where the weights of the adapter in use come from; "none" where adapters are switched off."""
        adapter = self.context.layers[0].adapter
        return getattr(self.configs[adapter], self.side) if adapter else "none"

    def _task(self, kind: str) -> Tensor | None:
        if kind not in CONDITIONED:
            return None
        generation = self.calls.generation
        return self.calls.task if self.calls.task is not None or generation is None else generation.task

    def _keeps(self, stack: nn.Module, kwargs: dict[str, Any]) -> bool:
        """Return whether this pass is a step of generating text, whose weights serve the next steps too."""
        if self.calls.generation is not None:
            return True
        use_cache = kwargs.get("use_cache")
        if use_cache is None:
            use_cache = stack.config.use_cache  # type: ignore[union-attr]
        return bool(use_cache) and not torch.is_grad_enabled() and not stack.training


class EncoderWatch(StackWatch):
    """Begins the passes of an encoder: two of them where its adapters are generated from its own states."""

    _in_first_pass = False

    def begin(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any], kind: str) -> None:
        if kind != "instance_generated":
            self.context.begin(Pass(Source(self._task(kind))))
        elif not self._in_first_pass:
            self.context.begin(Pass(learnt=True))
            self._in_first_pass = True
            try:
                states = stack(*args, **kwargs)[0]  # comes through here again
            finally:
                self._in_first_pass = False
            source = Source()
            self.context.home.read(source, mean_pool(states, kwargs.get("attention_mask")))
            self.context.begin(Pass(source))


class DecoderWatch(StackWatch):
    """Begins the passes of a decoder, whose adapters are generated from the encoder's states."""

    def begin(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any], kind: str) -> None:
        keeps = self._keeps(stack, kwargs)
        if not keeps:
            self.context.forget()  # what comes may change the parameters that kept weights were made from
        states: Tensor = kwargs["encoder_hidden_states"]
        mask: Tensor | None = kwargs.get("encoder_attention_mask")
        task = self._task(kind)
        generation = self.calls.generation
        # Within a generation nothing changes, although each step may pass another mask.
        key = (
            KeptFor(states, mask, task, self.context.version) if generation is None else KeptFor(states, None, task, 0)
        )
        source = self.context.kept_for(key)
        if source is None:
            source = Source(task)
            if kind == "instance_generated":
                # The rows of an example, such as its beams, share its weights.
                every = 1 if generation is None else generation.rows_per_example(len(states))
                self.context.home.read(source, mean_pool(states[::every], None if mask is None else mask[::every]))
            if keeps:
                self.context.keep(source, key)
        self.context.begin(Pass(source))


class DecoderOnlyWatch(StackWatch):
    """Begins the passes of a decoder-only model, whose adapters are generated from the prompt's states on the way."""

    def watch(self, stack: nn.Module) -> None:
        super().watch(stack)
        self.hooks.append(stack.register_forward_hook(self._returned, with_kwargs=True))

    def begin(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any], kind: str) -> None:
        inputs: Tensor = args[0] if args else kwargs.get("input_ids")  # type: ignore[assignment]
        rows, width = (kwargs["inputs_embeds"] if inputs is None else inputs).shape[:2]
        cache: Cache | None = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        generation, keeps = self.calls.generation, self._keeps(stack, kwargs)
        if generation is not None:
            length: int | Tensor = generation.width - past
        elif past:
            length = 0
        elif self.calls.prompt_length is not None:
            length = self.calls.prompt_length
        elif stack.training and torch.is_grad_enabled() and not self._adapts_prompts():
            raise ValueError(
                "Adapters begin where the prompt ends, which this training pass does not tell. Pass `labels` with -100 "
                "on the prompt, or `prompt_length=`; or adapt prompts too with `adapt_prompt=True`."
            )
        else:
            length = width
        source = self._known_source(cache, past, kind, keeps)
        prompt = None
        if source is None:
            source = Source(self._task(kind), kept={} if keeps else None)
            if kind == "instance_generated":
                if past or (isinstance(length, int) and length > width):
                    raise ValueError(
                        "The adapters are generated from the whole prompt, but its beginning is in `past_key_values` "
                        "already, made by another model or in pieces. Pass the whole prompt at once."
                    )
                every = 1 if generation is None else generation.rows_per_example(rows)
                prompt = Prompt(length, self._prompt_mask(kwargs.get("attention_mask"), every), every)
            if generation is not None:
                generation.source = source
        self.context.begin(Pass(source, start=self._first_adapted(length), prompt=prompt))

    def _known_source(self, cache: Cache | None, past: int, kind: str, keeps: bool) -> Source | None:
        """Return what an earlier pass over these texts has left to generate from, or None."""
        if self.calls.generation is not None:
            return self.calls.generation.source
        attached = attached_source(cache) if past else None
        if attached is None or (keeps and attached.kept is not None):
            return attached
        known = Source(attached.task if kind in CONDITIONED else None)
        if kind == "instance_generated":
            if attached.pooled is None:
                raise ValueError("`past_key_values` was made by an adapter that does not depend on the prompt.")
            self.context.home.read(known, attached.pooled)
        return known

    def _prompt_mask(self, mask: Any, every: int) -> Tensor | None:
        """Return the attention mask of the prompts, [prompts, columns]."""
        if self.calls.generation is not None and self.calls.generation.mask is not None:
            return self.calls.generation.mask
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise ValueError(
                "`attention_mask` must have two dimensions, [batch, tokens], to tell which tokens of a prompt are real."
            )
        return mask[::every]

    def _adapts_prompts(self) -> bool:
        adapter = self.context.layers[0].adapter
        return not adapter or self.configs[adapter].adapt_prompt

    def _first_adapted(self, length: int | Tensor) -> int | Tensor:
        """Return the first column that is adapted: the prompt's last, where the answer's first token is predicted."""
        if self._adapts_prompts():
            return 0
        return max(length - 1, 0) if isinstance(length, int) else length - 1

    def _returned(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Attach what this prompt's adapters are generated from to the cache that the caller goes on with."""
        source = self.context.running.source
        known = source.task is not None or source.pooled is not None
        cache = getattr(output, "past_key_values", None)
        if self.calls.generation is None and known and isinstance(cache, Cache):
            attach_source(cache, source)
