"""How likely a model holds the answers that it generates: log p(answer | prompt), gathered while they are generated.

The logits of a step take ``[batch x beams, vocabulary]``; those of all steps, from which `transformers` would score the
answers afterwards, take half a gigabyte for 64 answers of 64 tokens and 32,000 words. Greedy and beam search choose
among the best tokens of each row, so that a few log-probabilities a row and step are enough.
"""

from types import TracebackType
from typing import Any, Self

import torch
from torch import LongTensor, Tensor, nn
from transformers import LogitsProcessor

__all__ = ["AnswerLikelihoods"]


class AnswerLikelihoods(LogitsProcessor):
    """Watches a model in one call of `generate`, as its last logits processor, and scores what came out.

    Example:
        >>> with AnswerLikelihoods(model, steps=64, beams=1, end_token=1) as likelihoods:            # doctest: +SKIP
        ...     found = model.generate(**prompts, logits_processor=[likelihoods], return_dict_in_generate=True)
        >>> likelihoods.of(found.sequences[:, 1:])                                                   # doctest: +SKIP

    Args:
        model: the model that generates, whose outputs have `logits`.
        steps: the most tokens of an answer.
        beams: of the search, which does not sample.
        end_token: ends an answer.
    """

    def __init__(self, model: nn.Module, steps: int, beams: int, end_token: int | None) -> None:
        self.model = model
        self.steps = steps
        self.end_token = end_token
        # A row gives no more tokens than this to the next beams: as many may end an answer as go on.
        self._candidates = 2 * beams
        self._logits: Tensor | None = None
        # [steps, batch x beams, candidates] from the first step on, at one place in memory: small pieces between the
        # logits of the steps would keep the allocator from using their room again.
        self._tokens: Tensor | None = None
        self._log_probabilities: Tensor | None = None
        self._step = 0

    def __enter__(self) -> Self:
        self._hook = self.model.register_forward_hook(self._observe)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hook.remove()
        self._logits = None

    def _observe(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        # Not those that the processors before this one have changed: they may forbid the end, but not make it unlikely.
        self._logits = outputs.logits[:, -1]

    def __call__(self, input_ids: LongTensor, scores: Tensor) -> Tensor:
        """Keep what the step may choose from; `scores` ``[batch x beams, vocabulary]`` are returned as they are."""
        assert self._logits is not None
        logits = self._logits.to(scores.device, torch.float32)  # a model may lie on several devices
        tokens = scores.topk(min(self._candidates, scores.shape[1])).indices
        if self._tokens is None or self._log_probabilities is None:
            self._tokens = tokens.new_empty(self.steps, *tokens.shape)
            self._log_probabilities = logits.new_empty(self.steps, *tokens.shape)
        self._tokens[self._step] = tokens
        self._log_probabilities[self._step] = logits.gather(1, tokens) - logits.logsumexp(dim=1, keepdim=True)
        self._step += 1
        return scores

    def of(self, answers: Tensor, beams: Tensor | None = None) -> Tensor:
        """Return the sum of the log-probabilities of each answer's tokens up to its first end token, ``[batch]``.

        Args:
            answers: ``[batch, answer tokens]``, what was generated, without the prompt.
            beams: ``[batch, steps]``, the row that each token was chosen from, -1 behind the end; None without beams.
        """
        assert self._tokens is not None
        assert self._log_probabilities is not None
        rows = torch.arange(len(answers), device=answers.device)
        total = torch.zeros(len(answers), device=answers.device)
        running = torch.ones_like(rows, dtype=torch.bool)
        for step, chosen in enumerate(answers.T):
            if beams is not None:
                rows = beams[:, step].clamp(min=0)
            # What is not among the best tokens is as good as the last of them.
            found = (self._tokens[step, rows] == chosen[:, None]).int()
            place = torch.where(found.any(dim=1), found.argmax(dim=1), found.shape[1] - 1)
            total += torch.where(running, self._log_probabilities[step, rows, place], 0.0)
            running &= chosen != (-1 if self.end_token is None else self.end_token)
        return total
