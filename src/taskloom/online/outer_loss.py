"""What a weighter is trained for: the loss of the updated model (CaMeLS, arXiv 2305.15076, equations 3 to 5).

L_outer = L_qa(θ') + c_kl L_loc(θ, θ'): the questions about the documents shall be answered, and unrelated text shall be
continued as before, as the divergence of the next token's distributions says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from taskloom.online.qa import answer_losses
from taskloom.tasks.encoding import IGNORED

__all__ = ["Locality", "OuterLoss", "answer_nll"]

Batch = Mapping[str, Tensor]


def answer_nll(model: Any, questions: Batch) -> Tensor:
    """Return the mean loss of a batch's answer tokens, a scalar."""
    return answer_losses(model, questions).sum() / (questions["labels"] != IGNORED).sum().clamp(min=1)


@dataclass(frozen=True)
class Locality:
    """A batch on which an update shall change nothing.

    Attributes:
        batch: ``input_ids`` and ``attention_mask``, ``[rows, tokens]``.
        counted: bool ``[rows, tokens]``, where the prediction of the next token is compared.
        before: float32 log-probabilities before the update, ``[positions counted, vocabulary]``.
    """

    batch: Batch
    counted: Tensor
    before: Tensor

    @classmethod
    def of(cls, model: Any, batch: Batch) -> "Locality":
        """Note what a model predicts now: everywhere but on padding or, where there are labels, for these alone."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        counted = inputs["attention_mask"].bool()
        if "labels" in batch:
            counted = F.pad(batch["labels"][:, 1:] != IGNORED, (0, 1))
        with torch.no_grad():
            return cls(inputs, counted, _log_probabilities(model, inputs, counted))

    def divergence(self, model: Any) -> Tensor:
        """Return the mean over positions of KL(before || now), a scalar."""
        now = _log_probabilities(model, self.batch, self.counted)
        return F.kl_div(now, self.before, reduction="batchmean", log_target=True)


def _log_probabilities(model: Any, batch: Batch, counted: Tensor) -> Tensor:
    return model(**batch, use_cache=False).logits[counted].float().log_softmax(-1)


class OuterLoss:
    """The loss of an updated model, as a function of it.

    Args:
        questions: of `taskloom.online.encode.QACollator`.
        locality: batches on which the model shall stay as it is; their divergences are averaged.
        kl_weight: c_kl.

    Attributes:
        nll: the mean loss of the answers' tokens in the last call.
        divergence: the mean divergence in the last call, 0 without `locality`.
    """

    def __init__(self, questions: Batch, locality: Sequence[Locality] = (), kl_weight: float = 0.1) -> None:
        self.questions = questions
        self.locality = locality
        self.kl_weight = kl_weight
        self.nll = self.divergence = torch.zeros(())

    def __call__(self, model: Any) -> Tensor:
        loss = answer_nll(model, self.questions)
        self.nll = loss.detach()
        if self.locality:
            divergence = torch.stack([each.divergence(model) for each in self.locality]).mean()
            self.divergence = divergence.detach()
            loss = loss + self.kl_weight * divergence
        return loss
