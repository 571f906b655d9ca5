"""One output head per task, for batches that mix tasks.

All heads of one level (sequence or token) are the rows of a single linear layer. A mixed batch costs one matrix
product; each example then picks the outputs of its own task through an index table. There is no loop over tasks and
no device synchronisation, however many tasks there are.

| kind             | outputs                   | loss of one example                                   |
|------------------|---------------------------|-------------------------------------------------------|
| `classification` | a logit per label         | cross-entropy                                         |
| `regression`     | one value                 | squared error                                         |
| `token`          | a logit per label, token  | mean cross-entropy over the labelled tokens           |
| `span`           | start, end logit a token  | mean of the cross-entropies of start and end position |

The published CA-MTL decoder is the first row: dropout 0.1 and a linear layer on the pooled output.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taskloom.tasks import Task

__all__ = ["TaskHeads", "mask_padding", "mean_over_tasks"]

SEQUENCE_KINDS = ("classification", "regression")
TOKEN_KINDS = ("token", "span")
IGNORED = -100


class TaskHeads(nn.Module):
    """The heads of all tasks of a suite.

    Args:
        tasks: the suite's tasks in order; the position of a task is its id.
        hidden_size: width of the encoder.
        dropout: probability of dropping a feature before the linear layer.
        initializer_range: standard deviation of the initial weights.

    Raises:
        ValueError: a task's kind needs no head (``text2text``, ``lm``).
    """

    is_classification: Tensor
    is_regression: Tensor
    is_token: Tensor
    is_span: Tensor

    def __init__(
        self, tasks: Sequence[Task], hidden_size: int, dropout: float = 0.1, initializer_range: float = 0.02
    ) -> None:
        super().__init__()
        for task in tasks:
            if task.kind not in SEQUENCE_KINDS + TOKEN_KINDS:
                raise ValueError(f"`tasks`: '{task.name}' is of kind '{task.kind}', which has no head on an encoder")
        self.dropout = nn.Dropout(dropout)
        self.sequence = _StackedLinear(tasks, SEQUENCE_KINDS, hidden_size, initializer_range)
        self.token = _StackedLinear(tasks, TOKEN_KINDS, hidden_size, initializer_range)
        kinds = {kind: torch.tensor([task.kind == kind for task in tasks]) for kind in SEQUENCE_KINDS + TOKEN_KINDS}
        for kind, flags in kinds.items():
            self.register_buffer(f"is_{kind}", flags, persistent=False)
        self.num_tasks = len(tasks)

    def forward(self, pooled: Tensor, hidden: Tensor, task: Tensor) -> dict[str, Tensor]:
        """Compute each example's own outputs.

        Args:
            pooled: ``[batch, hidden]``, one vector an example.
            hidden: ``[batch, tokens, hidden]``, one vector a token.
            task: ``[batch]``, the task id of each example.

        Returns:
            ``logits`` ``[batch, outputs]`` if a task of the suite is of sequence level and ``token_logits``
            ``[batch, tokens, outputs]`` if one is of token level, in float32 at least. Outputs that the example's task
            does not have hold the lowest finite value, so that a softmax gives them zero.
        """
        outputs = {}
        if self.sequence.num_outputs:
            outputs["logits"] = self.sequence(self.dropout(pooled), task)
        if self.token.num_outputs:
            outputs["token_logits"] = self.token(self.dropout(hidden), task)
        return outputs

    def example_loss(
        self,
        outputs: dict[str, Tensor],
        task: Tensor,
        labels: Tensor,
        attention_mask: Tensor,
        token_labels: Tensor | None = None,
        span_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of each example, ``[batch]``, by the kind of its task (see the table above).

        Args:
            outputs: what `forward` returned.
            task: ``[batch]``, the task id of each example.
            labels: ``[batch]``, class index or regression target; ignored for token-level tasks.
            attention_mask: ``[batch, tokens]``, 0 on padding, which no answer span may claim.
            token_labels: ``[batch, tokens]``, label index a token, -100 where there is none.
            span_labels: ``[batch, 2]``, first and last token of the answer, -100 where there is none.
        """
        loss = torch.zeros(task.shape, dtype=torch.float32, device=task.device)
        if "logits" in outputs:
            logits = outputs["logits"]
            index = labels.long().clamp(0, logits.shape[-1] - 1)
            classification = F.cross_entropy(logits, index, reduction="none")
            regression = (logits[:, 0] - labels.float()).square()
            loss = torch.where(self.is_classification[task], classification, loss)
            loss = torch.where(self.is_regression[task], regression, loss)
        if "token_logits" in outputs and token_labels is not None:
            per_token = F.cross_entropy(
                outputs["token_logits"].transpose(1, 2), token_labels, ignore_index=IGNORED, reduction="none"
            )
            labelled = (token_labels != IGNORED).sum(dim=1).clamp(min=1)
            loss = torch.where(self.is_token[task], per_token.sum(dim=1) / labelled, loss)
        if "token_logits" in outputs and span_labels is not None:
            ends = mask_padding(outputs["token_logits"][..., :2], attention_mask)  # [batch, tokens, (start, end)]
            per_end = F.cross_entropy(ends, span_labels, ignore_index=IGNORED, reduction="none")
            loss = torch.where(self.is_span[task], per_end.mean(dim=1), loss)
        return loss


class _StackedLinear(nn.Module):
    """The heads of the tasks of some kinds as the rows of one linear layer, with each task's row numbers."""

    rows: Tensor
    owned: Tensor

    def __init__(
        self, tasks: Sequence[Task], kinds: tuple[str, ...], hidden_size: int, initializer_range: float
    ) -> None:
        super().__init__()
        widths = [task.num_outputs if task.kind in kinds else 0 for task in tasks]
        self.num_outputs = sum(widths)
        rows = torch.zeros(len(tasks), max(widths), dtype=torch.long)
        owned = torch.zeros(len(tasks), max(widths), dtype=torch.bool)
        start = 0
        for position, width in enumerate(widths):
            rows[position, :width] = torch.arange(start, start + width)
            owned[position, :width] = True
            start += width
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("owned", owned, persistent=False)
        if self.num_outputs:
            self.linear = nn.Linear(hidden_size, self.num_outputs)
            nn.init.normal_(self.linear.weight, std=initializer_range)
            nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor, task: Tensor) -> Tensor:
        # The heads stay in float32 when the encoder is stored in less; a head that is fitted in float64 stays there.
        every = self.linear(features.to(self.linear.weight.dtype))  # [batch, (tokens,) all outputs]
        every = every.to(torch.promote_types(every.dtype, torch.float32))
        rows, owned = self.rows[task], self.owned[task]  # [batch, outputs]
        if features.dim() == 3:
            rows = rows.unsqueeze(1).expand(-1, features.shape[1], -1)
            owned = owned.unsqueeze(1)
        return every.gather(-1, rows).masked_fill(~owned, torch.finfo(torch.float32).min)


def mask_padding(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """Give padding the lowest finite logit, ``[batch, tokens, outputs]``, so that a softmax over tokens ignores it."""
    return logits.masked_fill(attention_mask.unsqueeze(-1) == 0, torch.finfo(logits.dtype).min)


def mean_over_tasks(loss: Tensor, task: Tensor, num_tasks: int) -> tuple[Tensor, Tensor, Tensor]:
    """Average a batch's losses task by task, then over the tasks present (CA-MTL's training loss).

    Args:
        loss: ``[batch]``, the loss of each example.
        task: ``[batch]``, the task id of each example.
        num_tasks: number of tasks of the suite.

    Returns:
        The scalar mean over the tasks present, each task's summed loss and each task's number of examples, both
        ``[num_tasks]``.
    """
    zeros = torch.zeros(num_tasks, dtype=loss.dtype, device=loss.device)
    sums = zeros.index_add(0, task, loss)
    counts = zeros.index_add(0, task, torch.ones_like(loss))
    means = sums / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum(), sums, counts
