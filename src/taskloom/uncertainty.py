"""MT-uncertainty: train on the candidates that the model is least sure about.

Each step draws a pool with candidates of every task, scores it with one forward pass without gradients, and trains on
the best-scored `batch_size` of them. With H(x) the entropy of the prediction for x, H'_t the largest entropy that task
t can have (uniform prediction) and h(x) = H(x) / H'_t, the score of a candidate x of task t is

    u(x) = h(x) * mean_t / max_s mean_s,        mean_t = mean of h over the pool's candidates of task t.

Source: CA-MTL, arXiv 2009.09139, section 2.4 and algorithm 1, as its published code computes it.

**A floor for every task.** The published rule never asks again for a task about which the model is confident, rightly
or wrongly: on GLUE it starves whole tasks (see studies/glue.md). `Uncertainty(even_share=...)` splits that share of
each batch evenly among the tasks, the most uncertain candidates of each; the rest goes by score. 0 is the published
rule.

**Regression** has no class entropy. A head trained with squared error is the mean of a Gaussian with the residual
variance as its maximum-likelihood variance. taskloom discretises that predictive distribution, N(prediction, variance),
cut to the range of the training targets, into `REGRESSION_BINS` equal bins and takes its entropy over the logarithm of
the number of bins. The variance starts at the targets' own (as if the head knew only their mean) and follows the
residuals of the training batches as a moving average. So a regression task competes with classification on one scale,
[0, 1], and is asked for less as its error falls. **Token** tasks take the mean over their labelled tokens, **span**
tasks the mean of the entropies of start and end over the real tokens.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.heads import IGNORED, TaskHeads, mask_padding
from taskloom.processes import rank, sum_over, world_size
from taskloom.tasks import Task

__all__ = ["UncertaintyScorer", "pick", "take", "uncertainty_scores"]

#: Bins of the discretised predictive distribution of a regression head: fine enough for the usual rating scales.
REGRESSION_BINS = 10

#: Weight of the newest batch in the moving average of a regression task's squared residuals.
RESIDUAL_RATE = 0.05


def uncertainty_scores(entropy: Tensor, task: Tensor, num_tasks: int) -> Tensor:
    """Weigh each candidate's normalised entropy by its task's mean over the largest task mean of the pool.

    Args:
        entropy: ``[pool]``, entropies normalised to [0, 1].
        task: ``[pool]``, the task id of each candidate.
        num_tasks: number of tasks of the suite.

    Returns:
        ``[pool]`` scores.
    """
    zeros = torch.zeros(num_tasks, dtype=entropy.dtype, device=entropy.device)
    counts = zeros.index_add(0, task, torch.ones_like(entropy))
    means = zeros.index_add(0, task, entropy) / counts.clamp(min=1)
    return entropy * means[task] / means.max().clamp(min=torch.finfo(entropy.dtype).tiny)


def pick(scores: Tensor, batch_size: int, task: Tensor | None = None, each: int = 0) -> Tensor:
    """Return the positions of the `batch_size` highest scores, the earlier candidate first among equals.

    With `task`, ``[pool]``, the `each` best candidates of every task come before all others.
    """
    ranked = torch.argsort(scores, descending=True, stable=True)
    if task is None or each == 0:
        return ranked[:batch_size]
    by_task = ranked[torch.argsort(task[ranked], stable=True)]  # task after task, each from its best on
    sorted_task = task[by_task]
    first = torch.searchsorted(sorted_task, sorted_task)  # where the candidate's task begins
    places = torch.empty_like(by_task)
    places[by_task] = torch.arange(len(by_task), device=by_task.device) - first
    guaranteed = (places < each)[ranked]
    return ranked[torch.argsort(guaranteed.int(), descending=True, stable=True)][:batch_size]


#: Inputs with one column a token.
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "token_labels")


class UncertaintyScorer:
    """Turns the model's outputs for a pool into normalised entropies, for every kind of task.

    Args:
        tasks: the suite's tasks in order.
        targets: training targets of each regression task by task id; they set its range and initial variance.
        device: where the model's outputs live.
    """

    def __init__(self, tasks: Sequence[Task], targets: dict[int, Sequence[float]], device: torch.device | str) -> None:
        low, high, variance = torch.zeros(len(tasks)), torch.ones(len(tasks)), torch.ones(len(tasks))
        for position, values in targets.items():
            numbers = torch.tensor(values, dtype=torch.float64)
            low[position], high[position] = numbers.min(), numbers.max()
            variance[position] = numbers.var(correction=0)
        self.low, self.high = low.to(device), high.to(device)
        self.variance = variance.to(device)
        self.max_entropy = torch.tensor([_max_entropy(task) for task in tasks], device=device)

    @torch.no_grad()
    def select(
        self, model: nn.Module, pool: dict[str, Tensor], batch_size: int, chunk_size: int, each: int = 0
    ) -> dict[str, Tensor]:
        """Return the batch of the pool's most uncertain candidates.

        The pool is scored without dropout, in chunks and in order of length, so that short candidates are not padded
        to the longest of the pool. Several processes share the chunks and then choose from the same scores.

        Args:
            model: the model in training mode, to which it returns; a `MultiTaskModel`, perhaps wrapped for
                distributed training.
            pool: a collated batch of candidates.
            batch_size: number of candidates to take.
            chunk_size: candidates a forward pass.
            each: candidates that every task has in the batch at least.
        """
        heads: Any = getattr(model, "module", model).heads
        order = torch.argsort(pool["attention_mask"].sum(dim=1), stable=True)
        entropy = torch.zeros(len(order), device=order.device)
        chunks = order.split(chunk_size)
        model.eval()
        for first in range(0, len(chunks), world_size()):
            number = first + rank()
            # A process without a chunk repeats the last: a model whose parameters are sharded needs all of them.
            chunk = chunks[min(number, len(chunks) - 1)]
            batch = take(pool, chunk)
            outputs = model(**{name: value for name, value in batch.items() if not name.endswith("labels")})
            found = self.entropy(heads, outputs, batch)
            if number < len(chunks):
                entropy[chunk] = found
        model.train()
        scores = uncertainty_scores(sum_over(entropy), pool["task"], len(self.max_entropy))
        return take(pool, pick(scores, batch_size, pool["task"], each))

    @torch.no_grad()
    def entropy(self, heads: TaskHeads, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Return the normalised entropy of each candidate's prediction, ``[pool]``."""
        task = batch["task"]
        entropy = torch.zeros(task.shape, dtype=torch.float32, device=task.device)
        if "logits" in outputs:
            classes = _entropy(outputs["logits"]) / self.max_entropy[task]
            values = self._regression_entropy(outputs["logits"][:, 0], task)
            entropy = torch.where(heads.is_classification[task], classes, entropy)
            entropy = torch.where(heads.is_regression[task], values, entropy)
        if "token_labels" in batch:
            labelled = batch["token_labels"] != IGNORED
            per_token = (_entropy(outputs["token_logits"]) * labelled).sum(dim=1) / labelled.sum(dim=1).clamp(min=1)
            entropy = torch.where(heads.is_token[task], per_token / self.max_entropy[task], entropy)
        if "span_labels" in batch:
            ends = mask_padding(outputs["token_logits"][..., :2], batch["attention_mask"])
            tokens = batch["attention_mask"].sum(dim=1).clamp(min=2)
            per_end = _entropy(ends.transpose(1, 2)).mean(dim=1) / tokens.log()
            entropy = torch.where(heads.is_span[task], per_end, entropy)
        return entropy

    def _regression_entropy(self, prediction: Tensor, task: Tensor) -> Tensor:
        low, high = self.low[task].unsqueeze(1), self.high[task].unsqueeze(1)
        steps = torch.linspace(0, 1, REGRESSION_BINS + 1, device=prediction.device)
        edges = low + (high - low) * steps  # [pool, bins + 1]
        deviation = self.variance[task].sqrt().clamp(min=1e-6).unsqueeze(1)
        mean = prediction.unsqueeze(1).clamp(low, high)
        cumulative = torch.special.ndtr((edges - mean) / deviation)
        inside = cumulative.diff(dim=1)
        probability = inside / inside.sum(dim=1, keepdim=True)
        return torch.special.entr(probability).sum(dim=1) / math.log(REGRESSION_BINS)

    @torch.no_grad()
    def observe(self, loss_sums: Tensor, counts: Tensor) -> None:
        """Follow the squared residuals of a training batch: summed losses and examples of each task, ``[tasks]``."""
        batch = loss_sums / counts.clamp(min=1)
        moved = self.variance + RESIDUAL_RATE * (batch - self.variance)
        self.variance = torch.where(counts > 0, moved, self.variance)

    def state_dict(self) -> dict[str, Tensor]:
        return {"variance": self.variance.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.variance = state["variance"].to(self.variance.device)


def take(pool: dict[str, Tensor], chosen: Tensor) -> dict[str, Tensor]:
    """Take examples out of a batch, without the padding that none of them needs."""
    width = int(pool["attention_mask"][chosen].sum(dim=1).max())
    return {name: value[chosen, :width] if name in TOKEN_INPUTS else value[chosen] for name, value in pool.items()}


def _entropy(logits: Tensor) -> Tensor:
    """Entropy in nats over the last dimension."""
    return torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)


def _max_entropy(task: Task) -> float:
    return math.log(max(task.num_outputs, 2))
