"""The PEFT tuner of Hyperdecoders: wraps a language model's modules and brings them what weights are generated from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache

from taskloom.adapters.conditioned import ConditionedTuner
from taskloom.adapters.hyperdecoder.config import HyperdecoderConfig
from taskloom.adapters.hyperdecoder.families import Place, Side, find_stacks
from taskloom.adapters.hyperdecoder.layer import ADAPTER_PREFIX, HyperdecoderLayer
from taskloom.adapters.hyperdecoder.modules import Generator, SharedAdapter, TaskAdapters, mean_pool
from taskloom.adapters.hyperdecoder.passes import (
    Call,
    Generation,
    KeptFor,
    Pass,
    Prompt,
    Source,
    StackContext,
    attach_source,
    attached_source,
)
from taskloom.errors import UserError

__all__ = ["HyperdecoderModel"]

_CONDITIONED = ("per_task", "task_generated")


class HyperdecoderModel(ConditionedTuner):
    """A language model whose adapters each input generates for itself; made by `peft.get_peft_model`."""

    title = "Hyperdecoder"
    prefix = ADAPTER_PREFIX
    tuner_layer_cls = HyperdecoderLayer
    conditions_on_prompt = True

    peft_config: dict[str, HyperdecoderConfig]

    # --- Injection -----------------------------------------------------------------------------------------------

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self.contexts: dict[Side, StackContext] = {}
        self.call = Call()
        self.generating: Generation | None = None
        self._in_first_pass = False
        self._stack_hooks: list[RemovableHandle] = []

    def _prepare_model(self, peft_config: HyperdecoderConfig, model: nn.Module) -> None:
        """Find and check everything before any module is touched."""
        stacks = find_stacks(model, peft_config.adapter_norm_input)
        self._places: dict[str, Place] = {}
        self._depth: dict[Side, int] = {}
        for side, stack in stacks.items():
            kind = getattr(peft_config, side)
            if kind in _CONDITIONED:
                peft_config.require_tasks(side)
            if kind != "none":
                below = 0 if "encoder" in stacks else _layers_below(peft_config, len(stack.places))
                self._depth[side] = len(stack.places) - below
                self._places |= {
                    place.wrapped: replace(place, layer=place.layer - below) for place in stack.places[below:]
                }
        if not self._places:
            sides = " and ".join(f"`{side}`" for side in stacks)
            raise UserError(
                f"Nothing would be adapted: {sides} is 'none'. Choose adapters, or train the model as it is."
            )
        if not self.contexts:
            self._stacks = stacks

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:  # type: ignore[override]
        return key in self._places

    def _create_and_replace(
        self,
        peft_config: HyperdecoderConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        place = self._places[current_key]
        context = self._context(place.side)
        tap, entry = (self.model.get_submodule(name) for name in (place.tap, place.entry))
        wrapper = target
        if not isinstance(wrapper, HyperdecoderLayer):
            wrapper = HyperdecoderLayer(target, context, entry)
            self._replace_module(parent, target_name, wrapper, target)
            context.layers.append(wrapper)
        wrapper.stand(adapter_name, place, tap, peft_config.recompute)
        generated = getattr(peft_config, place.side).endswith("_generated")
        is_home = generated and adapter_name not in context.homes
        wrapper.add(adapter_name, self._parts(peft_config, place, is_home))
        if is_home:
            context.homes[adapter_name] = wrapper

    def _parts(self, config: HyperdecoderConfig, place: Place, is_home: bool) -> dict[str, nn.Module]:
        """Return what an adapter owns in one layer: weights of its own, or in its home the generator."""
        hidden, width = self.model.config.hidden_size, config.width(place.side)
        kind = getattr(config, place.side)
        parts: dict[str, nn.Module] = {}
        # An encoder's first pass, whose states the weights of the second are generated from, has adapters too.
        if kind == "shared" or (kind == "instance_generated" and place.side == "encoder"):
            parts["hyperdecoder_shared"] = SharedAdapter(hidden, width)
        if kind == "per_task":
            parts["hyperdecoder_tasks"] = TaskAdapters(config.require_tasks(place.side), hidden, width)
        if is_home:
            parts["hyperdecoder_generator"] = Generator(
                self._depth[place.side],
                hidden,
                width,
                config.bottleneck,
                config.layer_embedding_dim,
                num_tasks=config.require_tasks(place.side) if kind == "task_generated" else None,
                process=config.process_encoder_output,
            )
        return parts

    def _context(self, side: Side) -> StackContext:
        """Return the context of a stack, which watches the stack's calls from its first adapter on."""
        if side not in self.contexts:
            context = self.contexts[side] = StackContext()
            context.layers, context.homes = [], {}
            stack = self.model.get_submodule(self._stacks[side].name) if self._stacks[side].name else self.model
            hooks = {"encoder": self._begin_encoder, "decoder": self._begin_decoder}
            if len(self._stacks) == 1:
                hooks["decoder"] = self._begin_decoder_only
                self._stack_hooks.append(stack.register_forward_hook(self._end_decoder_only, with_kwargs=True))
            self._stack_hooks.append(stack.register_forward_pre_hook(hooks[side], with_kwargs=True))
        return self.contexts[side]

    # --- A forward pass ------------------------------------------------------------------------------------------

    def begin(self, model: nn.Module, task: Tensor | None, kwargs: dict[str, Any]) -> None:
        prompt_length = _checked_prompt_length(kwargs.pop("prompt_length", None))
        if prompt_length is None and len(self.contexts) == 1 and kwargs.get("labels") is not None:
            prompt_length = _columns_before_labels(kwargs["labels"])
        self.call = Call(task, prompt_length)

    @contextmanager
    def generation(self, task: Tensor | None, args: tuple, kwargs: dict[str, Any]) -> Iterator[None]:
        names = ("inputs", "input_ids", "inputs_embeds")
        given = [*args[:1], *(kwargs[name] for name in names if kwargs.get(name) is not None)]
        sizes = given[0].shape[:2] if given else (0, 0)
        self.generating = Generation(task, *sizes, mask=kwargs.get("attention_mask"))
        for context in self.contexts.values():
            context.forget()  # parameters may have changed since the last generation
            context.expands = True
        try:
            yield
        finally:
            self.generating = None
            for context in self.contexts.values():
                context.forget()
                context.expands = False

    def num_tasks(self) -> int | None:
        names = [self.peft_config[name].num_tasks for name in self.active_adapters]
        return max((number for number in names if number is not None), default=None)

    def _kind(self, side: Side) -> str:
        """Return where the weights of the adapter in use come from; "none" where adapters are switched off."""
        adapter = self.contexts[side].layers[0].adapter
        return getattr(self.peft_config[adapter], side) if adapter else "none"

    def _task(self, kind: str) -> Tensor | None:
        if kind not in _CONDITIONED:
            return None
        return self.call.task if self.call.task is not None or self.generating is None else self.generating.task

    def _begin_encoder(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        context, kind = self.contexts["encoder"], self._kind("encoder")
        if kind != "instance_generated":
            context.begin(Pass(Source(task=self._task(kind))))
        elif not self._in_first_pass:
            context.begin(Pass(learnt=True))
            self._in_first_pass = True
            try:
                output = stack(*args, **kwargs)  # comes through here again
            finally:
                self._in_first_pass = False
            source = Source()
            context.home.read(source, mean_pool(output[0], kwargs.get("attention_mask")))
            context.begin(Pass(source))
        return args, _with_embeddings_of_its_own(kwargs)

    def _begin_decoder(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        context, kind = self.contexts["decoder"], self._kind("decoder")
        states: Tensor = kwargs["encoder_hidden_states"]
        task = self._task(kind)
        keeps = self._keeps(stack, kwargs)
        if not keeps:
            context.forget()  # what comes may change the parameters that kept weights were made from
        mask = kwargs.get("encoder_attention_mask")
        # Nothing changes within a generation, which may pass another mask object at each step.
        key = (
            KeptFor(states, mask, task, context.version) if self.generating is None else KeptFor(states, None, task, 0)
        )
        source = context.kept_for(key)
        if source is None:
            source = Source(task)
            if kind == "instance_generated":
                # The rows of an example, such as its beams, share its weights.
                every = 1 if self.generating is None else self.generating.rows_per_example(len(states))
                context.home.read(source, mean_pool(states[::every], None if mask is None else mask[::every]))
            if keeps:
                context.keep(source, key)
        context.begin(Pass(source))
        return args, _with_embeddings_of_its_own(kwargs)

    def _keeps(self, stack: nn.Module, kwargs: dict[str, Any]) -> bool:
        """Return whether this forward pass is a step of generating text, whose weights serve the next steps too."""
        use_cache = kwargs.get("use_cache")
        use_cache = self.model.config.use_cache if use_cache is None else use_cache
        return self.generating is not None or bool(use_cache and not torch.is_grad_enabled() and not stack.training)

    def _begin_decoder_only(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        context, kind = self.contexts["decoder"], self._kind("decoder")
        inputs = args[0] if args else kwargs.get("input_ids")
        inputs = kwargs["inputs_embeds"] if inputs is None else inputs
        rows, width = inputs.shape[:2]
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None else int(cache.get_seq_length())
        if self.generating is not None:
            length: int | Tensor = self.generating.width - past
            source = self.generating.source
            every = self.generating.rows_per_example(rows)
        else:
            length = width if self.call.prompt_length is None else self.call.prompt_length
            length = 0 if past else length
            source = attached_source(cache) if past else None
            every = 1
        prompt = None
        if source is None:
            source = Source(self._task(kind), kept={} if self._keeps(stack, kwargs) else None)
            if kind == "instance_generated":
                if past or (isinstance(length, int) and length > width):
                    raise ValueError(
                        "The adapters are generated from the whole prompt, but its beginning is in `past_key_values` "
                        "already, made by another model or in pieces. Pass the whole prompt at once."
                    )
                prompt = Prompt(length, self._prompt_mask(kwargs.get("attention_mask"), every), every)
            if self.generating is not None:
                self.generating.source = source
        elif self.generating is None:
            source = self._continued(source, kind, keeps=self._keeps(stack, kwargs))
        context.begin(Pass(source, start=self._first_adapted(length), prompt=prompt))
        return args, _with_embeddings_of_its_own(kwargs)

    def _continued(self, source: Source, kind: str, keeps: bool) -> Source:
        """Return what a cache's adapters are generated from in this pass: with its weights, if they may be kept."""
        if keeps and source.kept is not None:
            return source
        continued = Source(source.task if kind in _CONDITIONED else None)
        if kind == "instance_generated":
            if source.pooled is None:
                raise ValueError("`past_key_values` was made by an adapter that does not depend on the prompt.")
            self.contexts["decoder"].home.read(continued, source.pooled)
        return continued

    def _prompt_mask(self, mask: Any, every: int) -> Tensor | None:
        """Return the attention mask of the prompts, [prompts, columns]."""
        if self.generating is not None and self.generating.mask is not None:
            return self.generating.mask
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise ValueError(
                "`attention_mask` must have two dimensions, [batch, tokens], to tell which tokens of a prompt are real."
            )
        return mask[::every]

    def _first_adapted(self, length: int | Tensor) -> int | Tensor:
        """Return the first column that is adapted: the prompt's last, where the answer's first token is predicted."""
        if self.peft_config[self.active_adapters[0]].adapt_prompt:
            return 0
        return max(length - 1, 0) if isinstance(length, int) else length - 1

    def _end_decoder_only(self, stack: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Attach what this prompt's adapters are generated from to the cache that the caller goes on with."""
        source = self.contexts["decoder"].running.source
        known = source.task is not None or source.pooled is not None
        cache = (
            next((part for part in output.values() if isinstance(part, Cache)), None)
            if isinstance(output, dict)
            else None
        )
        if self.generating is None and known and isinstance(cache, Cache):
            attach_source(cache, source)

    # --- Training and removing -----------------------------------------------------------------------------------

    @classmethod
    def trained_base(cls, model: nn.Module, config: Any) -> dict[str, nn.Parameter]:
        copied = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, AuxiliaryTrainingWrapper))
        base = {
            name: parameter
            for name, parameter in model.named_parameters()
            if not name.startswith(copied) and ADAPTER_PREFIX not in name
        }
        if not config.freeze:
            return base
        unfrozen = [
            f"{stack.name}."
            for side, stack in find_stacks(model, config.adapter_norm_input).items()
            if getattr(config, f"unfreeze_{side}")
        ]
        if config.unfreeze_layer_norms:
            unfrozen += [f"{name}." for name, part in model.named_modules() if type(part).__name__.endswith("Norm")]
        return {name: parameter for name, parameter in base.items() if name.startswith(tuple(unfrozen))}

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        self._freeze_sides()

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        self._freeze_sides()
        for context in self.contexts.values():
            context.forget()

    def _freeze_sides(self) -> None:
        """Freeze the adapters of the sides that are not to be trained."""
        for side, context in self.contexts.items():
            for layer in context.layers:
                for name, config in self.peft_config.items():
                    if not getattr(config, f"unfreeze_{side}_adapters"):
                        for attribute in layer.adapter_layer_names:
                            parts: nn.ModuleDict = getattr(layer, attribute)
                            if name in parts:
                                parts[name].requires_grad_(False)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        if merge:
            self._check_merge_allowed()
        for hook in self._stack_hooks:
            hook.remove()
        for context in self.contexts.values():
            for layer in context.layers:
                layer.disconnect()
        return super()._unload_and_optionally_merge(merge, *args, **kwargs)


def _layers_below(config: HyperdecoderConfig, depth: int) -> int:
    """Return how many layers of a decoder-only model lie below the adapters."""
    if config.prompt_layer is None:
        return depth // 2 if config.decoder == "instance_generated" else 0
    if config.prompt_layer >= depth:
        raise UserError(
            f"`prompt_layer` is {config.prompt_layer}, but the model has {depth} layers: no layer would be left to "
            f"adapt. Choose one from 0 to {depth - 1}."
        )
    return config.prompt_layer


def _with_embeddings_of_its_own(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a stack's arguments in which embeddings that the caller may pass again are a copy.

    A pass that is recomputed is told by the storage of what enters its layers.
    """
    embeddings = kwargs.get("inputs_embeds")
    if embeddings is None or not torch.is_grad_enabled():
        return kwargs
    return {**kwargs, "inputs_embeds": embeddings.clone()}


def _checked_prompt_length(length: Any) -> int | Tensor | None:
    if isinstance(length, Tensor) and length.dim() == 1 and not length.dtype.is_floating_point:
        return length
    if length is None or (isinstance(length, int) and length > 0):
        return length
    raise ValueError(f"`prompt_length` must be an int above 0 or a LongTensor[batch], found {length!r}.")


def _columns_before_labels(labels: Tensor) -> Tensor:
    """Return the column of each row's first label, LongTensor[batch]: what comes before it is the prompt."""
    labelled = labels != -100
    first = labelled.int().argmax(dim=1)
    whole = torch.full_like(first, labels.shape[1])
    return torch.where(labelled.any(dim=1), first, whole).clamp(min=1)
