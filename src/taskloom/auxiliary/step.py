"""The auxiliary part of one optimizer step: paper section 4, Algorithm 1.

Objectives are sampled, their rows drawn, corrupted and masked; each view is run once; the step's gradient gets
w_aux times the objectives' weighted mean. While weights learn, each objective is differentiated by itself and its
gradient compared with that of the held-out loss; otherwise the weighted losses of a view are one loss and nothing more
is done.

Views follow one another, so that memory holds one view's graph, the held-out gradient, the sum, and one objective's
gradient, however many objectives there are. A view's rows run in chunks if a device holds fewer (then one gradient is
held for each of its objectives); losses are means over all that counts in the view, so chunks give the gradient of the
whole.

Several processes draw the same step and each run some rows of every view. Each objective's gradient is added up over
them before it is clipped and compared, so that clipping, cosines and weights are those of one process.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from taskloom.auxiliary.agreement import Gradient, HeldOut, accumulate, add, kept, over_processes, total
from taskloom.auxiliary.bodies import Body
from taskloom.auxiliary.drawn import Drawn
from taskloom.auxiliary.heads import ObjectiveHeads
from taskloom.auxiliary.plan import Share, plan_step
from taskloom.auxiliary.space import Objective
from taskloom.auxiliary.transforms import Transforms
from taskloom.auxiliary.views import visibility
from taskloom.auxiliary.weights import ObjectiveWeights
from taskloom.generative import GenerativeModel
from taskloom.gradients.cut import Cut, top_layer
from taskloom.model import MultiTaskModel
from taskloom.processes import sum_over, world_size

__all__ = ["AuxiliaryStep", "StepResult", "compared_layer"]


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step's auxiliary part did.

    Attributes:
        sampled: the objectives of the step, as positions in the space.
        losses: ``[sampled]``, mean losses.
        cosines: ``[sampled]``, agreement with the held-out gradient, NaN of an objective that was left out; None if
            the weights do not learn.
        loss: what was added to the step's loss, a scalar.
    """

    sampled: list[int]
    losses: Tensor
    cosines: Tensor | None
    loss: Tensor


class AuxiliaryStep:
    """Adds the auxiliary objectives' gradients to `.grad`, and teaches their weights.

    Args:
        network: the model of the tasks; its trainable parameters but the tasks' heads are the body, theta.
        body: the same network below any head.
        heads: the objectives' heads.
        weights: the objectives' weights.
        sources: the data stage: for each of its values, what draws rows.
        transforms: the transform stage.
        rows: rows of all objectives together.
        objectives_per_step: objectives sampled.
        split: how rows are split among views, see `plan_step`.
        density: see `visibility`.
        order_probability: share of tokens that is predicted where the representation is ordered; None: as elsewhere.
        noise: standard deviation of noisy embeddings, in root mean squares of the embedding table.
        max_grad_norm: while weights learn, an objective's gradient, where it is compared, is clipped to this norm; 0
            never clips.
        cosine_layers: compare gradients of as many top layers and what follows them, less what is used below as well
            (a task's embedding); None compares all of the body.
        chunk: most rows of a forward pass.
        autocast: the context of forward passes.
        scaler: scales losses in float16, None elsewhere.
    """

    def __init__(
        self,
        network: MultiTaskModel | GenerativeModel,
        body: Body,
        heads: ObjectiveHeads,
        weights: ObjectiveWeights,
        sources: Mapping[str, Any],
        transforms: Transforms,
        *,
        rows: int = 64,
        objectives_per_step: int = 3,
        split: Literal["weights", "even"] = "weights",
        density: float = 0.6,
        order_probability: float | None = None,
        noise: float = 1.0,
        max_grad_norm: float = 10.0,
        cosine_layers: int | None = None,
        chunk: int | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        scaler: Any = None,
    ) -> None:
        own = {id(parameter) for parameter in (*network.head_parameters(), *heads.parameters())}
        self.parameters = [p for p in network.parameters() if p.requires_grad and id(p) not in own]
        if not self.parameters:
            raise ValueError("`network`: nothing below its heads trains, and objectives teach nothing else")
        self.network = network
        self.body = body
        self.heads = heads
        self.weights = weights
        self.sources = sources
        self.transforms = transforms
        self.rows = rows
        self.objectives_per_step = objectives_per_step
        self.split: Literal["weights", "even"] = split
        self.density = density
        self.order_probability = order_probability
        self.noise = noise
        self.max_grad_norm = max_grad_norm
        self.chunk = chunk
        self.autocast = autocast
        self.scaler = scaler
        self._layer = None if cosine_layers is None else compared_layer(network, cosine_layers)

    def __call__(self, seed: tuple[int, ...], dev_loss: Callable[[], Tensor] | None) -> StepResult:
        """Do the auxiliary part of a step, after the tasks' own gradients are in `.grad`.

        Args:
            seed: of everything drawn in this step, the same in every process.
            dev_loss: this process' part of the held-out loss as a function of the network; None where the weights do
                not learn.
        """
        numbers = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(int(numbers.integers(2**63)))
        sampled = self.weights.sample(self.objectives_per_step, numbers)
        objectives = [self.weights.space[index] for index in sampled]
        among = self.weights.among(sampled)
        shares = plan_step(objectives, among.tolist(), self.rows, self.split)
        drawn = [self._draw(share, objectives, numbers, generator) for share in shares]
        if dev_loss is None:
            return self._static(sampled, among, drawn)
        return self._learning(sampled, among, drawn, dev_loss)

    # What a view learns from

    def _draw(
        self, share: Share, objectives: Sequence[Objective], numbers: np.random.Generator, generator: torch.Generator
    ) -> Drawn:
        view, device = share.view, self.parameters[0].device
        batch = self.sources[view.data].draw(view.rows, share.rows, numbers)
        ordered = view.representation != "bidirectional"
        corrupted = self.transforms.apply(
            batch,
            view.transform,
            self.weights.transform_logit(view.transform),
            generator,
            probability=self.order_probability if ordered else None,
        )
        pooled = self.body.pooled_position(batch.attention_mask)
        seen = visibility(view.representation, batch.attention_mask, generator, pooled=pooled, density=self.density)
        members = [objectives[position] for position in share.members]
        noise = self._noise(corrupted.noised, int(numbers.integers(2**63)))
        whole = Drawn(
            members=share.members,
            objectives=members,
            counts=[self.heads.count(each, batch, corrupted.counted, seen.predictor) for each in members],
            part=1.0,
            batch=batch,
            input_ids=corrupted.input_ids,
            mask=seen.attention(batch.attention_mask, self.body.dtype),
            noise=noise,
            counted=corrupted.counted,
            predictor=seen.predictor,
        )
        return whole.of_process().to(device)

    def _noise(self, noised: Tensor | None, seed: int) -> Tensor | None:
        """Draw the noise of all rows together: it must not depend on how they are divided later."""
        if noised is None:
            return None
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn((*noised.shape, self.body.embedding.embedding_dim), generator=generator)
        return drawn * self.noise * noised.unsqueeze(-1)

    def _losses(self, drawn: Drawn, rows: slice) -> list[tuple[Tensor, Tensor]]:
        """Run some of a view's rows; return each member's mean loss, and how much of the mean over all rows that is."""
        part = drawn.rows(rows)
        with self.autocast():
            states = self.body.hidden(
                part.input_ids,
                part.mask,
                part.batch.task,
                part.batch.token_type_ids,
                noise=part.noise,
            )
            pooled = self.body.pool(states, part.batch.attention_mask)
            found = []
            for objective, whole in zip(part.objectives, part.counts, strict=True):
                loss, count = self.heads.loss(
                    objective, states, pooled, part.batch, part.counted, part.predictor, self.body
                )
                found.append((loss, count / whole.clamp(min=1) * part.part))
        return found

    def _chunks(self, drawn: Drawn) -> list[slice]:
        """Split a view's rows; in-batch contrasts and a cut graph need all of them at once."""
        whole = self._layer is not None or drawn.contrasts
        size = len(drawn.batch) if whole or self.chunk is None else self.chunk
        starts = [*range(0, len(drawn.batch), size), len(drawn.batch)]
        return [slice(first, last) for first, last in pairwise(starts)]

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    # Static weights: plain multi-task training

    def _static(self, sampled: list[int], among: Tensor, drawn: list[Drawn]) -> StepResult:
        _, balance = self.weights.balance()
        losses = torch.zeros(len(sampled), device=self.parameters[0].device)
        trained = [*self.parameters, *self._head_parameters()]
        gradient: Gradient = [None] * len(trained)
        for view in drawn:
            for rows in self._chunks(view):
                weighted = torch.zeros((), device=losses.device)
                for position, (loss, share) in zip(view.members, self._losses(view, rows), strict=True):
                    weighted = weighted + (balance * among[position].item()) * (loss * share)
                    losses[position] += (loss * share).detach()
                if world_size() == 1:
                    self._scaled(weighted).backward()
                else:  # a wrapper for several processes would take a backward pass for one of its own
                    found = torch.autograd.grad(self._scaled(weighted), trained, allow_unused=True)
                    gradient = total(gradient, list(found))
        for parameter, summed in zip(trained, over_processes(gradient, trained), strict=True):
            add(parameter, summed, 1.0)
        sum_over(losses)
        return StepResult(sampled, losses, None, balance * (among.to(losses) @ losses))

    # Learned weights: one gradient an objective, compared with the held-out one

    def _learning(
        self, sampled: list[int], among: Tensor, drawn: list[Drawn], dev_loss: Callable[[], Tensor]
    ) -> StepResult:
        _, balance = self.weights.balance()
        dev = self._dev_gradient(dev_loss)
        own: Gradient = [parameter.grad for parameter in self.parameters]
        primary = dev.cosine(own)
        summed: Gradient = [None] * len(self.parameters)
        losses = torch.zeros(len(sampled), device=self.parameters[0].device)
        cosines = torch.zeros_like(losses)
        for view in drawn:
            self._differentiate(view, among, balance, dev, summed, losses, cosines)
        auxiliary = dev.cosine(summed)
        for parameter, gradient in zip(self.parameters, summed, strict=True):
            add(parameter, gradient, balance)
        self.weights.observe(sampled, cosines.cpu(), primary.item(), auxiliary.item())
        return StepResult(sampled, losses, cosines, balance * (among.to(losses) @ losses.nan_to_num(0, 0, 0)))

    def _dev_gradient(self, dev_loss: Callable[[], Tensor]) -> HeldOut:
        with self._cut() as cut, self.autocast():
            loss = dev_loss()
        gradient = torch.autograd.grad(self._scaled(loss), self.parameters, allow_unused=True)
        gradient = over_processes(list(gradient), self.parameters)
        if cut is None:
            return HeldOut(gradient, [True] * len(gradient))
        below = cut.parameters_below()  # of which a gradient above is only a part
        covered = [g is not None and id(p) not in below for g, p in zip(gradient, self.parameters, strict=True)]
        return HeldOut(gradient, covered)

    def _cut(self) -> AbstractContextManager[Cut | None]:
        return nullcontext() if self._layer is None else Cut().before(self._layer)

    def _differentiate(
        self,
        view: Drawn,
        among: Tensor,
        balance: float,
        dev: HeldOut,
        summed: Gradient,
        losses: Tensor,
        cosines: Tensor,
    ) -> None:
        """Add a view's weighted gradients to `summed`, its members' to their heads', and note losses and cosines."""
        heads = self._head_parameters()
        chunks = self._chunks(view)
        gathered: dict[int, Gradient] = {}
        for rows in chunks:
            with self._cut() as cut:
                found = self._losses(view, rows)
            leaves = [] if cut is None or cut.leaf is None else [cut.leaf]
            at_leaf: Tensor | None = None
            for position, (loss, share) in zip(view.members, found, strict=True):
                losses[position] += (loss * share).detach()
                last = position == view.members[-1]
                gradient: Gradient = list(
                    torch.autograd.grad(
                        self._scaled(loss * share),
                        [*self.parameters, *heads, *leaves],
                        allow_unused=True,
                        retain_graph=cut is not None or not last,
                    )
                )
                if rows is not chunks[0]:
                    gradient = total(gathered.pop(position), gradient)
                if rows is not chunks[-1]:
                    gathered[position] = gradient
                    continue
                gradient[: len(gradient) - len(leaves)] = over_processes(
                    gradient[: len(gradient) - len(leaves)], [*self.parameters, *heads]
                )
                sum_over(losses[position])
                factor, cosines[position] = self._agreement(gradient[: len(self.parameters)], dev, losses[position])
                weight = among[position].item() * factor
                accumulate(summed, gradient, weight, factor)
                for parameter, own in zip(heads, gradient[len(self.parameters) :], strict=False):
                    add(parameter, own, balance * among[position].item(), factor)
                if cut is not None and (leaf := gradient[-1]) is not None:
                    scaled = kept(leaf, factor) * weight
                    at_leaf = scaled if at_leaf is None else at_leaf + scaled
            if cut is not None and at_leaf is not None and cut.below is not None and cut.below.requires_grad:
                below = torch.autograd.grad(cut.below, self.parameters, at_leaf, allow_unused=True)
                accumulate(summed, over_processes(list(below), self.parameters), at_leaf.new_ones(()), None)

    def _head_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.heads.parameters() if parameter.requires_grad]

    def _agreement(self, gradient: Gradient, dev: HeldOut, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factor that clips an objective's gradient, 0 where it is not finite, and the cosine, NaN there."""
        norm = dev.norm(gradient)
        cosine = dev.cosine(gradient, norm)
        finite = torch.isfinite(norm)
        factor = torch.ones_like(norm)
        if self.max_grad_norm:
            scale = 1.0 if self.scaler is None else self.scaler.get_scale()
            factor = (self.max_grad_norm * scale / norm).clamp(max=1.0)
        # In float16 an overflow of a finite loss is the scaler's to see: it skips the step and lowers its scale.
        lost = torch.isfinite(loss).to(factor.dtype) if self.scaler is not None else torch.zeros_like(factor)
        return torch.where(finite, factor, lost), torch.where(finite, cosine, torch.nan)


def compared_layer(network: Any, count: int) -> nn.Module:
    """Return the lowest of the `count` top layers of a model with tasks.

    Raises:
        ValueError: it has no more layers than that, or no list of them.
    """
    body = getattr(network, "encoder", None) or network.backbone
    depth = body.config.num_hidden_layers
    if count >= depth:
        raise ValueError(f"`cosine_layers` must be below the model's {depth} layers, found {count}")
    try:
        return top_layer(body, count)
    except ValueError as error:
        raise ValueError(f"`cosine_layers`: {error}") from None
