"""The PEFT tuner of CA-MTL: wraps an encoder's modules and brings the task ids to them."""

import inspect
import warnings
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from taskloom.adapters.ca_mtl.config import CAMTLConfig
from taskloom.adapters.ca_mtl.encoders import EncoderModules, find_encoder
from taskloom.adapters.ca_mtl.freezing import ADAPTER_PREFIX, trained_base_parameters
from taskloom.adapters.ca_mtl.layer import CAMTLContext, CAMTLLayer, TaskConditionedEmbeddings, TaskConditionedNorm
from taskloom.adapters.ca_mtl.parts import Place, plan_places
from taskloom.adapters.conditioned import ConditionedTuner
from taskloom.errors import UserError

__all__ = ["CAMTLModel"]


class CAMTLModel(ConditionedTuner):
    """A base model whose encoder is conditioned on the task; made by `peft.get_peft_model`."""

    title = "CA-MTL"
    prefix = ADAPTER_PREFIX
    tuner_layer_cls = CAMTLLayer

    context: CAMTLContext
    peft_config: dict[str, CAMTLConfig]

    # --- Injection -----------------------------------------------------------------------------------------------

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self.context = CAMTLContext()

    def _prepare_model(self, peft_config: CAMTLConfig, model: nn.Module) -> None:
        """Find and check everything before any module is touched."""
        _check_attention_implementation(model)
        encoder = find_encoder(model, peft_config.encoder_modules)
        for layer in encoder.layers:
            _check_takes_mask(model, layer.attention)
        self._places = plan_places(peft_config, encoder, model)
        trained = trained_base_parameters(model, peft_config.freeze_layers, peft_config.encoder_modules)
        if peft_config.reinit_top_layer:
            _reinitialise_top_layer(model, encoder, set(trained))

    def _check_target_module_exists(self, peft_config: Any, key: str) -> bool:  # type: ignore[override]
        return key in self._places

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        self._wrap(self._places[current_key], adapter_name, target, target_name, parent)

    def _wrap(self, place: Place, adapter: str, target: nn.Module, name: str, parent: nn.Module) -> None:
        wrapper = target
        if not isinstance(wrapper, CAMTLLayer):
            wrapper = place.wrapper(target, self.context, **place.arguments)
            self._replace_module(parent, name, wrapper, target)
        wrapper.add(adapter, {part: build() for part, build in place.parts.items()})
        if isinstance(wrapper, TaskConditionedEmbeddings):
            self.context.embeddings = wrapper
        if isinstance(wrapper, TaskConditionedNorm):
            wrapper.keeps_output[adapter] = place.keeps_output
        # PEFT does not look for targets inside of a wrapped module, so a wrapped layer brings its own along.
        for inner_name, inner in place.inner.items():
            parent_name, _, child = inner_name.rpartition(".")
            inner_parent = self.model.get_submodule(parent_name)
            self._wrap(inner, adapter, getattr(inner_parent, child), child, inner_parent)

    # --- A forward pass ------------------------------------------------------------------------------------------

    def begin(self, model: nn.Module, task: Tensor | None, kwargs: dict[str, Any]) -> None:
        _check_attention_implementation(model)
        self.context.start(task)

    def generation(self, task: Tensor | None, args: tuple, kwargs: dict[str, Any]) -> AbstractContextManager[None]:
        return self.context.generation(task)

    def num_tasks(self) -> int | None:
        return max((self.peft_config[name].num_tasks for name in self.active_adapters), default=1)

    # --- Training and switching ----------------------------------------------------------------------------------

    @classmethod
    def trained_base(cls, model: nn.Module, config: Any) -> dict[str, nn.Parameter]:
        return trained_base_parameters(model, config.freeze_layers, config.encoder_modules)

    def disable_adapter_layers(self) -> None:
        for name in self.active_adapters:
            if self.peft_config[name].freeze_layers != "all":
                warnings.warn(
                    f"The adapter '{name}' trained parameters of the base model too (`freeze_layers` is "
                    f"{self.peft_config[name].freeze_layers!r}): without the adapter, the outputs are those of the "
                    "base model as it is now, not as it was loaded.",
                    stacklevel=3,
                )
        super().disable_adapter_layers()


def _check_attention_implementation(model: nn.Module) -> None:
    implementation = getattr(getattr(model, "config", None), "_attn_implementation", None)
    if implementation not in (None, "eager", "sdpa"):
        raise UserError(
            f"CA-MTL adds a bias to the attention scores, which the attention implementation {implementation!r} does "
            "not take. Load the model with attn_implementation='sdpa' or 'eager'."
        )


def _check_takes_mask(model: nn.Module, name: str) -> None:
    attention = model.get_submodule(name)
    attention = attention.get_base_layer() if isinstance(attention, CAMTLLayer) else attention
    if "attention_mask" not in inspect.signature(attention.forward).parameters:
        raise UserError(
            f"CA-MTL adds a bias to the attention scores through `attention_mask`, which '{name}' "
            f"({type(attention).__name__}) does not take."
        )


def _reinitialise_top_layer(model: nn.Module, encoder: EncoderModules, trained: set[str]) -> None:
    """Give the top layer random weights, as the published code does by renaming its parts."""
    top = encoder.layers[-1].layer
    if not any(name.startswith(f"{top}.") for name in trained):
        raise UserError(
            "`reinit_top_layer` replaces the top layer's weights by random ones, but `freeze_layers` keeps that layer "
            "from being trained. Freeze fewer layers, e.g. 'auto' for the lower half."
        )
    std = getattr(getattr(model, "config", None), "initializer_range", 0.02)
    for module in model.get_submodule(top).modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
