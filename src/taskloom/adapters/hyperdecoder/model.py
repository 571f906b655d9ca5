"""The PEFT tuner of Hyperdecoders: wraps a language model's modules and brings them what weights are generated from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from taskloom.adapters.conditioned import ConditionedTuner
from taskloom.adapters.hyperdecoder.config import HyperdecoderConfig
from taskloom.adapters.hyperdecoder.families import Place, Side, find_stacks
from taskloom.adapters.hyperdecoder.layer import ADAPTER_PREFIX, HyperdecoderLayer
from taskloom.adapters.hyperdecoder.modules import Generator, SharedAdapter, TaskAdapters
from taskloom.adapters.hyperdecoder.stacks import (
    CONDITIONED,
    Calls,
    DecoderOnlyWatch,
    DecoderWatch,
    EncoderWatch,
    Generation,
    StackWatch,
)
from taskloom.errors import UserError

__all__ = ["HyperdecoderModel"]


class HyperdecoderModel(ConditionedTuner):
    """A language model whose adapters each input generates for itself; made by `peft.get_peft_model`."""

    title = "Hyperdecoder"
    prefix = ADAPTER_PREFIX
    tuner_layer_cls = HyperdecoderLayer
    conditions_on_prompt = True

    peft_config: dict[str, HyperdecoderConfig]

    # --- Injection -----------------------------------------------------------------------------------------------

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self.calls = Calls()
        self.watches: dict[Side, StackWatch] = {}

    def _prepare_model(self, peft_config: HyperdecoderConfig, model: nn.Module) -> None:
        """Find and check everything before any module is touched."""
        stacks = find_stacks(model, peft_config.adapter_norm_input)
        self._places: dict[str, Place] = {}
        self._depth: dict[Side, int] = {}
        for side, stack in stacks.items():
            kind = getattr(peft_config, side)
            if kind in CONDITIONED:
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
        self._stacks = {side: stack.name for side, stack in stacks.items()}

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
        context = self._watch(place.side).context
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

    def _watch(self, side: Side) -> StackWatch:
        """Return the watch over a stack, which begins with the stack's first adapter."""
        if side not in self.watches:
            kinds = {
                "encoder": EncoderWatch,
                "decoder": DecoderWatch if "encoder" in self._stacks else DecoderOnlyWatch,
            }
            self.watches[side] = kinds[side](side, self.calls, self.peft_config)
            self.watches[side].watch(self.model.get_submodule(self._stacks[side]))
        return self.watches[side]

    # --- Calls of the whole model --------------------------------------------------------------------------------

    def begin(self, model: nn.Module, task: Tensor | None, kwargs: dict[str, Any]) -> None:
        length = _checked_prompt_length(kwargs.pop("prompt_length", None))
        if length is None and "encoder" not in self._stacks and kwargs.get("labels") is not None:
            length = _columns_before_labels(kwargs["labels"])
        self.calls.task, self.calls.prompt_length = task, length

    @contextmanager
    def generation(self, task: Tensor | None, args: tuple, kwargs: dict[str, Any]) -> Iterator[None]:
        names = ("inputs", "input_ids", "inputs_embeds")
        given = [*args[:1], *(kwargs[name] for name in names if kwargs.get(name) is not None)]
        sizes = given[0].shape[:2] if given else (0, 0)
        self._forget()  # parameters may have changed since weights were kept
        self.calls.generation = Generation(task, *sizes, mask=kwargs.get("attention_mask"))
        try:
            yield
        finally:
            self.calls.generation = None
            self._forget()

    def _forget(self) -> None:
        for watch in self.watches.values():
            watch.context.forget()

    def num_tasks(self) -> int | None:
        names = [self.peft_config[name].num_tasks for name in self.active_adapters]
        return max((number for number in names if number is not None), default=None)

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
        self._forget()

    def _freeze_sides(self) -> None:
        """Freeze the adapters of the sides that are not to be trained."""
        for side, watch in self.watches.items():
            for layer in watch.context.layers:
                for name, config in self.peft_config.items():
                    if not getattr(config, f"unfreeze_{side}_adapters"):
                        for attribute in layer.adapter_layer_names:
                            parts: nn.ModuleDict = getattr(layer, attribute)
                            if name in parts:
                                parts[name].requires_grad_(False)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        if merge:
            self._check_merge_allowed()
        for watch in self.watches.values():
            watch.leave()
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
