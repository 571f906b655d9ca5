"""The output stage: what is predicted from the shared states, and the losses of it (AANG, section 3.2).

| output                                                              | predicted from  | what, and its loss           |
|---------------------------------------------------------------------|-----------------|------------------------------|
| `denoise`                                                           | a token's state | the token: cross-entropy     |
| `tf`, `cap`                                                         | a token's state | 4, 2 classes: cross-entropy  |
| `tfidf`                                                             | a token's state | a value: squared error (1)   |
| `adjacent-sentence`                                                 | a row's vector  | 3 classes: cross-entropy     |
| `sentence-order`, `sentence-continuity`, `next-sentence`            | a row's vector  | 2 classes: cross-entropy     |
| `fastsent` (Hill et al., arXiv 1602.03483)                          | a row's vector  | the neighbours' words (2)    |
| `quick-thoughts` (Logeswaran and Lee, arXiv 1803.02893)             | a row's vector  | which row is the neighbour   |
| a labelled task's name                                              | as `TaskHeads`  | as `TaskHeads`               |

(1) A position's loss above 50 is scaled to 50, and its gradient with it, as in the published code. (2) The mean
negative log-likelihood of the words of the sentences before and behind, drawn from one softmax over the vocabulary.

Each head is a dropout and a linear layer, as the tasks' own; the published ones have another layer with ReLU between.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.bodies import Body
from taskloom.auxiliary.pairs import PAIR_CLASSES
from taskloom.auxiliary.space import Objective
from taskloom.auxiliary.stages import TOKEN_OUTPUTS
from taskloom.auxiliary.targets import TOKEN_CLASSES
from taskloom.auxiliary.vocabulary import VocabularyHead
from taskloom.errors import RecipeError
from taskloom.heads import IGNORED, TaskHeads
from taskloom.tasks import Task

__all__ = ["VOCABULARY_OUTPUTS", "ObjectiveHeads"]

#: Outputs that a body's vocabulary head predicts.
VOCABULARY_OUTPUTS = ("denoise", "fastsent")

#: How many numbers are predicted: a logit a class, or a value.
_NUMBERS = {output: len(classes) for output, classes in (TOKEN_CLASSES | PAIR_CLASSES).items()} | {"tfidf": 1}
_LARGEST_SQUARE = 50.0


class ObjectiveHeads(nn.Module):
    """The heads of the objectives of a space.

    Args:
        objectives: the space.
        width: of the body's states.
        labelled: the labelled tasks that outputs name.
        vocabulary: an encoder's vocabulary head, the same that its body has: its parameters train and are saved here.
            A decoder's belongs to the decoder.
        share: one head an output for all objectives that have it; else one an objective. The vocabulary head is always
            shared.
        dropout: probability of dropping a feature before the linear layers.
        initializer_range: standard deviation of the initial weights.

    Raises:
        RecipeError: a labelled task's kind has no head.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        width: int,
        *,
        labelled: Sequence[Task] = (),
        vocabulary: VocabularyHead | None = None,
        share: bool = True,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
    ) -> None:
        super().__init__()
        self.share = share
        self.vocabulary = vocabulary
        self._tasks = {task.name: task for task in labelled}
        self._sizes = (width, dropout, initializer_range)
        self.heads = nn.ModuleDict()
        for objective in objectives:
            if (key := self._key(objective)) not in self.heads and objective.output not in VOCABULARY_OUTPUTS:
                self.heads[key] = self._head(objective.output)

    def _key(self, objective: Objective) -> str:
        # Modules' names have no dots, and none is called like a method.
        return "of:" + (objective.output if self.share else objective.name).replace(".", "%2E")

    def _head(self, output: str) -> nn.Module:
        width, dropout, std = self._sizes
        if output == "quick-thoughts":
            return _Neighbours(width, dropout, std)
        if output in self._tasks:
            task = self._tasks[output]
            if not task.needs_head:
                raise RecipeError(
                    f"auxiliary: '{output}' as an output is of kind '{task.kind}', which has no head. Use labelled "
                    "tasks of kind classification, regression, token or span, or leave it out of the outputs."
                )
            return TaskHeads([task], width, dropout, std)
        if output not in _NUMBERS:
            raise ValueError(f"`objectives`: the output '{output}' is neither known nor the name of a labelled task")
        return _Linear(width, _NUMBERS[output], dropout, std)

    def loss(
        self,
        objective: Objective,
        states: Tensor,
        pooled: Tensor,
        batch: RowBatch,
        counted: Tensor,
        predictor: Tensor,
        body: Body,
    ) -> tuple[Tensor, Tensor]:
        """Return the mean loss, a scalar in float32, over what counts, and how much does; 0 and 0 if nothing does.

        Args:
            objective: one of the space.
            states: ``[rows, tokens, width]``, the body's states of the view.
            pooled: ``[rows, width]``, its vectors.
            batch: the rows, before any transform.
            counted: ``[rows, tokens]``, whose tokens `denoise` predicts (`Transforms.apply`).
            predictor: ``[rows, tokens]``, which state predicts a token (`visibility`).
            body: gives the logits over the vocabulary, of what counts alone.
        """
        output = objective.output
        count = self.count(objective, batch, counted, predictor)
        if output in TOKEN_OUTPUTS:
            row, token = self._positions(output, batch, counted, predictor).nonzero(as_tuple=True)
            chosen = states[row, predictor[row, token]]
            targets = (batch.input_ids if output == "denoise" else batch.targets[output])[row, token]
            outputs = body.vocabulary(chosen) if output == "denoise" else self.heads[self._key(objective)](chosen)
            total = _squares(outputs, targets) if output == "tfidf" else _cross_entropy(outputs, targets)
        elif output in PAIR_CLASSES:
            total = _cross_entropy(self.heads[self._key(objective)](pooled), batch.targets[output])
        elif output == "fastsent":
            total = _words(pooled, batch.targets[output], body)
        elif output == "quick-thoughts":
            total = self.heads[self._key(objective)](pooled)
        else:
            total = self._supervised(objective, states, pooled, batch)
        return total / count.clamp(min=1), count

    def count(self, objective: Objective, batch: RowBatch, counted: Tensor, predictor: Tensor) -> Tensor:
        """Return over how many tokens, words or rows `loss` is a mean, an int tensor; arguments as there."""
        output = objective.output
        if output in TOKEN_OUTPUTS:
            return self._positions(output, batch, counted, predictor).sum()
        if output in PAIR_CLASSES or output == "fastsent":
            return (batch.targets[output] != IGNORED).sum()
        rows = len(batch) - len(batch) % 2 if output == "quick-thoughts" else len(batch)
        return torch.tensor(rows, device=batch.input_ids.device)

    def _positions(self, output: str, batch: RowBatch, counted: Tensor, predictor: Tensor) -> Tensor:
        """Return which tokens are predicted, ``[rows, tokens]``: those of `counted`, or of other outputs all words."""
        wanted = counted if output == "denoise" else ~batch.special
        if output in ("tf", "cap"):
            wanted = wanted & (batch.targets[output] != IGNORED)
        return wanted & (predictor >= 0)

    def _supervised(self, objective: Objective, states: Tensor, pooled: Tensor, batch: RowBatch) -> Tensor:
        heads = self.heads[self._key(objective)]
        assert isinstance(heads, TaskHeads)
        targets = batch.targets[objective.output]
        only = torch.zeros_like(batch.task)  # an output's heads are of one task
        return heads.example_loss(
            heads(pooled, states, only),
            only,
            targets["labels"],
            batch.attention_mask,
            targets.get("token_labels"),
            targets.get("span_labels"),
        ).sum()


class _Linear(nn.Module):
    """Dropout and a linear layer."""

    def __init__(self, width: int, outputs: int, dropout: float, std: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)
        nn.init.normal_(self.linear.weight, std=std)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features).to(self.linear.weight.dtype)).float()


class _Neighbours(nn.Module):
    """Quick-thoughts: rows 2i and 2i + 1 are neighbours, and each has to find the other among the batch's.

    With the two projections f and g, the probability that b is the neighbour of a is the softmax of f(a)ᵀg(b) over the
    candidates b.
    """

    def __init__(self, width: int, dropout: float, std: float) -> None:
        super().__init__()
        self.row = _Linear(width, width, dropout, std)
        self.candidate = _Linear(width, width, dropout, std)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the summed loss of rows ``[rows, width]``; a last one without neighbour is left out."""
        pairs = len(pooled) // 2
        rows, candidates = (part(pooled[: 2 * pairs]).unflatten(0, (pairs, 2)) for part in (self.row, self.candidate))
        own = torch.arange(pairs, device=pooled.device)
        with torch.autocast(pooled.device.type, enabled=False):
            forth = rows[:, 0] @ candidates[:, 1].T
            back = rows[:, 1] @ candidates[:, 0].T
        return _cross_entropy(forth, own) + _cross_entropy(back, own)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")


def _squares(values: Tensor, targets: Tensor) -> Tensor:
    square = (values.squeeze(-1) - targets.float()).square()
    return (square * (_LARGEST_SQUARE / square.detach().clamp(min=_LARGEST_SQUARE))).sum()


def _words(pooled: Tensor, words: Tensor, body: Body) -> Tensor:
    """Return the summed loss of the neighbours' words, ``[rows, words]``."""
    row = (words != IGNORED).any(dim=1).nonzero().squeeze(1)
    words = words[row]
    log_probabilities = F.log_softmax(body.vocabulary(pooled[row]).float(), dim=-1)
    found = log_probabilities.gather(1, words.clamp(min=0))
    return -found.masked_fill(words == IGNORED, 0).sum()
