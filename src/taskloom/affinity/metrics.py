"""A task's performance from its outputs, for many models at once, with its sampling error by the delta method.

Every metric maps outputs ``[models, examples]`` and labels ``[examples]`` to values ``[models]`` and influences
``[models, examples]``: by how much, to first order, a value moves with the weight of an example. A mean's influences
are its terms minus the mean; the standard error of any metric is their standard deviation over ``sqrt(examples)``.
Where a metric is undefined it is 0, as in `taskloom.evaluation`.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from taskloom.affinity.source import Loss, TaskGradients
from taskloom.errors import did_you_mean

__all__ = ["AUTO", "LOWER_IS_BETTER", "METRICS", "Metric", "metric_for", "standard_error"]

Metric = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _mean(terms: Tensor) -> tuple[Tensor, Tensor]:
    mean = terms.mean(1)
    return mean, terms - mean[:, None]


def logistic_loss(outputs: Tensor, _labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of ``log(1 + exp(-margin))``."""
    return _mean(softplus(-outputs))


def squared_loss(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared error."""
    return _mean((outputs - labels) ** 2)


def accuracy(outputs: Tensor, _labels: Tensor) -> tuple[Tensor, Tensor]:
    """The share of examples with a positive margin: the right answer is more likely than all others together."""
    return _mean((outputs > 0).to(outputs.dtype))


def _signs(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return which examples are predicted to be of class 1, and which are."""
    positive = (labels == 1).to(outputs.dtype)
    right = (outputs > 0).to(outputs.dtype)
    return right * positive + (1 - right) * (1 - positive), positive


def f1(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """F1 of the class with index 1: twice the hits over the predicted and the present positives."""
    predicted, positive = _signs(outputs, labels)
    hits, named = predicted * positive, predicted + positive
    share = named.mean(1)
    safe = torch.where(share > 0, share, 1)
    value = 2 * hits.mean(1) / safe
    return value, (2 * hits - value[:, None] * named) / safe[:, None]


def mcc(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Matthews' correlation: Pearson's, of predicted with present positives."""
    predicted, positive = _signs(outputs, labels)
    return pearson(predicted, positive)


def pearson(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pearson's correlation of predictions with targets."""
    x, y = _standardised(outputs), _standardised(labels[None])
    value = (x * y).mean(1)
    return value, x * y - value[:, None] * (x**2 + y**2) / 2


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    spread = centred.pow(2).mean(1, keepdim=True).sqrt()
    constant = spread <= 1e-12 * rows.abs().amax(1, keepdim=True)
    return torch.where(constant, 0, centred / torch.where(constant, 1, spread))


METRICS: dict[str, dict[Loss, Metric]] = {
    "loss": {"logistic": logistic_loss, "squared": squared_loss},
    "accuracy": {"logistic": accuracy},
    "f1": {"logistic": f1},
    "mcc": {"logistic": mcc},
    "mse": {"squared": squared_loss},
    "pearson": {"squared": pearson},
}
"""The metrics by name, and for each the losses of the tasks that it suits."""

AUTO: dict[Loss, str] = {"logistic": "accuracy", "squared": "pearson"}
"""What `"auto"` stands for: both are 1 at best, so that tasks of either loss can be compared."""

LOWER_IS_BETTER = {"loss", "mse"}


def metric_for(name: str, task: str, rows: TaskGradients) -> Metric:
    """Return a metric for a task.

    Raises:
        ValueError: the metric is unknown or does not suit the task.
    """
    if name == "auto":
        name = AUTO[rows.loss]
    if name not in METRICS:
        raise ValueError(f"`metric` '{name}' is unknown.{did_you_mean(name, [*METRICS, 'auto'])}")
    if rows.loss not in METRICS[name]:
        suited = [other for other, losses in METRICS.items() if rows.loss in losses]
        raise ValueError(
            f"`metric` '{name}' does not suit task '{task}', whose loss is {rows.loss}; use one of {', '.join(suited)},"
            " or 'auto'"
        )
    if name in ("f1", "mcc") and not bool(((rows.labels == 0) | (rows.labels == 1)).all()):
        odd = rows.labels[(rows.labels != 0) & (rows.labels != 1)][0]
        raise ValueError(
            f"`metric` '{name}' needs the classes 0 and 1; task '{task}' has an example of class {int(odd)}."
            " Use 'loss' or 'accuracy'"
        )
    return METRICS[name][rows.loss]


def standard_error(influences: Tensor) -> Tensor:
    """Return the standard error of a metric from its influences, ``[models, examples]``; NaN with one example."""
    return influences.std(1) / influences.shape[1] ** 0.5
