"""The learned weights of auxiliary objectives: softmax over factored logits, moved by how gradients agree.

AANG (Dery et al. 2022), section 4. The weight of the objective k = (d, t, r, o) is

    w_k ∝ exp(W_all[k] + W_data[d] + W_transform[t] + W_representation[r] + W_output[o])

over the legal objectives, and the primary and the auxiliary loss are weighed by a softmax of two more logits. By
Algorithm 1, the agreement u_k = cos(gradient of objective k, gradient of the held-out loss) is what each logit of the
sampled objective k gains, times a learning rate.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from taskloom.auxiliary.space import SearchSpace
from taskloom.auxiliary.stages import STAGES
from taskloom.errors import RunError
from taskloom.storage import write_atomically

__all__ = ["ObjectiveWeights"]

#: The logits that an earlier run hands on. The balance is not among them: published `retrain` starts it afresh.
_HANDED_ON = ("joint", *STAGES)

#: Logits that are multiplied stay in here: an infinite one has no softmax, and from zero there is no way back.
EXPONENTIATED_RANGE = (1e-100, 1e100)


class ObjectiveWeights:
    """The weights of a space's objectives: float64 on the CPU, no autograd.

    Per `step_every` optimizer steps every logit moves once, by u, the mean over these steps of the agreements that
    concern it: of its objective; of all objectives with its value, summed; or of the primary or auxiliary loss.

    - ``additive``: logit + lr · u, from 0. Of a softmax's logits without factors this **is** exponentiated gradient:
      w_k is multiplied by exp(lr · u_k) and normalised.
    - ``exponentiated``: logit · exp(lr · u · f), from 1, as the published code's option has it; f is the number of
      entries of the logit's tensor over that of the joint one (the stage's values over the space's combinations; 1
      for the joint logits and the balance).

    Args:
        space: the objectives.
        primary_lr: lr of the balance (published soptlr).
        auxiliary_lr: lr of all logits of objectives (published auxlr).
        update: see above.
        step_every: optimizer steps from one move to the next.
        factored: whether the stages' logits learn; else only the joint ones do, one an objective.

    Attributes:
        logits: by name: ``joint [objectives]``, each stage ``[values]``, ``balance [2]`` (primary, auxiliary).
        skipped: ``[objectives]``, how often a cosine was not finite and left out.
        skipped_balance: ``[2]``, the same of the primary and the auxiliary loss.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        primary_lr: float,
        auxiliary_lr: float,
        update: Literal["additive", "exponentiated"] = "additive",
        step_every: int = 1,
        factored: bool = True,
    ) -> None:
        """Start with equal weights.

        Raises:
            ValueError: a learning rate below 0, an unknown update, or `step_every` below 1.
        """
        if min(primary_lr, auxiliary_lr) < 0:
            raise ValueError(
                f"`primary_lr` and `auxiliary_lr` must not be negative, found {primary_lr}, {auxiliary_lr}"
            )
        if update not in ("additive", "exponentiated"):
            raise ValueError(f"`update` must be additive or exponentiated, found {update!r}")
        if step_every < 1:
            raise ValueError(f"`step_every` must be at least 1, found {step_every}")
        self.space = space
        self.primary_lr = primary_lr
        self.auxiliary_lr = auxiliary_lr
        self.update = update
        self.step_every = step_every
        self.factored = factored
        self._indices = torch.from_numpy(space.stage_indices)
        self._start = 1.0 if update == "exponentiated" else 0.0
        sizes = {"joint": len(space), **{stage: len(words) for stage, words in space.stages.items()}, "balance": 2}
        self.logits = {name: torch.full((size,), self._start, dtype=torch.float64) for name, size in sizes.items()}
        self._pending = torch.zeros(len(space), dtype=torch.float64)
        self._pending_balance = torch.zeros(2, dtype=torch.float64)
        self._steps = torch.zeros((), dtype=torch.long)
        self.skipped = torch.zeros(len(space), dtype=torch.long)
        self.skipped_balance = torch.zeros(2, dtype=torch.long)

    # The weights

    @property
    def learns(self) -> bool:
        """Whether anything moves: False with both learning rates 0, when no gradient needs to be compared."""
        return self.primary_lr > 0 or self.auxiliary_lr > 0

    def probabilities(self) -> Tensor:
        """Return the weight of each legal objective, ``[objectives]``; they sum to 1."""
        return self._objective_logits().softmax(0)

    def among(self, indices: Sequence[int]) -> Tensor:
        """Return the weights of these objectives alone, ``[len(indices)]``; they sum to 1."""
        return self._objective_logits()[list(indices)].softmax(0)

    def balance(self) -> tuple[float, float]:
        """Return the weights of the primary and of the auxiliary loss; they sum to 1."""
        primary, auxiliary = self.logits["balance"].softmax(0).tolist()
        return primary, auxiliary

    def stage_probabilities(self) -> dict[str, dict[str, float]]:
        """Return, by stage and value, the softmax of the stage's logits: what the paper plots.

        Without factors the stages have none: then the sum of the weights of the objectives with the value.
        """
        found = {}
        for column, (stage, words) in enumerate(self.space.stages.items()):
            shares = self.logits[stage].softmax(0)
            if not self.factored:
                shares = torch.zeros(len(words), dtype=torch.float64)
                shares.index_add_(0, self._indices[:, column], self.probabilities())
            found[stage] = dict(zip(words, shares.tolist(), strict=True))
        return found

    def transform_logit(self, transform: str) -> float:
        """Return what a transform's own logit has learned, 0 before: it tilts BERT's mixture.

        Raises:
            ValueError: the space has no such transform.
        """
        if transform not in self.space.transforms:
            raise ValueError(f"`transform` must be one of {', '.join(self.space.transforms)}, found {transform!r}")
        return self.logits["transform"][self.space.transforms.index(transform)].item() - self._start

    def sample(self, k: int, generator: np.random.Generator) -> list[int]:
        """Return `k` objectives, drawn uniformly without replacement, as positions in the space; all if it has no more.

        Raises:
            ValueError: `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"`k` must be at least 1, found {k}")
        if k >= len(self.space):
            return list(range(len(self.space)))
        return sorted(generator.choice(len(self.space), size=k, replace=False).tolist())

    # What they learn

    def observe(
        self, indices: Sequence[int], cosines: Tensor, primary: float | Tensor, auxiliary: float | Tensor
    ) -> None:
        """Note one step's agreements; those that are not finite are left out and counted.

        Args:
            indices: the sampled objectives.
            cosines: ``[len(indices)]``, of each one's gradient with the held-out one.
            primary: of the primary loss' gradient.
            auxiliary: of the sum of the objectives' gradients.

        Raises:
            ValueError: there are not as many cosines as objectives.
        """
        if cosines.shape != (len(indices),):
            raise ValueError(f"`cosines` must have the shape [{len(indices)}], found {list(cosines.shape)}")
        at = torch.tensor(indices, dtype=torch.long)
        _add_finite(self._pending, self.skipped, at, cosines.detach().to("cpu", torch.float64))
        both = torch.tensor([float(primary), float(auxiliary)], dtype=torch.float64)
        _add_finite(self._pending_balance, self.skipped_balance, torch.arange(2), both)

    def step(self) -> None:
        """End an optimizer step: every `step_every` of them, move the logits by what was observed."""
        self._steps += 1
        if self._steps % self.step_every:
            return
        agreement = self._pending / self.step_every
        self._move("joint", agreement, self.auxiliary_lr)
        if self.factored:
            for column, stage in enumerate(STAGES):
                summed = torch.zeros_like(self.logits[stage]).index_add_(0, self._indices[:, column], agreement)
                self._move(stage, summed, self.auxiliary_lr)
        self._move("balance", self._pending_balance / self.step_every, self.primary_lr)
        self._pending.zero_()
        self._pending_balance.zero_()

    def _move(self, name: str, agreement: Tensor, rate: float) -> None:
        logits = self.logits[name]
        if self.update == "additive":
            logits += rate * agreement
        else:
            factor = len(logits) / self.space.combinations if name in STAGES else 1.0
            logits *= (rate * agreement * factor).exp()
            logits.clamp_(*EXPONENTIATED_RANGE)

    def _objective_logits(self) -> Tensor:
        by_stage = [self.logits[stage][self._indices[:, column]] for column, stage in enumerate(STAGES)]
        return self.logits["joint"] + sum(by_stage)

    # What is kept

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that learning goes on from, in the middle of a window too, as tensors of its own."""
        return {name: tensor.clone() for name, tensor in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            RunError: it belongs to another search space.
        """
        own = self._tensors()
        for name in own | dict(state):
            shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (own, state)]
            if shapes[0] != shapes[1]:
                raise RunError(
                    f"the state of the objectives' weights belongs to another search space: '{name}' has the shape "
                    f"{shapes[1]}, expected {shapes[0]}"
                )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def save(self, path: Path) -> None:
        """Write the state to a safetensors file that names the objectives, for `load_logits`."""
        metadata = {
            "objectives": json.dumps([objective.name for objective in self.space]),
            "stages": json.dumps(self.space.stages),
            "update": self.update,
        }
        write_atomically(Path(path), save(self.state_dict(), metadata))

    def load_logits(self, path: Path) -> None:
        """Start from the objectives' logits that an earlier run has learned (published `retrain`), in a file of `save`.

        The balance, and what was observed there, stays behind, as published.

        Raises:
            RunError: there is no such file, it is damaged, or its weights are of another space or another update.
        """
        path = Path(path)
        if not path.is_file():
            raise RunError(f"{path}: there are no weights of objectives to start from; is that run finished?")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                learned = {name: file.get_tensor(name) for name in _HANDED_ON}
            objectives, stages = json.loads(metadata["objectives"]), json.loads(metadata["stages"])
            update = metadata["update"]
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise RunError(f"{path}: not a file of objectives' weights, or damaged ({error})") from error
        self._refuse_other_space(path, objectives, {stage: tuple(words) for stage, words in stages.items()})
        if update != self.update:
            raise RunError(f"{path}: learned with the update {update}, whose logits mean nothing to {self.update}")
        for name in _HANDED_ON:
            self.logits[name].copy_(learned[name])

    def _refuse_other_space(self, path: Path, objectives: list[str], stages: Mapping[str, tuple[str, ...]]) -> None:
        own = [objective.name for objective in self.space]
        for place in range(max(len(own), len(objectives))):
            there, here = (names[place] if place < len(names) else "none" for names in (objectives, own))
            if there != here:
                raise RunError(
                    f"{path}: its weights are those of another search space: objective {place + 1} is {there} there "
                    f"({len(objectives)} in all) and {here} here ({len(own)}). Take the same space and the same data"
                )
        for stage, words in self.space.stages.items():
            if stages.get(stage) != words:
                raise RunError(
                    f"{path}: its weights are those of another search space: its stage {stage} has the values "
                    f"{', '.join(stages.get(stage, ()))}, here {', '.join(words)}"
                )

    def _tensors(self) -> dict[str, Tensor]:
        return {
            **self.logits,
            "pending": self._pending,
            "pending_balance": self._pending_balance,
            "steps": self._steps,
            "skipped": self.skipped,
            "skipped_balance": self.skipped_balance,
        }


def _add_finite(sums: Tensor, skipped: Tensor, at: Tensor, values: Tensor) -> None:
    finite = values.isfinite()
    sums.index_add_(0, at[finite], values[finite])
    skipped.index_add_(0, at, (~finite).long())
