"""One forward and one backward pass of a batch, from which the gradients of each example are read off.

Every module that has a rule is watched: a forward hook keeps its input, a hook on its output tensor receives the
output's gradient, and the rule turns the two into per-example gradients, which go to a sink at once. For the sum of the
examples' scalars as loss, row b of that gradient belongs to example b. Within a watched module's own forward its
parameters do not require gradients, so that autograd does not compute the batch's weight gradients, which nobody needs;
outside they do, so that any other use of them (a table read as a plain matrix, a norm's weight taken by another module)
shows in the graph instead of being missed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from taskloom.errors import UserError
from taskloom.gradients.forms import Form
from taskloom.gradients.relative_bias import bias_of_each_example
from taskloom.gradients.rules import Rule, find_rule

__all__ = ["Fallback", "Sink", "collect"]

Fallback = Literal["autograd"] | None
FALLBACK = "fallback='autograd' (affinity.fallback=autograd in a recipe; exact, but one backward pass an example)"
#: (parameter name, its gradients in any form, its shape)
Sink = Callable[[str, Form, torch.Size], None]


class _NoBatchDimension(Exception):  # noqa: N818, control flow: the module goes to the fallback
    def __init__(self, name: str, found: Sequence[int]) -> None:
        super().__init__(name)
        self.name, self.found = name, list(found)


def collect(
    model: nn.Module,
    batch: Any,
    output_fn: Callable[[Any, Any], Tensor],
    sink: Sink,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    fallback: Fallback = None,
) -> Tensor:
    """Send the per-example gradients of `output_fn` to `sink`, piece by piece; pieces of one parameter add up.

    Returns:
        What `output_fn` returned, [batch], detached.

    Raises:
        UserError: a trainable module has no rule and `fallback` is None, or the examples are not independent.
        ValueError: `output_fn` does not return one number an example.
    """
    if fallback not in (None, "autograd"):
        raise ValueError(f"`fallback` must be None or 'autograd', not {fallback!r}")
    _refuse_mixed_examples(model)
    excluded: set[str] = set()
    while True:
        watch = _Watch(model, batch, sink, excluded)
        if watch.unclaimed and fallback is None:
            raise UserError(_no_rule(model, watch.unclaimed))
        try:
            return watch.run(batch, output_fn, forward or _default_forward, fallback)
        except _NoBatchDimension as found:
            if fallback is None:
                raise UserError(
                    f"The per-example gradients of '{found.name}' are unknown: its output of shape {found.found} "
                    f"is not one entry an example ({watch.batch}), nor one for all. Freeze this module, or pass "
                    f"{FALLBACK}."
                ) from None
            excluded.add(found.name)


def batch_size(batch: Any) -> int:
    """Return the number of examples: the first dimension of the batch's first tensor."""
    tensors = _tensors(batch)
    if not tensors:
        raise ValueError(f"`batch` must be a mapping or a sequence with tensors, not {type(batch).__name__}")
    return len(tensors[0])


def _tensors(batch: Any) -> list[Tensor]:
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else [batch]
    return [value for value in values if isinstance(value, Tensor) and value.dim() > 0]


class _Watch:
    """The hooks on one model for one batch."""

    def __init__(self, model: nn.Module, batch: Any, sink: Sink, excluded: set[str]) -> None:
        self.model, self.sink = model, sink
        self.given, self.batch = _tensors(batch), batch_size(batch)
        self.names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.watched: dict[str, tuple[nn.Module, Rule, dict[str, nn.Parameter]]] = {}
        for path, module in model.named_modules():
            rule = find_rule(module)
            if rule is None or path in excluded:
                continue
            own = {name: module.get_parameter(name) for name in rule.parameters(module)}
            own = {name: parameter for name, parameter in own.items() if id(parameter) in self.names}
            if own or rule.borrowed is not None:
                self.watched[path] = (module, rule, own)
        claimed = {id(p) for _, _, own in self.watched.values() for p in own.values()}
        self.unclaimed = [name for key, name in self.names.items() if key not in claimed]
        self.phase: Literal["forward", "fallback", "backward"] = "forward"

    def run(self, batch: Any, output_fn: Callable, forward: Callable, fallback: Fallback) -> Tensor:
        with ExitStack() as stack, torch.enable_grad():
            stack.callback(self.restore)
            self.install(stack)
            values = output_fn(forward(self.model, batch), batch)
            if not isinstance(values, Tensor) or values.shape != (self.batch,):
                found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"`output_fn` must return one number an example, shape [{self.batch}], not {found}")
            if values.grad_fn is None:
                return values.detach()  # nothing trainable takes part
            leaves = _leaves(values.grad_fn)
            slow = [name for key, name in self.names.items() if key in leaves]
            if slow and fallback is None:
                raise UserError(_used_directly(slow))
            self.phase = "fallback"
            self.loop(values, slow)
            self.phase = "backward"
            # Only the hooks' side effects count. All leaves are asked for, so that all of the graph is run through;
            # unlike `backward()`, this leaves every `.grad` alone.
            torch.autograd.grad(values.sum(dtype=_wide(values.dtype)), list(leaves.values()))
        return values.detach()

    def install(self, stack: ExitStack) -> None:
        for path, (module, rule, own) in self.watched.items():
            before = module.register_forward_pre_hook(partial(self.before_forward, rule, own))
            after = module.register_forward_hook(partial(self.after_forward, path, rule, own), with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        module: Any
        for path, module in self.model.named_modules():
            if getattr(module, "merges_examples", False):  # a module of ours that computes alike examples once
                module.merges_examples = False
                stack.callback(setattr, module, "merges_examples", True)
            table = f"{path}.relative_attention_bias".removeprefix(".")
            if table in self.watched and hasattr(module, "compute_bias"):
                receive = partial(self.emit, *self.watched[table])
                embedding = self.watched[table][0]
                stack.enter_context(bias_of_each_example(module, embedding, self.batch, self.follow, receive))

    def restore(self) -> None:
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def covered(self, rule: Rule, own: dict[str, nn.Parameter], args: Sequence[Any]) -> dict[str, nn.Parameter]:
        """Return the trained parameters that a module computes with: its own, or those that it is given."""
        if rule.borrowed is None:
            return own
        return {name: p for name, p in rule.borrowed(*args).items() if id(p) in self.names}

    def before_forward(self, rule: Rule, own: dict[str, nn.Parameter], module: nn.Module, args: Any) -> None:
        for parameter in self.covered(rule, own, args).values():
            parameter.requires_grad_(False)

    def after_forward(
        self,
        path: str,
        rule: Rule,
        own: dict[str, nn.Parameter],
        module: nn.Module,
        args: Any,
        kwargs: Any,
        output: Any,
    ) -> Tensor | None:
        own = self.covered(rule, own, args)
        for parameter in own.values():
            parameter.requires_grad_(True)
        if not own or not torch.is_grad_enabled():
            return None
        value: Tensor = args[0] if args else next(iter(kwargs.values()))
        if len(output) != self.batch or self.is_positions(value):
            if len(output) != 1:
                raise _NoBatchDimension(path, output.shape)
            # One row for all examples, such as position embeddings: repeat it, so that each has a gradient.
            output, value = (x.expand(self.batch, *x.shape[1:]) for x in (output, value))
        return self.follow(output, value, partial(self.emit, module, rule, own, others=args[1:]))

    def is_positions(self, value: Tensor) -> bool:
        """Whether an index counts 0, 1, 2 ... without being given in the batch: its length is no number of examples."""
        if value.dim() != 1 or value.is_floating_point() or len(value) == 1:
            return False
        counts = bool((value.diff() == 1).all())
        return counts and not any(torch.equal(value, given) for given in self.given if given.shape == value.shape)

    def emit(
        self,
        module: nn.Module,
        rule: Rule,
        own: dict[str, nn.Parameter],
        value: Tensor,
        grad: Tensor,
        others: Sequence[Any] = (),
    ) -> None:
        gradients = rule.gradient(module, value, grad.to(_wide(grad.dtype)), *others)
        for name, parameter in own.items():
            self.sink(self.names[id(parameter)], gradients[name], parameter.shape)

    def follow(self, output: Tensor, value: Tensor, receive: Callable[[Tensor, Tensor], None]) -> Tensor:
        """Return `output` as part of the graph, whose gradient `receive` gets together with `value`."""
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        if self.phase != "forward":
            return output  # checkpointing runs the module again: its first run is followed already
        kept, version = [value], value._version

        def hook(grad: Tensor) -> None:
            if self.phase == "backward" and kept:
                found = kept.pop()
                if found._version != version:
                    raise RuntimeError("the input of a module was changed in place before its gradient was computed")
                with torch.no_grad():
                    receive(found, grad)

        output.register_hook(hook)
        return output

    def loop(self, values: Tensor, slow: list[str]) -> None:
        """The fallback: one backward pass an example, for the parameters used where no rule sees it."""
        if not slow:
            return
        parameters = [self.parameters[name] for name in slow]
        rows = [
            torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
            for value in values
        ]
        for name, parameter, gradients in zip(slow, parameters, zip(*rows, strict=True), strict=True):
            stacked = torch.stack(gradients)
            self.sink(name, stacked.to(_wide(stacked.dtype)), parameter.shape)


def _default_forward(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, Mapping) else model(batch[0] if isinstance(batch, Sequence) else batch)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _leaves(node: Any) -> dict[int, Tensor]:
    """Return the leaf tensors that a graph starts from, by id."""
    seen, todo, leaves = {node}, [node], {}
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            leaves[id(node.variable)] = node.variable
        if node.name() == "CheckpointFunctionBackward":
            raise UserError(
                "Reentrant gradient checkpointing hides the gradients of single examples. "
                "Use gradient_checkpointing_enable({'use_reentrant': False})."
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return leaves


def _refuse_mixed_examples(model: nn.Module) -> None:
    mixing = [
        name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    ]
    if mixing:
        raise UserError(
            f"'{mixing[0]}' normalises over the batch, so that the examples' gradients are not their own. "
            "Call model.eval() first."
        )


def _no_rule(model: nn.Module, parameters: Iterable[str]) -> str:
    owners = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
    named = ", ".join(f"'{owner}' ({type(model.get_submodule(owner)).__name__})" for owner in owners)
    return (
        f"How the gradients of single examples follow is not known for the trainable modules {named}. "
        "Freeze them (requires_grad_(False)), register a rule (taskloom.gradients.register_rule), or pass "
        f"{FALLBACK}."
    )


def _used_directly(parameters: Sequence[str]) -> str:
    named = ", ".join(f"'{name}'" for name in parameters)
    return (
        f"The parameters {named} are used outside the forward of their own module, where no rule sees it. "
        f"Freeze them (requires_grad_(False)) or pass {FALLBACK}."
    )
