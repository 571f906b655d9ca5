"""Training SIGN on any subset of the tasks, and scoring it task by task.

The loss is the published one: binary cross-entropy, averaged over all (node, task) pairs that are training examples.
The defaults are the published settings of the graph experiments.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from taskloom.evaluation.metrics import METRICS
from taskloom.graphs.examples import NodeTasks
from taskloom.graphs.sign import SIGN

__all__ = ["SIGNSettings", "score_sign", "train_sign"]


@dataclass(frozen=True)
class SIGNSettings:
    """How a SIGN model is built and trained.

    Attributes:
        hidden, layers, dropout, input_dropout: see `SIGN`.
        lr: of Adam.
        batch_size: nodes a step.
        epochs: passes over the nodes that are an example of at least one task.
    """

    hidden: int = 256
    layers: int = 2
    dropout: float = 0.1
    input_dropout: float = 0.3
    lr: float = 0.01
    batch_size: int = 1000
    epochs: int = 100


def train_sign(
    data: NodeTasks,
    tasks: Sequence[str],
    settings: SIGNSettings | None = None,
    *,
    seed: int = 0,
    start: SIGN | None = None,
) -> SIGN:
    """Train one model on `tasks`.

    The same seed gives the same model. The global random state is left as it was.

    Args:
        data: the tasks; those not in `tasks` are not looked at.
        tasks: what to train on.
        settings: how.
        seed: of the first weights, the order of the nodes and dropout.
        start: a model of all of `data`'s tasks to go on from, left as it is; None trains from scratch.

    Returns:
        The model in evaluation mode. From scratch, its logits follow the order of `tasks`; with a `start`, the order
        of `data.names`, like those of `start`.
    """
    settings = settings or SIGNSettings()
    columns = data.columns(tasks)
    mask = data.masks["train"][:, columns]
    nodes = mask.any(dim=1).nonzero().flatten()
    x, labels, mask = data.inputs[nodes], data.labels[nodes][:, columns].float(), mask[nodes].float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _fresh(x, len(columns), settings) if start is None else deepcopy(start)
        trained = slice(None) if start is None else columns
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
        model.train()
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(nodes)).split(settings.batch_size):
                losses = F.binary_cross_entropy_with_logits(model(x[rows])[:, trained], labels[rows], reduction="none")
                loss = (losses * mask[rows]).sum() / mask[rows].sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def _fresh(x: Tensor, tasks: int, settings: SIGNSettings) -> SIGN:
    return SIGN(
        x.shape[-1],
        tasks,
        hops=x.shape[1] - 1,
        hidden=settings.hidden,
        layers=settings.layers,
        dropout=settings.dropout,
        input_dropout=settings.input_dropout,
    )


@torch.no_grad()
def score_sign(
    model: SIGN, data: NodeTasks, tasks: Sequence[str], part: str = "validation"
) -> dict[str, dict[str, float]]:
    """F1 of the members and mean loss (nats) of each of `tasks`, the tasks in the order of the model's logits."""
    logits = _logits(model, data.inputs)
    scores = {}
    for logit, task, column in zip(logits.T, tasks, data.columns(tasks), strict=True):
        mask = data.masks[part][:, column]
        found, truth = logit[mask], data.labels[mask, column]
        scores[task] = {
            "f1": METRICS["classification"]["f1"]((found > 0).long().numpy(), truth.long().numpy()),
            "loss": float(F.binary_cross_entropy_with_logits(found, truth.float())),
        }
    return scores


def _logits(model: SIGN, inputs: Tensor, batch_size: int = 10_000) -> Tensor:
    model.eval()
    return torch.cat([model(rows) for rows in inputs.split(batch_size)])
