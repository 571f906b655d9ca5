"""The head under the held-out gradient: fitted to what the model's features are worth now (META-TARTAN).

The gradient of the held-out loss through the head that is being trained would mostly say that this head is not good
yet. META-TARTAN (arXiv 2109.07437, section 3.3) therefore takes a head that is the best one for the current features,
found on training examples. The features are those that the training step has just computed: no pass through the body is
made for the head. It is the minimum of the mean loss plus half the weight decay times the squared norm, found by
L-BFGS, or for regression alone in closed form.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taskloom.heads import TaskHeads, mean_over_tasks
from taskloom.processes import gather, world_size

__all__ = ["DevHead", "HeadInputs", "of_all_processes"]

ITERATIONS = 200


@dataclass(frozen=True)
class HeadInputs:
    """What the heads were given in one forward pass, and the targets.

    Attributes:
        pooled: ``[batch, hidden]``.
        hidden: ``[batch, tokens, hidden]``; of no rows if no task is of token level.
        task: ``[batch]``.
        attention_mask: ``[batch, tokens]``.
        targets: ``labels``, and ``token_labels`` and ``span_labels`` where there are such tasks.
    """

    pooled: Tensor
    hidden: Tensor
    task: Tensor
    attention_mask: Tensor
    targets: dict[str, Tensor]

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "HeadInputs":
        """Return the same on a device, the features in another type, too."""
        targets = {name: value.to(device) for name, value in self.targets.items()}
        features = (self.pooled.to(device, dtype), self.hidden.to(device, dtype))
        return HeadInputs(*features, self.task.to(device), self.attention_mask.to(device), targets)


def of_all_processes(passes: Sequence[HeadInputs]) -> list[HeadInputs]:
    """Return what the heads were given in all processes, in each of them."""
    if world_size() == 1:
        return list(passes)
    device = passes[0].pooled.device
    shares = gather([each.to("cpu") for each in passes])
    return [each.to(device) for share in shares for each in share]


class DevHead:
    """Heads of a suite's tasks, refitted to the latest features.

    Args:
        heads: the heads being trained; their tasks and shapes are taken, their weights are not.
        weight_decay: factor of half the squared norm of the weights; biases are free.
    """

    def __init__(self, heads: TaskHeads, weight_decay: float = 0.1) -> None:
        self.weight_decay = weight_decay
        self.heads = copy.deepcopy(heads).cpu().double().eval()

    def fit(self, passes: Sequence[HeadInputs]) -> TaskHeads:
        """Return heads fitted to the features of some passes, on the features' device.

        The fit runs on the CPU, where these small problems belong: a GPU would wait at each of its line searches.
        """
        device = passes[0].pooled.device
        inputs = [each.to("cpu", torch.float64) for each in passes]
        with torch.enable_grad():
            for parameter in self.heads.parameters():
                parameter.data.zero_()
            if bool(self.heads.is_regression.all()):
                self._solve(inputs)
            else:
                self._minimise(inputs)
        fitted = copy.deepcopy(self.heads).to(device, torch.float32)
        return fitted.requires_grad_(False)

    def loss(self, inputs: Sequence[HeadInputs]) -> Tensor:
        """Return the penalised loss of the heads, a scalar: the mean over the tasks present, as in training."""
        examples = [
            self.heads.example_loss(
                self.heads(each.pooled, each.hidden, each.task),
                each.task,
                attention_mask=each.attention_mask,
                **each.targets,
            )
            for each in inputs
        ]
        mean, _, _ = mean_over_tasks(
            torch.cat(examples), torch.cat([each.task for each in inputs]), self.heads.num_tasks
        )
        squares = sum(layer.linear.weight.square().sum() for layer in self._layers())
        return mean + self.weight_decay / 2 * squares

    def _layers(self) -> list[Any]:
        return [layer for layer in (self.heads.sequence, self.heads.token) if layer.num_outputs]

    def _minimise(self, inputs: Sequence[HeadInputs]) -> None:
        parameters = list(self.heads.parameters())
        # To the minimum itself: where a looser search stops depends on rounding, and cosines show it.
        optimizer = torch.optim.LBFGS(
            parameters,
            max_iter=ITERATIONS,
            tolerance_grad=1e-7,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(inputs)
            loss.backward()
            return loss

        optimizer.step(closure)
        optimizer.zero_grad()

    def _solve(self, inputs: Sequence[HeadInputs]) -> None:
        """Ridge regression: each task's own rows, centred, so that the bias stays free."""
        pooled = torch.cat([each.pooled for each in inputs])
        values = torch.cat([each.targets["labels"] for each in inputs]).double()
        tasks = torch.cat([each.task for each in inputs])
        linear = self.heads.sequence.linear
        present = tasks.unique()
        for task in present.tolist():
            row = int(self.heads.sequence.rows[task, 0])
            features, targets = pooled[tasks == task], values[tasks == task]
            mean, centre = features.mean(dim=0), targets.mean()
            centred = features - mean
            # d/dW of (mean of squares) / tasks + decay/2 |W|^2 = 0
            penalty = self.weight_decay * len(targets) * len(present) / 2
            system = centred.T @ centred + penalty * torch.eye(len(mean), dtype=torch.float64)
            solution = torch.linalg.solve(system, centred.T @ (targets - centre))
            linear.weight.data[row] = solution
            linear.bias.data[row] = centre - mean @ solution
