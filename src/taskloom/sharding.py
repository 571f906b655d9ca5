"""Parameters that lie in shards on several processes (FSDP2), made whole for files and sharded again from them.

The Trainer and accelerate shard a model (`training.fsdp`); what they then write only as many processes can read. Here
checkpoints hold whole tensors in the form that one process writes, so that any number of processes goes on from them
and the saved model needs no launcher.

Source: PyTorch's `fully_shard`, whose parameters are `DTensor`s.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from taskloom.processes import is_main

__all__ = ["gather_for_calls", "is_sharded", "layers", "whole_optimizer", "whole_weights"]


def layers(backbone: nn.Module) -> list[str]:
    """Return the classes of a backbone's modules that are gathered by themselves.

    They are the layers, as `transformers` names them, and whatever says by an attribute ``sharded_calls`` that it is
    called from outside of the layer that it lives in.
    """
    base: Any = backbone.get_base_model() if isinstance(backbone, PeftModel) else backbone
    named = base._no_split_modules or ()
    return sorted(
        {type(m).__name__ for m in base.modules() if type(m).__name__ in named or hasattr(m, "sharded_calls")}
    )


def gather_for_calls(model: nn.Module) -> None:
    """Gather the parameters of a sharded model's modules for the methods in their ``sharded_calls``, too.

    For `forward` they are always.
    """
    for module in model.modules():
        for name in getattr(module, "sharded_calls", ()):
            if isinstance(module, FSDPModule):
                register_fsdp_forward_method(module, name)


def is_sharded(model: nn.Module) -> bool:
    """Return whether the parameters of a model lie in shards."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_weights(model: nn.Module, backbone: nn.Module) -> dict[str, Tensor] | None:
    """Return what is saved of a model with all its tensors whole, in the main process; None if nothing is sharded.

    All processes must call. Of an adapted model the frozen backbone, which is not saved, is left out: what is gathered
    here is as small as the adapter.

    Args:
        model: the model.
        backbone: its pretrained part, perhaps a `PeftModel`.
    """
    if not is_sharded(model):
        return None
    adapted = isinstance(backbone, PeftModel)
    prefix = getattr(backbone.base_model, "prefix", None) if adapted else None
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = {}
    for name, value in model.state_dict().items():
        if not adapted or name in trained or (prefix is not None and prefix in name):
            value = _whole(value)
            if is_main():
                found[name] = value
    return found


def _whole(value: Any) -> Any:
    """Gather a tensor on the CPU; anything else stays as it is."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.cpu() if isinstance(value, Tensor) else value


@contextmanager
def whole_optimizer(optimizer: Any) -> Iterator[None]:
    """Let an optimizer of sharded parameters write, and read, the state of one that is not.

    All processes must enter: the state is gathered here.
    """
    whole = pytree.tree_map(_whole, optimizer.state_dict())
    read = optimizer.load_state_dict

    def load(state: dict[str, Any]) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        own = {number: _sharded_like(parameters[number], values) for number, values in state["state"].items()}
        read({**state, "state": own})

    with patch.object(optimizer, "state_dict", lambda: whole), patch.object(optimizer, "load_state_dict", load):
        yield


def _sharded_like(parameter: Any, values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(parameter, DTensor):
        return values
    return {
        name: distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim()
        else value
        for name, value in values.items()
    }
