"""The gradient of every example of a batch, from one forward and one backward pass (the g_i of Grad-TAG, section 3).

Whatever runs examples independently of each other can be used, which a model in evaluation mode does: call
`model.eval()` first. Neither the model's mode nor its parameters' `.grad` is changed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.gradients.capture import Fallback, batch_size, collect
from taskloom.gradients.forms import Form, dense
from taskloom.gradients.projection import Projection

__all__ = ["per_example_gradients", "projected_gradients"]

Batch = Mapping[str, Any] | Any
OutputFn = Callable[[Any, Any], Tensor]
Forward = Callable[[nn.Module, Any], Any]


def per_example_gradients(
    model: nn.Module,
    batch: Batch,
    loss_fn: OutputFn,
    *,
    forward: Forward | None = None,
    fallback: Fallback = None,
) -> dict[str, Tensor]:
    """Return the gradient of each example's loss with respect to each trainable parameter.

    Args:
        model: any module; parameters with `requires_grad` count.
        batch: a mapping or a sequence of tensors, [batch, ...] each.
        loss_fn: (what the model returned, batch) -> one scalar an example, [batch].
        forward: (model, batch) -> what the model returns; by default `model(**batch)` for mappings and
            `model(batch[0])` for sequences such as (inputs, targets).
        fallback: what to do with trainable modules that have no rule (see `register_rule`): None refuses them,
            "autograd" computes them exactly with one backward pass an example.

    Returns:
        Parameter name, as in `model.named_parameters()`, -> [batch, *shape]; zero for parameters that `loss_fn` does
        not depend on. In float32, in float64 for such a model.

    Raises:
        UserError: a trainable module has no rule and `fallback` is None; a norm over the batch is in training mode.
        ValueError: `loss_fn` does not return a tensor of shape [batch].
    """
    gradients: dict[str, Tensor] = {}

    def add(name: str, gradient: Form, shape: torch.Size) -> None:
        whole = dense(gradient, shape)
        gradients[name] = gradients[name] + whole if name in gradients else whole

    collect(model, batch, loss_fn, add, forward, fallback)
    size = batch_size(batch)
    return {
        name: gradients[name] if name in gradients else torch.zeros(size, *parameter.shape, device=parameter.device)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def projected_gradients(
    model: nn.Module,
    batch: Batch,
    output_fn: OutputFn,
    projection: Projection,
    *,
    forward: Forward | None = None,
    fallback: Fallback = None,
) -> tuple[Tensor, Tensor]:
    """Return each example's output and the projection of its gradient, layer by layer, never all gradients at once.

    Args:
        model, batch, forward, fallback: see `per_example_gradients`.
        output_fn: (what the model returned, batch) -> one scalar an example, [batch].
        projection: applied to the gradients of all trainable parameters, by their names.

    Returns:
        The outputs [batch], detached, and the projected gradients, float32 [batch, dimensions].

    Raises:
        UserError, ValueError: see `per_example_gradients`.
    """
    device = next(model.parameters()).device
    projected = torch.zeros(batch_size(batch), projection.dimensions, device=device)

    def add(name: str, gradient: Form, shape: torch.Size) -> None:
        projected.add_(projection.project_parameter(name, gradient, shape).to(device))

    outputs = collect(model, batch, output_fn, add, forward, fallback)
    return outputs, projected
