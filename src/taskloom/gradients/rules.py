"""How the per-example gradients of a module's parameters follow from its input and the gradient of its output.

A rule knows one module type, or several of one kind. For a linear layer y = W x + b it is ∂L/∂W = Σ_t (∂L/∂y_t) x_tᵀ
and ∂L/∂b = Σ_t ∂L/∂y_t, the sums over the tokens of one example. A subclass inherits its base's rule only if it
inherits its `forward`, too.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from taskloom.gradients.forms import Columns, Form, Outer, Rows

__all__ = ["Gradient", "Rule", "find_rule", "register_rule"]

#: (module, its first input, the gradient of its output, its other positional inputs) -> parameter, by its name in the
#: module -> gradients. The first input is [batch, ...], and so is the gradient, in float32 (float64 for such a model).
Gradient = Callable[..., Mapping[str, Form]]


def _own_parameters(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_parameters(recurse=False)]


@dataclass(frozen=True)
class Rule:
    """What the collector needs to know about a module type.

    Attributes:
        gradient: computes the gradients.
        parameters: the names, within the module, of the parameters that `gradient` covers.
        applies: whether the rule holds for a module with these settings.
        borrowed: for a module that computes with the parameters of another one, which it is given: returns them, by
            the names that `gradient` has for them, from the module's positional inputs.
    """

    gradient: Gradient
    parameters: Callable[[Any], Sequence[str]] = _own_parameters
    applies: Callable[[Any], bool] = lambda _: True
    borrowed: Callable[..., Mapping[str, nn.Parameter]] | None = None


_RULES: dict[type[nn.Module] | str, Rule] = {}


def register_rule(module_type: type[nn.Module] | str, rule: Rule | Gradient) -> None:
    """Make the gradients of a module type known.

    Args:
        module_type: the class, or its dotted name when importing it is not worth it.
        rule: the rule, or its `gradient` if it covers all parameters that the module itself owns.
    """
    _RULES[module_type] = rule if isinstance(rule, Rule) else Rule(rule)


def find_rule(module: nn.Module) -> Rule | None:
    """Return the rule for `module`, or None if there is none for its type and settings."""
    for cls in type(module).__mro__:
        if type(module).forward is not getattr(cls, "forward", None):
            break
        rule = _RULES.get(cls) or _RULES.get(f"{cls.__module__}.{cls.__qualname__}")
        if rule is not None:
            return rule if rule.applies(module) else None
    name = type(module).__name__
    if (name.endswith("RMSNorm") or name == "T5LayerNorm") and _own_parameters(module) == ["weight"]:
        return _SCALING_NORM if _scales_by_weight(module) else None
    if name.endswith("ScaledWordEmbedding") and isinstance(module, nn.Embedding) and hasattr(module, "embed_scale"):
        return _SCALED_EMBEDDING
    return None


def _terms(x: Tensor) -> Tensor:
    """Return [batch, ..., features] as [batch, terms, features], in the gradient's precision."""
    return x.reshape(len(x), -1, x.shape[-1])


def _like(x: Tensor, grad: Tensor) -> Tensor:
    return x.to(grad.dtype)


def _linear(_: nn.Linear, x: Tensor, grad: Tensor) -> dict[str, Form]:
    grad = _terms(grad)
    return {"weight": Outer(grad, _like(_terms(x), grad)), "bias": grad.sum(1)}


def _transposed_linear(_: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Form]:
    grad = _terms(grad)
    return {"weight": Outer(_like(_terms(x), grad), grad), "bias": grad.sum(1)}


def _embedding(module: nn.Embedding, index: Tensor, grad: Tensor) -> dict[str, Form]:
    index, values = index.reshape(len(index), -1), _terms(grad)
    if module.padding_idx is not None:
        values = values * (index != module.padding_idx).unsqueeze(-1)
    return {"weight": Rows(index, values)}


def _scaled_embedding(module: Any, index: Tensor, grad: Tensor) -> dict[str, Form]:
    return _embedding(module, index, grad * module.embed_scale)


def _over_features(normalised: Tensor, grad: Tensor, dims: int) -> dict[str, Form]:
    """Return the gradients of a norm whose weight and bias have the shape of the last `dims` dimensions."""
    shape = grad.shape[grad.dim() - dims :]

    def per_example(x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, *shape).sum(1)

    return {"weight": per_example(grad * normalised), "bias": per_example(grad)}


def _layer_norm(module: nn.LayerNorm, x: Tensor, grad: Tensor) -> dict[str, Form]:
    normalised = F.layer_norm(_like(x, grad), module.normalized_shape, eps=module.eps)
    return _over_features(normalised, grad, len(module.normalized_shape))


def _rms_norm(module: nn.RMSNorm, x: Tensor, grad: Tensor) -> dict[str, Form]:
    normalised = F.rms_norm(_like(x, grad), module.normalized_shape, eps=module.eps)
    return {"weight": _over_features(normalised, grad, len(module.normalized_shape))["weight"]}


def _scaling_norm(module: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Form]:
    """RMS norms by name: some scale by w, some by 1 + w; f(x, w = 1) − f(x, w = 0) is the normalised x of either."""
    x = _like(x, grad)
    normalised = _with_weight(module, x, 1.0) - _with_weight(module, x, 0.0)
    return {"weight": _over_features(normalised, grad, 1)["weight"]}


def _with_weight(module: Any, x: Tensor, value: float | Tensor) -> Tensor:
    weight = torch.ones_like(module.weight, dtype=x.dtype) * value
    return functional_call(module, {"weight": weight}, (x,))


_SCALES: dict[type[nn.Module], bool] = {}


def _scales_by_weight(module: Any) -> bool:
    """Whether a norm is a function of one input, affine in its weight: tried out once a class."""
    cls = type(module)
    if cls not in _SCALES:
        _SCALES[cls] = len(inspect.signature(module.forward).parameters) == 1 and module.weight.dim() == 1
        if _SCALES[cls]:
            ramp = torch.linspace(-1, 2, module.weight.numel(), device=module.weight.device)
            with torch.no_grad():
                zero, one, some = (_with_weight(module, ramp.expand(2, -1), value) for value in (0.0, 1.0, ramp))
            _SCALES[cls] = torch.allclose(some, zero + ramp * (one - zero), atol=1e-4)
    return _SCALES[cls]


def _over_channels(x: Tensor) -> Tensor:
    """Sum [batch, channels, ...] over all but batch and channels."""
    return x.flatten(2).sum(2) if x.dim() > 2 else x


def _batch_norm(module: _BatchNorm, x: Tensor, grad: Tensor) -> dict[str, Form]:
    mean, var = (
        _like(statistic, grad) for statistic in (module.running_mean, module.running_var) if statistic is not None
    )
    normalised = F.batch_norm(_like(x, grad), mean, var, eps=module.eps)
    return {"weight": _over_channels(grad * normalised), "bias": _over_channels(grad)}


def _group_norm(module: nn.GroupNorm, x: Tensor, grad: Tensor) -> dict[str, Form]:
    normalised = F.group_norm(_like(x, grad), module.num_groups, eps=module.eps)
    return {"weight": _over_channels(grad * normalised), "bias": _over_channels(grad)}


def _prelu(module: nn.PReLU, x: Tensor, grad: Tensor) -> dict[str, Form]:
    slopes = _over_channels(grad * _like(x, grad).clamp(max=0))
    return {"weight": slopes if module.num_parameters > 1 else slopes.sum(1, keepdim=True)}


def _convolution(module: nn.Conv1d | nn.Conv2d, x: Tensor, grad: Tensor) -> dict[str, Form]:
    """A linear layer on patches."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(_like(x, grad), module._reversed_padding_repeated_twice, mode=mode)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if isinstance(module, nn.Conv1d):
        x = x.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    patches = F.unfold(x, kernel, dilation=dilation, stride=stride)  # [batch, channels * kernel, positions]
    grad = grad.flatten(2)
    return {"weight": Outer(grad.mT, patches.mT), "bias": grad.sum(2)}


def _lora_embedding_parameters(module: Any) -> list[str]:
    return [
        f"{part}.{adapter}"
        for adapter in module.active_adapters
        for part in ("lora_embedding_A", "lora_embedding_B")
        if adapter in module.lora_embedding_A
    ]


def _lora_embedding(module: Any, index: Tensor, grad: Tensor) -> dict[str, Form]:
    """PEFT's LoRA of an embedding: its output gains s · B A[:, index]."""
    index, grad = index.reshape(len(index), -1), _terms(grad)
    gradients: dict[str, Form] = {}
    for adapter in module.active_adapters:
        if adapter not in module.lora_embedding_A:
            continue
        down, up = (
            _like(table[adapter].detach(), grad) for table in (module.lora_embedding_A, module.lora_embedding_B)
        )
        scaled = grad * module.scaling[adapter]
        if (scale := module._get_embed_scale()) is not None:
            scaled = scaled * scale
        gradients[f"lora_embedding_A.{adapter}"] = Columns(index, scaled @ up)
        gradients[f"lora_embedding_B.{adapter}"] = Outer(scaled, F.embedding(index, down.T))
    return gradients


def _conditional_bias(module: Any, condition: Tensor, grad: Tensor, queries: Tensor, keys: Tensor) -> dict[str, Form]:
    """CA-MTL's attention bias, scale(z)_c M_qc + shift(z)_c for the query q and the column c of the key's block."""
    batch, size = len(condition), module.block_size
    scale, _ = module.film.scale_and_shift(condition)
    inside = (queries // size).unsqueeze(1) == keys // size
    inside &= (queries < module.max_length).unsqueeze(1) & (keys < module.max_length)
    shares = grad.new_zeros(batch, len(queries), size).index_add_(2, keys % size, grad[:, 0] * inside)
    matrix = grad.new_zeros(batch, module.max_length, size)
    within = queries < module.max_length
    matrix.index_add_(1, queries[within], (shares * _like(scale, grad).unsqueeze(1))[:, within])
    return {"matrix": matrix}


def _norm_parameters(_: Tensor, norm: nn.LayerNorm, *__: Any) -> dict[str, nn.Parameter]:
    return dict(norm.named_parameters(recurse=False))


def _conditional_norm(
    _: nn.Module, x: Tensor, grad: Tensor, norm: nn.LayerNorm, film: Any, condition: Tensor
) -> dict[str, Form]:
    """CA-MTL's norm, whose weight is scale(z) γ + shift(z)."""
    scale, _shift = film.scale_and_shift(condition)
    gradients = _layer_norm(norm, x, grad)
    return {"weight": _like(scale, grad) * cast("Tensor", gradients["weight"]), "bias": gradients["bias"]}


def _has_statistics(module: _BatchNorm) -> bool:
    return not module.training and module.running_mean is not None


def _convolves_whole_input(module: _ConvNd) -> bool:
    return module.groups == 1


_SCALING_NORM = Rule(_scaling_norm)
_SCALED_EMBEDDING = Rule(_scaled_embedding)

register_rule(nn.Linear, _linear)
register_rule("transformers.pytorch_utils.Conv1D", _transposed_linear)
register_rule(nn.Embedding, Rule(_embedding, applies=lambda module: not module.scale_grad_by_freq))
register_rule(nn.LayerNorm, _layer_norm)
register_rule(nn.RMSNorm, _rms_norm)
register_rule(nn.GroupNorm, _group_norm)
register_rule(nn.PReLU, _prelu)
for norm in (nn.BatchNorm1d, nn.BatchNorm2d):
    register_rule(norm, Rule(_batch_norm, applies=_has_statistics))
for convolution in (nn.Conv1d, nn.Conv2d):
    register_rule(convolution, Rule(_convolution, applies=_convolves_whole_input))
register_rule(
    "peft.tuners.lora.layer.Embedding",
    Rule(_lora_embedding, _lora_embedding_parameters, applies=lambda module: not module.lora_variant),
)
register_rule("taskloom.adapters.ca_mtl.modules.ConditionalAttentionBias", _conditional_bias)
register_rule(
    "taskloom.adapters.ca_mtl.modules.ConditionalLayerNorm", Rule(_conditional_norm, borrowed=_norm_parameters)
)
