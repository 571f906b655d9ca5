"""Diverse beam search: groups of beams that avoid each other's words (Vijayakumar et al. 2016, arXiv 1610.02424).

The beams of a prompt are divided into groups. At each step the groups choose in turn, each by beam search of its own,
and a token with which n beams of the groups before it go on at this very step loses `diversity` x n (the paper's
Hamming diversity, equation 6 and algorithm 1). As in the authors' code and formerly in `transformers`, the loss stays
in the score of the beam that took the token nonetheless, and with it in the order of the answers; as in the latter, to
end an answer costs nothing. `transformers` 5 offers this only as code from the hub; one group is its own beam search.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import LongTensor, Tensor, nn

__all__ = ["BeamAnswers", "diverse_beam_search"]


class BeamAnswers(NamedTuple):
    """The best answers of each prompt, the best first.

    `tokens` is ``[prompts, top_k, max_new_tokens]``, filled up with padding behind the end token. `scores` is
    ``[prompts, top_k]``: the sum of log-probabilities less the losses for repeating other groups, divided by the
    length to the power of the length penalty.
    """

    tokens: Tensor
    scores: Tensor


@torch.no_grad()
def diverse_beam_search(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    beams: int,
    groups: int = 1,
    diversity: float = 0.0,
    top_k: int = 1,
    max_new_tokens: int,
    end_tokens: Sequence[int] = (),
    padding: int = 0,
    length_penalty: float = 1.0,
    early_stopping: bool = True,
) -> BeamAnswers:
    """Search answers to prompts with a decoder-only language model.

    A prompt passes the model once, whatever the number of its beams, and leaves the batch as soon as its search is
    over. One beam is greedy search.

    Args:
        model: a causal language model of `transformers`, plain or wrapped by PEFT, in evaluation mode.
        input_ids: ``[prompts, tokens]``, padded on the left.
        attention_mask: ``[prompts, tokens]``, 0 on padding.
        beams: beams of a prompt, of all groups together.
        groups: groups of beams, of equal size.
        diversity: what a token loses for each beam of an earlier group that goes on with it at the same step.
        top_k: answers a prompt; at most `beams`. The same answer may come from several groups.
        max_new_tokens: longest answer, the end token included.
        end_tokens: tokens that end an answer.
        padding: fills up shorter answers.
        length_penalty: an answer's score is divided by its length to this power.
        early_stopping: a group ends as soon as it has as many complete answers as beams; if not, as soon as its best
            open beam, as it is, falls short of all of them (both as in `transformers`).

    Returns:
        The answers, without their prompts. A prompt's answers do not depend on the others in the batch.

    Raises:
        ValueError: sizes that do not fit together.
    """
    _check(input_ids, beams, groups, top_k, max_new_tokens)
    decoder = _Decoder(model, attention_mask)
    logits = decoder.read(input_ids)
    prompts, size, device = len(input_ids), beams // groups, input_ids.device
    ends = torch.tensor(list(end_tokens), dtype=torch.long, device=device)
    answers = torch.full((prompts, groups, size, max_new_tokens), padding, device=device)
    scores = torch.full((prompts, groups, size), -torch.inf, device=device)

    alive = torch.arange(prompts, device=device)  # prompts whose search goes on
    # A group's beams are the same at first: but for one they must not count, or the answers were all the same.
    group_start = torch.full((size,), -torch.inf, device=device).index_fill_(0, torch.tensor(0, device=device), 0.0)
    open_scores = group_start.expand(prompts, groups, size).clone()
    open_tokens = answers.clone()
    is_open = torch.ones(prompts, groups, dtype=torch.bool, device=device)
    for step in range(max_new_tokens):
        log_probabilities = logits.float().log_softmax(-1)
        vocabulary = log_probabilities.shape[-1]
        # The prompt's own prediction, at first, is that of all its beams.
        log_probabilities = log_probabilities.view(len(alive), -1, 1 if step == 0 else size, vocabulary)
        log_probabilities = log_probabilities.expand(-1, groups, size, -1)
        taken = torch.zeros(len(alive), vocabulary, device=device)
        parents = torch.empty_like(open_scores, dtype=torch.long)
        for group in range(groups):
            candidates = log_probabilities[:, group] + open_scores[:, group, :, None]
            if group > 0:
                candidates = candidates - diversity * taken[:, None]
            # So many that as many as there are beams go on, even if each beam ends in every way there is.
            best, places = candidates.flatten(1).topk(size * (1 + max(1, len(ends))))
            parent, token = places // vocabulary, places % vocabulary
            tokens = _rows(open_tokens[:, group], parent)
            tokens[:, :, step] = token
            ended = torch.isin(token, ends)

            complete = (ended | (step + 1 == max_new_tokens)) & is_open[:, group, None]
            complete[:, size:] = False  # only what beats all but `size` candidates is worth keeping
            value = (best / (step + 1) ** length_penalty).masked_fill(~complete, -torch.inf)
            value, kept = torch.cat([scores[alive, group], value], dim=1).topk(size)
            scores[alive, group] = value
            answers[alive, group] = _rows(torch.cat([answers[alive, group], tokens], dim=1), kept)

            going, kept = best.masked_fill(ended, -torch.inf).topk(size)
            open_scores[:, group] = going
            open_tokens[:, group] = _rows(tokens, kept)
            parents[:, group] = parent.gather(1, kept)
            # A group that has ended says nothing any more.
            said = is_open[:, group, None].expand(-1, size).to(taken.dtype)
            taken.scatter_add_(1, token.gather(1, kept), said)

        is_full = scores[alive].isfinite().all(-1)
        if not early_stopping:
            is_full &= open_scores[:, :, 0] / (step + 1) ** length_penalty <= scores[alive].amin(-1)
        is_open &= ~is_full
        rest = is_open.any(1).nonzero().flatten()
        if len(rest) == 0 or step + 1 == max_new_tokens:
            break
        # Where each beam's past is among the rows of the last pass.
        rows = rest[:, None, None].expand(-1, groups, size)
        if step > 0:
            own = torch.arange(groups, device=device)[:, None] * size + parents[rest]
            rows = rows * beams + own
        alive, is_open = alive[rest], is_open[rest]
        open_scores, open_tokens = open_scores[rest], open_tokens[rest]
        logits = decoder.go_on(open_tokens[..., step].reshape(-1), rows.reshape(-1))
    scores, order = scores.flatten(1).sort(dim=1, descending=True, stable=True)
    return BeamAnswers(_rows(answers.flatten(1, 2), order[:, :top_k]), scores[:, :top_k])


def _check(input_ids: Tensor, beams: int, groups: int, top_k: int, max_new_tokens: int) -> None:
    if input_ids.dim() != 2 or input_ids.shape[1] == 0:
        raise ValueError(f"`input_ids` must be [prompts, tokens] with at least one token, found {[*input_ids.shape]}")
    if groups < 1 or beams < 1 or beams % groups:
        raise ValueError(f"`groups` must divide `beams`, found {groups} groups of {beams} beams")
    if not 1 <= top_k <= beams:
        raise ValueError(f"`top_k` must be between 1 and `beams` ({beams}), found {top_k}")
    if max_new_tokens < 1:
        raise ValueError(f"`max_new_tokens` must be at least 1, found {max_new_tokens}")


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Return `values` ``[n, rows, tokens]`` at `index` ``[n, chosen]`` as ``[n, chosen, tokens]``."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


class _Decoder:
    """A causal language model with its cache of keys and values, one row a beam."""

    def __init__(self, model: nn.Module, attention_mask: Tensor) -> None:
        self.model = model
        self.mask = attention_mask
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self.takes = inspect.signature(base.forward).parameters.keys()
        self.cache: Any = None

    def read(self, input_ids: Tensor) -> Tensor:
        """Take in the prompts and return the logits of what follows them, ``[rows, vocabulary]``."""
        self.next_position = self.mask.sum(1, keepdim=True)
        return self._pass(input_ids, (self.mask.cumsum(1) - 1).clamp(min=0))

    def go_on(self, tokens: Tensor, rows: LongTensor | Tensor) -> Tensor:
        """Take in one token a row, each after the past of one of the former rows, and return the next logits."""
        self.cache.reorder_cache(rows)
        self.mask = torch.cat([self.mask[rows], self.mask.new_ones(len(rows), 1)], dim=1)
        positions = self.next_position[rows]
        self.next_position = positions + 1
        return self._pass(tokens[:, None], positions)

    def _pass(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"attention_mask": self.mask, "past_key_values": self.cache, "use_cache": True}
        if "position_ids" in self.takes:
            inputs["position_ids"] = positions
        if "logits_to_keep" in self.takes:  # a prompt's other predictions are not needed
            inputs["logits_to_keep"] = 1
        outputs = self.model(input_ids=input_ids, **inputs)
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1]
