"""What became of each objective in a training: how often it was sampled and left out, its mean cosine and loss."""

import torch
from torch import Tensor

from taskloom.auxiliary.step import StepResult

__all__ = ["Tally"]


class Tally:
    """Counts and sums an objective, ``[objectives]``, on the device of the training: nothing is read back.

    Args:
        objectives: their number.
        device: the device.

    Attributes:
        sampled: steps that it was sampled in.
        skipped: those of them in which its gradient, or the held-out one, was not finite.
        cosines: sum of its cosines with the held-out gradient.
        losses: sum of its losses.
    """

    NAMES = ("sampled", "skipped", "cosines", "losses")

    def __init__(self, objectives: int, device: torch.device | str = "cpu") -> None:
        self.sampled = torch.zeros(objectives, dtype=torch.long, device=device)
        self.skipped = torch.zeros(objectives, dtype=torch.long, device=device)
        self.cosines = torch.zeros(objectives, dtype=torch.float64, device=device)
        self.losses = torch.zeros(objectives, dtype=torch.float64, device=device)

    def note(self, result: StepResult) -> None:
        """Count a step."""
        index = torch.tensor(result.sampled, device=self.sampled.device)
        losses = result.losses.double()
        self.sampled[index] += 1
        if result.cosines is not None:
            cosines = result.cosines.double()
            finite = cosines.isfinite()
            self.skipped[index] += ~finite
            self.cosines[index] += cosines.nan_to_num(0.0)
            losses = torch.where(finite, losses, torch.zeros_like(losses))
        self.losses[index] += losses

    @staticmethod
    def skipped_in(result: StepResult) -> list[int]:
        """Return the objectives that a step left out."""
        if result.cosines is None:
            return []
        return [index for index, lost in zip(result.sampled, result.cosines.isnan().tolist(), strict=True) if lost]

    def means(self) -> tuple[Tensor, Tensor]:
        """Return each objective's mean cosine and mean loss over the steps that it counted in, NaN without any."""
        counted = (self.sampled - self.skipped).double()
        return self.cosines / counted, self.losses / counted

    def state_dict(self) -> dict[str, Tensor]:
        """Return all counts and sums."""
        return {name: getattr(self, name) for name in self.NAMES}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state_dict` returned."""
        for name in self.NAMES:
            getattr(self, name).copy_(state[name])
