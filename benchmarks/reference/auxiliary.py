"""AANG's training step as its authors run it (Dery et al. 2023, arXiv 2205.14082), on one page.

Independent of `taskloom`. Every call of the model computes vocabulary logits at every position, also where only a
class is wanted, since the authors' body is a masked language model whose forward knows nothing else; with
`idle_logits=False` those that nothing uses are left out. Every objective has a head of its own, of DENOISE an untied
vocabulary; with `share_heads` (a flag of theirs, off in their runs) every output has one. The held-out gradient is
META-TARTAN's (arXiv 2109.07437): a fresh head is fitted by passes through the whole body, which stays as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

Indices = tuple[int, int, int, int]  # of an objective: data, transform, representation, output


@dataclass
class AuxiliaryBatch:
    """Rows of one view; `targets` has [rows, tokens] for each of its objectives, -100 where nothing is predicted."""

    input_ids: Tensor
    attention_mask: Tensor  # [rows, tokens], or additive [rows, 1, tokens, tokens]
    targets: Mapping[Indices, Tensor]


@dataclass
class LabelledBatch:
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def language_model_head(hidden: int, vocabulary: int) -> nn.Module:
    layers = (nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, vocabulary))
    return nn.Sequential(*layers)


def classifier(hidden: int, labels: int, activation: nn.Module, dropout: float) -> nn.Module:
    first = (nn.Dropout(dropout), nn.Linear(hidden, hidden), activation, nn.Dropout(dropout))
    return nn.Sequential(*first, nn.Linear(hidden, labels))


def norm_of(gradients: Sequence[Tensor | None]) -> float:
    return sum((g**2).sum() for g in gradients if g is not None) ** 0.5 + 1e-8  # type: ignore[return-value]


def dot(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> float:
    total = 0.0
    for a, b in zip(first, second, strict=True):
        if a is not None and b is not None:
            total += (a * b).sum().item()
    return total


class PublishedAuxiliary:
    """`outputs`: classes of each output, None for the vocabulary (DENOISE); `stages`: choices of each stage."""

    def __init__(
        self,
        config: BertConfig,
        labels: int,
        objectives: Sequence[Indices],
        outputs: Sequence[int | None],
        stages: Indices,
        share_heads: bool = False,
        idle_logits: bool = True,
        dropout: float = 0.3,
        learning_rate: float = 1e-4,
        head_learning_rate: float = 1e-3,
        primary_lr: float = 0.1,
        auxiliary_lr: float = 1.0,
        step_every: int = 3,
        accumulation: int = 1,
        dev_iterations: int = 10,
    ) -> None:
        self.model, hidden = BertForMaskedLM(config), config.hidden_size
        self.body = list(self.model.parameters())
        self.new_classifier: Callable[[], nn.Module] = lambda: classifier(hidden, labels, nn.Tanh(), dropout)
        self.primary_head, self.dev_head = self.new_classifier(), None
        self.heads, made = {}, {}
        for objective in objectives:
            key, classes = (objective[3] if share_heads else objective), outputs[objective[3]]
            if key not in made and classes is None:
                made[key] = language_model_head(hidden, config.vocab_size)
            elif key not in made:
                made[key] = classifier(hidden, classes or 0, nn.ReLU(), dropout)
            self.heads[objective] = made[key]
        self.head_parameters = [p for head in (self.primary_head, *made.values()) for p in head.parameters()]
        settings = {"betas": (0.9, 0.98), "eps": 1e-6}
        self.optimizer = torch.optim.AdamW(self.body, lr=learning_rate, weight_decay=0.01, **settings)
        self.head_optimizer = torch.optim.AdamW(
            self.head_parameters, lr=head_learning_rate, weight_decay=0.1, **settings
        )
        self.factors = [torch.zeros(size) for size in stages]
        self.joint, self.joint_gradient = torch.zeros(stages), torch.zeros(stages)
        self.balance, self.balance_gradient = torch.zeros(2), torch.zeros(2)
        self.rates, self.step_every, self.steps = (primary_lr, auxiliary_lr), step_every, 0
        self.accumulation, self.dev_iterations, self.idle_logits = accumulation, dev_iterations, idle_logits
        self.dev_passes = 0  # of the latest fit

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if not self.idle_logits:
            return self.model.bert(input_ids, attention_mask).last_hidden_state
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        return output.hidden_states[-1]

    def class_loss(self, head: nn.Module, batch: LabelledBatch) -> Tensor:
        return F.cross_entropy(head(self.encode(batch.input_ids, batch.attention_mask)[:, 0]), batch.labels)

    def fit_dev_head(self, batch: LabelledBatch) -> nn.Module:
        """Fit a fresh head on training examples, once between two steps."""
        head = self.new_classifier().to(self.body[0].device)
        parameters = list(head.parameters())
        optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), lr=1e-2, weight_decay=0.1)
        before = 1e10
        for iteration in range(self.dev_iterations):
            self.dev_passes = iteration + 1
            loss = self.class_loss(head, batch)
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
            optimizer.step()
            if abs(loss.item() - before) < 1e-3:
                break
            before = loss.item()
        return head

    def gradient(
        self, loss: Tensor, head: nn.Module, dev: tuple[Sequence[Tensor | None], float], retain: bool
    ) -> tuple[list[Tensor | None], float]:
        """Return a loss's gradient, the body's clipped at norm 10, and the cosine of that with the dev gradient."""
        parameters = [*self.body, *head.parameters()]
        gradients: list[Tensor | None] = [
            *torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=retain)
        ]
        body = gradients[: len(self.body)]
        norm = norm_of(body)
        cosine = dot(dev[0], body) / (dev[1] * norm)
        if norm > 10:
            for gradient in body:
                if gradient is not None:
                    gradient.mul_(10 / norm)
        return gradients, float(cosine)

    def accumulate(self, gradients: list[Tensor | None], head: nn.Module, scale: float) -> None:
        for parameter, gradient in zip([*self.body, *head.parameters()], gradients, strict=True):
            if gradient is not None:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(gradient * scale)

    def micro_batch(
        self, primary: LabelledBatch, auxiliary: Sequence[AuxiliaryBatch], fit: LabelledBatch, held_out: LabelledBatch
    ) -> None:
        """Add one micro-batch's gradients to the parameters', and its cosines to the weights'."""
        self.dev_head = self.dev_head or self.fit_dev_head(fit)
        dev_loss = self.class_loss(self.dev_head, held_out)
        dev_gradients = torch.autograd.grad(dev_loss, self.body, allow_unused=True)
        dev = dev_gradients, norm_of(dev_gradients)

        weights = self.balance.softmax(0) / self.accumulation
        loss = self.class_loss(self.primary_head, primary)
        gradients, cosine = self.gradient(loss, self.primary_head, dev, retain=False)
        self.accumulate(gradients, self.primary_head, weights[0].item())
        self.balance_gradient[0] -= cosine / self.accumulation

        present = [objective for batch in auxiliary for objective in batch.targets]
        logits = torch.stack([self.joint[objective] + self.factors[3][objective[3]] for objective in present])
        shares = dict(zip(present, logits.softmax(0).tolist(), strict=True))
        rows = sum(len(batch.input_ids) for batch in auxiliary)
        total = [torch.zeros_like(parameter) for parameter in self.body]
        for batch in auxiliary:
            states = self.encode(batch.input_ids, batch.attention_mask)
            for i, (objective, targets) in enumerate(batch.targets.items()):
                head = self.heads[objective]
                losses = F.cross_entropy(head(states).flatten(0, 1), targets.flatten(), reduction="none")
                counted = max(len(losses.nonzero()), 1)
                retain = i + 1 < len(batch.targets)
                gradients, cosine = self.gradient(losses.sum() / counted, head, dev, retain)
                for sum_, gradient in zip(total, gradients[: len(self.body)], strict=True):
                    if gradient is not None:
                        sum_.add_(counted * gradient)
                share = len(batch.input_ids) / rows * shares[objective]
                self.accumulate(gradients, head, share * weights[1].item())
                self.joint_gradient[objective] -= cosine / self.accumulation
        self.balance_gradient[1] -= dot(dev[0], total) / (dev[1] * norm_of(total)) / self.accumulation

    def step(self) -> None:
        """Step on the body and the heads, and every `step_every` steps on the weights."""
        for parameters, optimizer in ((self.body, self.optimizer), (self.head_parameters, self.head_optimizer)):
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        self.dev_head, self.steps = None, self.steps + 1
        if self.steps % self.step_every == 0:
            primary_lr, auxiliary_lr = (rate / self.step_every for rate in self.rates)
            self.balance -= primary_lr * self.balance_gradient
            self.joint -= auxiliary_lr * self.joint_gradient
            for stage, factor in enumerate(self.factors):
                factor -= auxiliary_lr * self.joint_gradient.sum([i for i in range(4) if i != stage])
            self.joint_gradient.zero_()
            self.balance_gradient.zero_()
