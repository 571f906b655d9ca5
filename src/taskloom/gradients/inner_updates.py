"""Inner optimizers as functions of their state, which the meta-gradient walks through backwards.

One update maps parameters θ, a state and a gradient g to new parameters and a new state. The gradients of a later
quantity with respect to the old ones and to g follow from those with respect to the new ones, element by element: no
graph of the model is needed. `Adam` is Kingma and Ba (arXiv 1412.6980), algorithm 1, without weight decay.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["SGD", "Adam", "InnerOptimizer", "Pulled"]

Tensors = dict[str, Tensor]
#: By the state's part (none for SGD; m and v for Adam), then by parameter.
State = dict[str, Tensors]


class Pulled(NamedTuple):
    """The gradients of a later quantity, pulled back through one update.

    Attributes:
        parameters: with respect to the parameters before it, but for the way through the gradient.
        state: with respect to the state before it.
        gradient: with respect to the gradient that it was made with, divided by `factor`.
        factor: see `gradient`.
    """

    parameters: Tensors
    state: State
    gradient: Tensors
    factor: float = 1.0


class InnerOptimizer(Protocol):
    """One kind of update.

    Attributes:
        uses_gradient: whether `pull_back` looks at the gradient, which may be empty otherwise.
    """

    uses_gradient: ClassVar[bool]

    def initial_state(self, parameters: Tensors) -> State:
        """Return the state before the first update."""
        ...

    def update(self, number: int, parameters: Tensors, state: State, gradient: Tensors) -> tuple[Tensors, State]:
        """Return parameters and state after the update of this number, which counts from 1."""
        ...

    def pull_back(self, number: int, state: State, gradient: Tensors, later: Tensors, later_state: State) -> Pulled:
        """Return gradients before the update.

        Args:
            number: of the update.
            state: before it.
            gradient: it was made with.
            later: the gradients with respect to the parameters after it.
            later_state: and to the state after it.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """θ' = θ - lr g."""

    lr: float
    uses_gradient: ClassVar[bool] = False

    def initial_state(self, parameters: Tensors) -> State:
        return {}

    def update(self, number: int, parameters: Tensors, state: State, gradient: Tensors) -> tuple[Tensors, State]:
        return {name: torch.sub(value, gradient[name], alpha=self.lr) for name, value in parameters.items()}, state

    def pull_back(self, number: int, state: State, gradient: Tensors, later: Tensors, later_state: State) -> Pulled:
        return Pulled(later, later_state, later, -self.lr)


@dataclass(frozen=True)
class Adam:
    """m' = β1 m + (1 - β1) g, v' = β2 v + (1 - β2) g², θ' = θ - lr m̂ / (√v̂ + ε)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    uses_gradient: ClassVar[bool] = True

    def initial_state(self, parameters: Tensors) -> State:
        return {part: {name: torch.zeros_like(value) for name, value in parameters.items()} for part in ("m", "v")}

    def update(self, number: int, parameters: Tensors, state: State, gradient: Tensors) -> tuple[Tensors, State]:
        updated: Tensors = {}
        moments: State = {"m": {}, "v": {}}
        for name, value in parameters.items():
            m, v = self._moments(name, state, gradient[name])
            moments["m"][name], moments["v"][name] = m, v
            updated[name] = value - self._move(number, m, v)
        return updated, moments

    def pull_back(self, number: int, state: State, gradient: Tensors, later: Tensors, later_state: State) -> Pulled:
        before: State = {"m": {}, "v": {}}
        to_gradient: Tensors = {}
        beta1, beta2 = self.betas
        for name, value in later.items():
            m, v = self._moments(name, state, gradient[name])
            corrected = v / (1 - beta2**number)
            root = corrected.sqrt()
            denominator = root + self.eps
            by_m = later_state["m"][name] - value * self.lr / (1 - beta1**number) / denominator
            # Where v is zero so is m, and with it the numerator: nothing moves there.
            slope = torch.where(root > 0, 0.5 / root.clamp(min=torch.finfo(root.dtype).tiny), 0.0)
            moved = self.lr * (m / (1 - beta1**number)) / denominator.square()
            by_v = later_state["v"][name] + value * moved * slope / (1 - beta2**number)
            before["m"][name], before["v"][name] = beta1 * by_m, beta2 * by_v
            to_gradient[name] = (1 - beta1) * by_m + 2 * (1 - beta2) * gradient[name] * by_v
        return Pulled(later, before, to_gradient)

    def _moments(self, name: str, state: State, gradient: Tensor) -> tuple[Tensor, Tensor]:
        beta1, beta2 = self.betas
        return (
            beta1 * state["m"][name] + (1 - beta1) * gradient,
            beta2 * state["v"][name] + (1 - beta2) * gradient.square(),
        )

    def _move(self, number: int, m: Tensor, v: Tensor) -> Tensor:
        beta1, beta2 = self.betas
        return self.lr * (m / (1 - beta1**number)) / ((v / (1 - beta2**number)).sqrt() + self.eps)
