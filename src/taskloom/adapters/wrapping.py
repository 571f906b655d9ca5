"""PEFT layers around the modules of a model that is not changed otherwise."""

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

__all__ = ["ModuleWrapper", "outermost_names", "plain_name"]


class ModuleWrapper(nn.Module, BaseTunerLayer):
    """A module that stands in the place of `base_layer`.

    It holds one set of parts per adapter, in the `ModuleDict`s that `adapter_layer_names` lists, and shows the wrapped
    module's attributes as its own, since transformers reads attributes of its modules.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ModuleDict())

    def add(self, adapter: str, parts: Mapping[str, nn.Module]) -> None:
        """Give `adapter` its parts at this place, by the names in `adapter_layer_names`."""
        for name, part in parts.items():
            getattr(self, name)[adapter] = part
        self._move_adapter_to_device_of_base_layer(adapter)

    @property
    def adapter(self) -> str:
        """The adapter in use; an empty name, which no adapter has, when there is none."""
        return self.active_adapters[0] if self.active_adapters and not self.disable_adapters else ""

    def part(self, name: str) -> Any:
        """Return the part `name` of the adapter in use, or None if it has no such part here."""
        parts: nn.ModuleDict = getattr(self, name)
        adapter = self.adapter
        return parts[adapter] if adapter in parts else None  # noqa: SIM401, a ModuleDict has no `get`

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        parameter = next(base_layer.parameters())
        return parameter.device, parameter.dtype

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


def plain_name(name: str) -> str:
    """Return a module's or parameter's name as it was before any module was wrapped; wrappers add `base_layer`."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def outermost_names(model: nn.Module) -> dict[str, str]:
    """Return the name in `model` of every module, by its plain name; of a wrapped module, that of its wrapper."""
    names: dict[str, str] = {}
    for name, _ in model.named_modules():
        names.setdefault(plain_name(name), name)
    return names
