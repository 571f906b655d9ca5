"""The output of an example, the scalar whose gradient is collected (Grad-TAG, section 3.1).

The published procedure is for two classes: with ``f`` the logit and a label of +1 or -1, the loss is
``log(1 + exp(-y f))``. Here the same form serves every kind of task through the **margin** of the right answer,

    m = log p / (1 - p),    so that    softplus(-m) = -log p,

which is exactly the cross-entropy, whatever ``p`` is a probability of: one of two classes (``m`` is the signed
logit), one of many, all answer tokens of a text, or all labels of a sentence. Regression keeps the prediction itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from taskloom.affinity.source import NO_CLASS, Loss
from taskloom.tasks import Task

__all__ = ["SuiteOutput", "class_margin", "log_odds", "signed_logit"]

#: Above this log-probability an answer counts as certain: the margin stays finite, and its gradient is zero.
CERTAIN = -1e-6


def signed_logit(logit: Tensor, label: Tensor) -> Tensor:
    """Return the margin of a binary label from its one logit: the logit if the label is positive, else its negative.

    Args:
        logit: ``[batch]``, of the positive class.
        label: ``[batch]``, 1 (or True) for the positive class, 0 or -1 for the other.
    """
    return torch.where(label > 0, logit, -logit)


def class_margin(logits: Tensor, label: Tensor) -> Tensor:
    """Return ``log p / (1 - p)`` of the right class: its logit less the log-sum-exp of the others.

    Args:
        logits: ``[batch, classes]``.
        label: ``[batch]``, index of the right class.
    """
    index = label.long().unsqueeze(-1)
    right = logits.gather(-1, index).squeeze(-1)
    return right - logits.scatter(-1, index, float("-inf")).logsumexp(-1)


def log_odds(log_probability: Tensor) -> Tensor:
    """Return ``log p / (1 - p)`` of answers with these log-probabilities, the same shape; at most about 13.8."""
    bounded = log_probability.clamp(max=CERTAIN)
    return bounded - torch.log(-torch.expm1(bounded))


class SuiteOutput:
    """The output function, the labels and the losses of the tasks of a multi-task model.

    Args:
        tasks: the model's tasks in order.

    | kind                | output                                                     | loss     |
    |---------------------|------------------------------------------------------------|----------|
    | `classification`    | margin of the right class                                  | logistic |
    | `regression`        | the prediction                                             | squared  |
    | `token`, `span`     | log-odds of the labels, from their mean log-probability    | logistic |
    | `text2text`, `lm`   | log-odds of all answer tokens together                     | logistic |
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.kinds = [task.kind for task in tasks]
        self.losses: dict[str, Loss] = {
            task.name: "squared" if task.kind == "regression" else "logistic" for task in tasks
        }

    def __call__(self, outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Tensor:
        """Return each example's output, ``[batch]``; the examples of a batch are of one task."""
        match self._kind(batch):
            case "classification":
                return class_margin(outputs["logits"], batch["labels"])
            case "regression":
                return outputs["logits"][:, 0]
            case "token" | "span":
                return log_odds(-outputs["example_loss"])
            case _:
                return log_odds(outputs["log_probability"])

    def labels(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return each example's class or regression target, ``[batch]``; `NO_CLASS` where there is neither."""
        if self._kind(batch) in ("classification", "regression"):
            return batch["labels"].float()
        return torch.full(batch["task"].shape, float(NO_CLASS))

    def _kind(self, batch: Mapping[str, Tensor]) -> str:
        return self.kinds[int(batch["task"][0])]


OutputFunction = Callable[[Any, Any], Tensor]
