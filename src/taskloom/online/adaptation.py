"""Adapting a language model to documents, one weighted update each (CaMeLS, arXiv 2305.15076, section 3.1).

θ_k = θ_(k-1) - η g_k, where g_k is the gradient of document k's loss, each token's times its weight; the published runs
let Adam make the step. The model stays in evaluation mode: what a document teaches must not depend on a dropped-out
unit, and the weights were meta-trained without dropout in the updated model, too.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from taskloom.online.encode import encode_documents
from taskloom.online.optimizers import OptimizerName, make_optimizer
from taskloom.online.trained_parameters import trained_parameters
from taskloom.online.weighted_loss import weighted_loss

__all__ = ["Adaptation", "Update", "adapt"]

#: (input_ids, attention_mask), both [batch, tokens] -> weights[batch, tokens], 0 on padding.
Weighter = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Update:
    """What a document, or a part of one, did to the model.

    Attributes:
        tokens: its length.
        loss: its weighted loss before the update.
        mean_weight: the mean of its tokens' weights.
        grad_norm: norm of the gradient of the step that it completed; None if the step is still to come.
        applied: False if its loss or gradient was not finite: then nothing was changed.
    """

    tokens: int
    loss: float
    mean_weight: float
    grad_norm: float | None
    applied: bool = True


class Adaptation:
    """Updates a language model on documents, and can be stopped and taken up again at any of them.

    Args:
        model: a causal language model, updated in place.
        weighter: weighs a document's tokens.
        learning_rate: of the updates.
        optimizer: what makes a step of a gradient.
        documents_per_update: how many documents a step is made of; their losses are averaged.
        max_grad_norm: a step's gradient is clipped to this norm; 0 never clips.
        layers: update the last blocks only, see `taskloom.online.trained_parameters`.
        loss_length: see `taskloom.online.weighted_loss`.

    Raises:
        ValueError: `layers` leaves nothing to update, or the model has no such blocks.
    """

    def __init__(
        self,
        model: Any,
        weighter: Weighter,
        *,
        learning_rate: float = 2.5e-5,
        optimizer: OptimizerName = "adam",
        documents_per_update: int = 1,
        max_grad_norm: float = 750.0,
        layers: int | None = None,
        loss_length: int | None = None,
    ) -> None:
        self.model = model.eval()
        self.weighter = weighter
        self.documents_per_update = documents_per_update
        self.max_grad_norm = max_grad_norm
        self.loss_length = loss_length
        self.parameters = trained_parameters(model, layers)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self.parameters)
            parameter.grad = None
        # transformers recomputes activations in blocks that train; what drops out in them does not.
        self._recomputed = [
            module
            for module in model.modules()
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
        ]
        self.optimizer = make_optimizer(optimizer, self.parameters.values(), learning_rate)
        self._pending = 0

    def weigh(self, document: Mapping[str, Tensor]) -> Tensor:
        """Return the weights of a document's tokens, ``[1, tokens]``."""
        with torch.no_grad():
            return self.weighter(document["input_ids"], document["attention_mask"])

    def update(self, document: Mapping[str, Tensor]) -> Update:
        """Update the model on a document, or leave its gradient to the step that it is a part of.

        Args:
            document: ``input_ids`` and ``attention_mask``, ``[1, tokens]``.
        """
        device = next(iter(self.parameters.values())).device
        document = {name: value.to(device) for name, value in document.items()}
        weights = self.weigh(document)
        for block in self._recomputed:
            block.training = True
        with torch.enable_grad():
            loss = weighted_loss(self.model, **document, weights=weights, length=self.loss_length)
            gradients = torch.autograd.grad(
                loss / self.documents_per_update,
                list(self.parameters.values()),
                allow_unused=True,
                materialize_grads=True,
            )
        finite = torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).all()
        tokens = document["input_ids"].shape[1]
        value, mean, applied = torch.stack([loss.detach(), weights.mean().to(loss), finite.to(loss)]).tolist()
        if not applied:
            return Update(tokens, value, mean, None, applied=False)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self._pending += 1
        return Update(tokens, value, mean, self.step() if self._pending == self.documents_per_update else None)

    def step(self) -> float | None:
        """Make a step of the gradients that are pending, and return their norm; None if there are none."""
        if not self._pending:
            return None
        limit = self.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._pending = 0
        return norm.item()

    # What is needed to go on

    def state_dict(self) -> dict[str, Tensor]:
        """Return the updated parameters, the optimizer's state and the pending gradients."""
        state: dict[str, Tensor] = {"pending": torch.tensor(self._pending)}
        for name, parameter in self.parameters.items():
            state[f"parameter/{name}"] = parameter.detach()
            if parameter.grad is not None:
                state[f"gradient/{name}"] = parameter.grad
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if value is not None:
                    state[f"optimizer/{key}/{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return {name: value.contiguous() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: it is of another model, or of other updated parameters.
        """
        found = {name.removeprefix("parameter/") for name in state if name.startswith("parameter/")}
        if found != self.parameters.keys():
            lost = sorted(found ^ self.parameters.keys())[0]
            raise ValueError(f"`state` is of another model or other parameters: they differ in '{lost}'")
        for name, parameter in self.parameters.items():
            if (shape := state[f"parameter/{name}"].shape) != parameter.shape:
                raise ValueError(
                    f"`state` is of another model: '{name}' has the shape {[*shape]}, expected {[*parameter.shape]}"
                )
        self._pending = int(state["pending"])
        for name, parameter in self.parameters.items():
            parameter.data.copy_(state[f"parameter/{name}"])
            gradient = state.get(f"gradient/{name}")
            parameter.grad = None if gradient is None else gradient.to(parameter)
        self._load_optimizer(state)

    def _load_optimizer(self, state: Mapping[str, Tensor]) -> None:
        names = {name: position for position, name in enumerate(self.parameters)}
        found: dict[int, dict[str, Any]] = {}
        for name, value in state.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                key, _, owner = rest.partition("/")
                found.setdefault(names[owner], {})[key] = value
        fresh = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": found, "param_groups": fresh["param_groups"]})


def adapt(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    weighter: Weighter,
    *,
    max_length: int = 1024,
    long: Literal["split", "truncate"] = "split",
    on_update: Callable[[Update], None] | None = None,
    **settings: Any,
) -> list[Update]:
    """Update a language model on documents in their order, in place.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        documents: texts.
        weighter: weighs the tokens of a document, given as ids of this tokenizer.
        max_length: longest document, or part of one, in tokens.
        long: what becomes of a longer one; each part is an update.
        on_update: called after each update.
        **settings: those of `Adaptation`: `learning_rate`, `optimizer`, `documents_per_update`, `max_grad_norm`,
            `layers`, `loss_length`.

    Returns:
        What each document, or part of one, did.

    Raises:
        ValueError: a setting is out of range.
    """
    adaptation = Adaptation(model, weighter, **settings)
    updates = []
    for text in documents:
        for part in encode_documents([text], tokenizer, max_length, long)[0]:
            updates.append(adaptation.update(part))
            if on_update is not None:
                on_update(updates[-1])
    adaptation.step()
    return updates
