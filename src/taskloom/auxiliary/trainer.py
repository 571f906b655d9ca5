"""Training on tasks and auxiliary objectives together, while the objectives' weights are learned (AANG, Algorithm 1).

An optimizer step is that of `MultiTaskTrainer`, its loss times w_prim. When the last of its batches has left the tasks'
gradient in `.grad`, the auxiliary part follows (`taskloom.auxiliary.step`), once, whatever the accumulation. With both
learning rates of the weights zero this is plain multi-task training with static weights: no held-out gradient, no head
for it, no gradient of a single objective.

Several processes share the tasks' batch, the objectives' rows and the held-out batch, and make the step of one: the
gradients of objectives and held-out loss are added up, and compared then.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainingArguments

from taskloom.auxiliary.bodies import Body, DecoderBody, EncoderBody
from taskloom.auxiliary.dev_head import DevHead, HeadInputs, of_all_processes
from taskloom.auxiliary.heads import ObjectiveHeads
from taskloom.auxiliary.history import WeightLog
from taskloom.auxiliary.step import AuxiliaryStep, StepResult
from taskloom.auxiliary.tally import Tally
from taskloom.auxiliary.transforms import Transforms
from taskloom.auxiliary.vocabulary import VocabularyHead
from taskloom.auxiliary.weights import ObjectiveWeights
from taskloom.errors import UserError
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel
from taskloom.processes import is_main, world_size
from taskloom.shares import WEIGHT, own_positions
from taskloom.tasks import Task, TaskSuite
from taskloom.training import MultiTaskTrainer

if TYPE_CHECKING:
    from taskloom.auxiliary.sources import Source

__all__ = ["AuxiliaryTrainer"]

logger = logging.getLogger(__name__)

HEADS_FILE = "objective_heads.safetensors"
WEIGHTS_FILE = "objective_weights.safetensors"
TALLY_FILE = "objective_tally.safetensors"


class AuxiliaryTrainer(MultiTaskTrainer):
    """Train the tasks of a suite beside auxiliary objectives.

    Args:
        model, args, suite, tokenizer: as for `MultiTaskTrainer`.
        weights: the objectives' weights, and with them the search space.
        sources: rows for each value of the space's data stage (`taskloom.auxiliary.sources.build_sources`).
        vocabulary: an encoder's vocabulary head, if an output of the space needs one.
        labelled: the tasks that are supervised outputs of the space.
        transforms: the transform stage; None takes the defaults of `Transforms`.
        dev_batch_size: held-out examples a step.
        dev_split: the split that they are drawn from; None takes each task's first dev split.
        dev_head: the head under the held-out gradient is ``"fitted"`` to the step's training features, or the
            tasks' ``"own"``; language models have no head to fit.
        dev_head_weight_decay: see `DevHead`.
        share_heads: one head an output instead of one an objective.
        head_dropout: dropout before the objectives' heads.
        history: takes in the weights at each log of the training loss.
        step: further arguments of `AuxiliaryStep`.
        settings: further arguments of `MultiTaskTrainer`.

    Raises:
        UserError: the model cannot take objectives, or it is divided among processes.
    """

    def __init__(
        self,
        model: MultiTaskModel | GenerativeModel,
        args: TrainingArguments,
        suite: TaskSuite,
        tokenizer: Any,
        *,
        weights: ObjectiveWeights,
        sources: "Mapping[str, Source]",
        vocabulary: VocabularyHead | None = None,
        labelled: Sequence[Task] = (),
        transforms: Transforms | None = None,
        dev_batch_size: int = 32,
        dev_split: str | None = None,
        dev_head: Literal["fitted", "own"] = "fitted",
        dev_head_weight_decay: float = 0.1,
        share_heads: bool = True,
        head_dropout: float = 0.1,
        history: WeightLog | None = None,
        step: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise UserError(
                f"auxiliary: objectives train on one device; this run sees {args.n_gpu}; choose one of them, "
                "such as with CUDA_VISIBLE_DEVICES=0"
            )
        body: Body = DecoderBody(model) if isinstance(model, GenerativeModel) else EncoderBody(model, vocabulary)
        torch.manual_seed(args.seed)  # whatever was drawn before, such as generated text
        heads = ObjectiveHeads(
            weights.space,
            body.width,
            labelled=labelled,
            vocabulary=vocabulary,
            share=share_heads,
            dropout=head_dropout,
        )
        # A part of the model for as long as it is trained: optimizer, clipping and devices see the heads' parameters.
        model.objectives = heads
        super().__init__(model, args, suite, tokenizer, **settings)
        if self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UserError(
                "auxiliary: objectives need each process to hold the whole model, and "
                f"{self.accelerator.distributed_type.value} divides it. Launch without it"
            )
        self.objective_weights = weights
        self.tally = Tally(len(weights.space), args.device)
        self.auxiliary = AuxiliaryStep(
            model,
            body,
            heads,
            weights,
            sources,
            transforms or Transforms(tokenizer),
            **{
                "chunk": args.train_batch_size,
                "autocast": self.accelerator.autocast,
                "scaler": self.accelerator.scaler,
                **(step or {}),
            },
        )
        self.dev_batch_size = dev_batch_size
        self.history = history
        self._held_out = self._held_out_features(dev_split)
        self._dev_head = (
            DevHead(model.heads, dev_head_weight_decay)
            if dev_head == "fitted" and isinstance(model, MultiTaskModel)
            else None
        )
        self._passes: list[HeadInputs] = []
        self._auxiliary_loss = torch.zeros((), device=args.device)
        self._auxiliary_steps = 0
        self._reported: set[int] = set()

    def _held_out_features(self, split: str | None) -> list[Any]:
        found = []
        for task in self.suite:
            name = split or task.dev_splits[0]
            if (task.name, name) not in self.dev_features:
                raise UserError(
                    f"auxiliary.dev_split: task '{task.name}' has no dev split '{name}'; "
                    f"it has {', '.join(task.dev_splits)}"
                )
            found.append(self.dev_features[task.name, name])
        return found

    # One step

    def head_parameters(self) -> list[torch.nn.Parameter]:
        return [*super().head_parameters(), *self.auxiliary.heads.parameters()]

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        with self._watch_heads(inputs):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        balance, _ = self.objective_weights.balance()
        return (balance * loss, outputs) if return_outputs else balance * loss

    @contextmanager
    def _watch_heads(self, inputs: dict[str, Tensor]) -> Iterator[None]:
        """Keep what the tasks' heads are given in this pass, if a head is to be fitted to it."""
        if self._dev_head is None or not self.objective_weights.learns:
            yield
            return
        heads: Any = self.network.heads
        token_level = heads.token.num_outputs > 0

        def keep(_module: Any, args: tuple[Tensor, Tensor, Tensor]) -> None:
            # Of several processes one may have no example of its own, but one that counts nothing.
            own: Any = inputs[WEIGHT] > 0 if WEIGHT in inputs else slice(None)
            pooled, hidden, task = (each.detach()[own] for each in args)
            names = ("labels", "token_labels", "span_labels")
            self._passes.append(
                HeadInputs(
                    pooled,
                    hidden if token_level else hidden[:0],
                    task,
                    inputs["attention_mask"][own],
                    {name: inputs[name][own] for name in names if name in inputs},
                )
            )

        handle = heads.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Any = None
    ) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not self.accelerator.sync_gradients:
            return loss
        # The last word keeps these draws apart from the batches' order, drawn by seed and epoch.
        seed = (self.args.seed, self.state.global_step, 1)
        result = self.auxiliary(seed, self._dev_loss(seed) if self.objective_weights.learns else None)
        self._passes.clear()
        self._note(result)
        if result.cosines is not None:
            self.objective_weights.step()
        return loss + result.loss.to(loss.device)

    def _dev_loss(self, seed: tuple[int, ...]) -> Callable[[], Tensor]:
        """Return the held-out loss as a function: the best head's on a batch of this step's own.

        Of several processes it is a part, that of some of the batch's examples; the parts add up to the whole.
        """
        numbers = np.random.default_rng((*seed, 1))
        if self._dev_head is not None:
            self._passes = of_all_processes(self._passes)
        held_out = self._held_out_of_step()
        each = -(-self.dev_batch_size // len(held_out))
        items, weights = [], []
        for features in held_out:
            chosen = features.__getitems__(numbers.permutation(len(features))[:each].tolist())
            items += chosen
            weights += [1 / (len(held_out) * len(chosen))] * len(chosen)
        own, counts = own_positions(len(items))
        batch: Any = self._prepare_inputs(self.inference.collator([items[position] for position in own]))
        of_batch = torch.tensor([weights[position] * counts for position in own], device=self.args.device)

        def part() -> Tensor:
            outputs = self.network(**batch)
            return outputs["loss"] if world_size() == 1 else (outputs["example_loss"] * of_batch).sum()

        def loss() -> Tensor:
            if self._dev_head is None:
                return part()
            with _swapped(self.network, self._dev_head.fit(self._passes)):
                return part()

        return loss

    def _held_out_of_step(self) -> list[Any]:
        """Return the held-out items of the step's tasks: for others no head could be fitted."""
        if self._dev_head is None or len(self._held_out) == 1:
            return self._held_out
        present = torch.cat([each.task for each in self._passes]).unique().tolist()
        return [self._held_out[task] for task in present]

    # The log

    def _note(self, result: StepResult) -> None:
        self.tally.note(result)
        self._auxiliary_loss += result.loss.detach()
        self._auxiliary_steps += 1
        if result.cosines is None or not is_main():
            return
        for index in self.tally.skipped_in(result):
            if index not in self._reported:
                self._reported.add(index)
                logger.warning(
                    "step %d: no finite agreement of %s with the held-out gradient; what is not finite is left out "
                    "whenever that happens, and counted",
                    self.state.global_step + 1,
                    self.objective_weights.space[index].name,
                )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the balance, the auxiliary loss and how many objectives were left out."""
        if "loss" in logs:
            primary, auxiliary = self.objective_weights.balance()
            logs["weight/primary"], logs["weight/auxiliary"] = primary, auxiliary
            logs["loss/auxiliary"] = self._auxiliary_loss.item() / max(self._auxiliary_steps, 1)
            self._auxiliary_loss.zero_()
            self._auxiliary_steps = 0
            if skipped := int(self.tally.skipped.sum()):
                logs["skipped"] = skipped
            if self.history is not None and is_main():
                self.history.append(self.state.global_step, self.objective_weights)
        super().log(logs, start_time)

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.checkpoints)
        heads = {name: value.contiguous() for name, value in self.auxiliary.heads.state_dict().items()}
        save_file(heads, folder / HEADS_FILE)
        save_file(self.objective_weights.state_dict(), folder / WEIGHTS_FILE)
        save_file(self.tally.state_dict(), folder / TALLY_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        self.auxiliary.heads.load_state_dict(load_file(folder / HEADS_FILE))
        self.objective_weights.load_state_dict(load_file(folder / WEIGHTS_FILE))
        self.tally.load_state_dict(load_file(folder / TALLY_FILE))


@contextmanager
def _swapped(network: Any, heads: torch.nn.Module) -> Iterator[None]:
    """Put other heads on a network for a while."""
    own, network.heads = network.heads, heads
    try:
        yield
    finally:
        network.heads = own
