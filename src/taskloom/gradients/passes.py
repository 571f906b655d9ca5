"""The state a model is in while its updates are differentiated: repeatable, and of operations that can be.

An update that is done again must be the same update, so modules are in evaluation mode (without dropout, and without
the gradient checkpointing of transformers, which trains only). Fused attention kernels have no second derivatives.
What is not updated is a constant: no graph is made below the first block that is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

__all__ = ["evaluating", "twice_differentiable"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put all modules into evaluation mode and freeze all parameters for a while; have autocast cast anew each time.

    Autocast remembers the casts of parameters by the objects that hold them: it would keep the graphs of all updates
    alive, and miss that a parameter holds other values.
    """
    modes = [(module, module.training) for module in model.modules()]
    required = [parameter for parameter in model.parameters() if parameter.requires_grad]
    caching = torch.is_autocast_cache_enabled()
    model.eval()
    model.requires_grad_(False)
    torch.set_autocast_cache_enabled(False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(caching)
        for module, mode in modes:
            module.training = mode
        for parameter in required:
            parameter.requires_grad_(True)


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Have attention computed by plain operations for a while: by torch's mathematical kernel, or eagerly.

    The hooks by which transformers makes embeddings require gradients (for gradient checkpointing) are off meanwhile:
    forward mode does not allow them. An embedding's row for padding, which a backward pass leaves out where it is an
    input, is left out in forward mode, too: with the vocabulary head sharing it, its tangent is not zero.
    """
    padded = [part for part in model.modules() if isinstance(part, nn.Embedding) and part.padding_idx is not None]
    handles: list[RemovableHandle] = []
    attention: list[tuple[Any, str]] = []
    hooked: list[Any] = []
    for module in model.modules():
        name = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if name not in (None, "eager", "sdpa") and hasattr(module, "set_attn_implementation"):
            attention.append((module, name))
        if getattr(module, "_require_grads_hooks", None) and hasattr(module, "disable_input_require_grads"):
            hooked.append(module)
    try:
        for module, _ in attention:
            module.set_attn_implementation("eager")
        for module in hooked:
            module.disable_input_require_grads()
        handles += [module.register_forward_hook(_without_padding) for module in padded]
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module in hooked:
            module.enable_input_require_grads()
        for module, name in attention:
            module.set_attn_implementation(name)


def _without_padding(module: nn.Embedding, inputs: tuple[Tensor, ...], states: Tensor) -> Tensor:
    return torch.where((inputs[0] == module.padding_idx)[..., None], states.detach(), states)
