"""Training a weighter through the updates that its weights make (CaMeLS, arXiv 2305.15076, section 3.2, algorithm 1).

A batch of documents is weighed in one pass and updates the base model, in turn or at once; the outer loss of the
updated model is differentiated by the weights (`taskloom.gradients.meta`), and from there on by the weighter as usual.
The updated model goes on to the next batch until so many documents are through; then it starts anew.

Several processes share the batches of an outer step. Each finds the gradient of its own and follows the others'
updates, which are much cheaper, so that all hold the same updated model: that of one process.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from taskloom.callbacks import BatchSchedule
from taskloom.checkpoints import StagedTrainer
from taskloom.gradients.inner_updates import SGD, Adam, InnerOptimizer
from taskloom.gradients.meta import UnrolledUpdates
from taskloom.gradients.weighted_updates import updated_parameters
from taskloom.online.meta_batches import LocalityTexts, MetaCollator, MetaRows, ShuffledRows, documents_of
from taskloom.online.outer_loss import Locality, OuterLoss, answer_nll
from taskloom.online.trained_parameters import trained_parameters
from taskloom.processes import gather, rank, sum_over, world_size
from taskloom.recipe.online import MetaTrainSection
from taskloom.shares import over_processes

__all__ = ["MetaTrainer"]

WEIGHTER = "weighter"
BASE_FILE = "base.safetensors"
NOTED = ("nll", "nll_gain", "kl")


class MetaTrainer(StagedTrainer):
    """Train a weighter.

    Args:
        weighter: a `LearnedWeighter`, or any module that maps ids and mask to weights and has `save`.
        args: the Trainer's arguments; the batch size is that of documents, `eval_steps` and `save_steps` say when to
            validate and to save.
        base: the language model that is updated, in evaluation mode. Its parameters' values are replaced by others,
            not written to; `reset_base` puts its own back.
        rows: documents with questions to train on.
        dev: documents with questions to validate on, in their order.
        collator: makes the batches.
        settings: of the updates and the outer loss.
        locality: unrelated text for training.
        dev_locality: unrelated text for validation.
        best_folder: where the weighter of the lowest validation loss is kept.
        on_validation: called after each validation with the step, such as to draw weights.
        callbacks: further callbacks.
    """

    def __init__(
        self,
        weighter: Any,
        args: TrainingArguments,
        base: Any,
        rows: MetaRows,
        dev: MetaRows,
        collator: MetaCollator,
        settings: MetaTrainSection,
        *,
        locality: LocalityTexts,
        dev_locality: LocalityTexts,
        best_folder: Path | None = None,
        on_validation: Callable[[int], None] | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.weighter = weighter
        self.settings = settings
        self.rows, self.dev = rows, dev
        self.locality, self.dev_locality = locality, dev_locality
        self.best_folder = best_folder
        self.on_validation = on_validation
        # A batch for each process, one after the other.
        self.batches = ShuffledRows(len(rows), settings.documents * world_size(), args.seed)
        super().__init__(
            model=weighter,
            args=args,
            train_dataset=rows,  # pyright: ignore[reportArgumentType]
            eval_dataset=dev,  # pyright: ignore[reportArgumentType]
            data_collator=collator,
            callbacks=callbacks,
        )
        self.add_callback(BatchSchedule(self.batches))
        self.base = base.to(args.device).eval()
        self.names = list(trained_parameters(base, settings.layers))
        self._start = self._parameters()
        self._since_start = 0
        self._step, self._group = -1, 0
        self._batches_of_step = 1
        self._sums = torch.zeros(1 + len(NOTED), device=args.device)  # how many batches, and what was noted of them

    def _parameters(self) -> dict[str, Tensor]:
        # Values are replaced, never written to: nothing needs a copy.
        named = dict(self.base.named_parameters())
        return {name: named[name].detach() for name in self.names}

    def reset_base(self) -> None:
        """Give the base model the parameters that it began with."""
        self._since_start = 0
        self._set_base(self._start)

    def _set_base(self, values: Mapping[str, Tensor]) -> None:
        named = dict(self.base.named_parameters())
        for name in self.names:
            named[name].data = values[name]

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of an epoch in groups, one for each process; every process reads all of them."""
        loader = DataLoader(self.rows, batch_sampler=self.batches, collate_fn=self._collated_group)
        # As of one process: what `accelerator.prepare` would share out are whole groups.
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def _collated_group(self, rows: list[Any]) -> list[dict[str, Any]]:
        size = self.settings.documents
        return [self.data_collator(rows[first : first + size]) for first in range(0, len(rows), size)]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Count the batches of an outer step: the last group of an epoch may be smaller."""
        groups, items = super().get_batch_samples(*args, **kwargs)
        self._batches_of_step = sum(len(group) for group in groups)
        return groups, items

    # One batch

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Add the gradient of the outer loss to the weighter's, and leave the base model updated on the whole group."""
        model.train()
        group = cast("list[dict[str, Any]]", self._prepare_inputs(inputs))
        step = self.state.global_step
        self._step, self._group = step, self._group + 1 if step == self._step else 0
        # All processes take part in each step: who has no batch takes the last once more, and adds nothing.
        own, counts = min(rank(), len(group) - 1), float(rank() < len(group))
        inputs, place = group[own], self._group * world_size() + own
        steps = self._batches_of_step / world_size()  # the processes' gradients and losses are averaged
        with self.accelerator.autocast():
            weights = model(**inputs["documents"])
            # The weights as their own processes have found them: dropout is another everywhere.
            of_all = gather(weights.detach().cpu()) if world_size() > 1 else []
            for number in range(own):
                self._follow(group[number], of_all[number])
            outer = self._outer_loss(inputs, self.locality.draw((self.args.seed, step, place)))
            with torch.no_grad():
                before = answer_nll(self.base, inputs["questions"])
            parts, given = self._updates(inputs["documents"], weights)
            updates = UnrolledUpdates(
                self.base,
                parts,
                given,
                self._inner_optimizer(),
                parameters=self.names,
                checkpoints=self.settings.checkpoints,
                method=self.settings.method,
                first_order=self.settings.first_order,
            )
            loss, adjoint = updates.outer_gradient(outer)
            noted = (torch.ones_like(before), outer.nll, before - outer.nll, outer.divergence)
            self._sums += torch.stack([value.detach().float().to(self._sums.device) for value in noted]) * counts
            # The way back needs neither the updated parameters nor what locality compares with.
            self._carry_on(updates.parameters, len(inputs["questions"]["labels"]))
            updates.parameters.clear()
            del outer
            gradients = updates.pull_back(adjoint)
            for number in range(own + 1, len(group)):
                self._follow(group[number], of_all[number])
        norm = self._norm_term(weights, inputs["documents"]["attention_mask"])
        of_step = [gradient / steps * counts for gradient in gradients]
        torch.autograd.backward([*given, norm / steps * counts], [*of_step, None])
        return (loss + norm.detach()) / steps * counts

    def _follow(self, inputs: Mapping[str, Any], weights: Tensor) -> None:
        """Update the base model on another process' batch."""
        documents = len(inputs["questions"]["labels"])
        if self._since_start + documents >= self.settings.reset_every:
            self._carry_on({}, documents)  # it starts anew behind this batch
            return
        parts, given = self._updates(inputs["documents"], weights.to(self.args.device))
        with torch.no_grad():
            updated = updated_parameters(self.base, parts, given, self._inner_optimizer(), parameters=self.names)
        self._carry_on(updated, documents)

    def _outer_loss(self, inputs: Mapping[str, Any], batches: Sequence[Mapping[str, Tensor]]) -> OuterLoss:
        moved = [self._prepare_inputs(dict(batch)) for batch in batches]
        locality = [Locality.of(self.base, batch) for batch in moved] if self.settings.kl_weight else []
        return OuterLoss(inputs["questions"], locality, self.settings.kl_weight)

    def _updates(self, documents: dict[str, Tensor], weights: Tensor) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        """Return what a batch's updates are made on, and the weights that each is made with."""
        parts, given = documents_of(documents, weights, self.settings.sequential)
        if (length := self.settings.loss_length) is not None:
            predicted = [part["attention_mask"][:, 1:].sum() for part in parts]
            given = [each * (count / (length * len(each))) for each, count in zip(given, predicted, strict=True)]
        return parts * self.settings.inner_steps, given * self.settings.inner_steps

    def _inner_optimizer(self) -> InnerOptimizer:
        rate = self.settings.inner_lr
        return Adam(rate) if self.settings.inner_optimizer == "adam" else SGD(rate)

    def _norm_term(self, weights: Tensor, mask: Tensor) -> Tensor:
        """Return the weighted mean over documents of ||w||, or ||w - 1||, each a mean over its tokens (c_norm)."""
        if not self.settings.norm_weight:
            return weights.sum() * 0.0
        power = self.settings.norm
        distance = (weights - float(self.settings.norm_from_one)).abs() * mask
        means = distance.pow(power).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return self.settings.norm_weight * means.clamp(min=torch.finfo(means.dtype).tiny).pow(1 / power).mean()

    def _carry_on(self, updated: Mapping[str, Tensor], documents: int) -> None:
        """Let the base model go on as updated, or start anew after `reset_every` documents."""
        self._since_start += documents
        if self._since_start >= self.settings.reset_every:
            self._since_start = 0
        self._set_base(updated if self._since_start else self._start)

    # The log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the outer loss is made of."""
        if "loss" in logs:
            count, *sums = sum_over(self._sums).tolist()
            if count:
                logs |= {name: value / count for name, value in zip(NOTED, sums, strict=True)}
            self._sums.zero_()
        super().log(logs, start_time)

    # Validation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Update on the validation documents from the start, and average the outer loss and its parts over batches.

        Several processes share the stretches after which the base model starts anew.
        """
        held = self._parameters()
        since = self._since_start
        self.weighter.eval()
        found = [each for part in over_processes(self._validated, self._stretches(), shared=True) for each in part]
        self._set_base(held)
        self._since_start = since
        means = {name: sum(each[name] for each in found) / len(found) for name in found[0]}
        self.log({f"dev/{name}": value for name, value in means.items()})
        if self.on_validation is not None and self.args.should_save:
            self.on_validation(self.state.global_step)
        metrics = {f"eval_{name}": value for name, value in means.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _stretches(self) -> list[list[int]]:
        """Return the numbers of the validation batches, those together between which the base model goes on."""
        size = self.settings.documents
        each = -(-self.settings.reset_every // size)
        numbers = range(-(-len(self.dev) // size))
        return [list(numbers[first : first + each]) for first in range(0, len(numbers), each)]

    def _validated(self, numbers: list[int]) -> list[dict[str, float]]:
        self.reset_base()
        found = []
        for number in numbers:
            first = number * self.settings.documents
            last = min(first + self.settings.documents, len(self.dev))
            inputs: Any = self._prepare_inputs(self.data_collator([self.dev[place] for place in range(first, last)]))
            with torch.no_grad(), self.accelerator.autocast():
                weights = self.weighter(**inputs["documents"])
                outer = self._outer_loss(inputs, self.dev_locality.draw((0, number)))
                before = answer_nll(self.base, inputs["questions"])
                parts, given = self._updates(inputs["documents"], weights)
                updated = updated_parameters(self.base, parts, given, self._inner_optimizer(), parameters=self.names)
                self._set_base(updated)
                loss = outer(self.base) + self._norm_term(weights, inputs["documents"]["attention_mask"])
            values = {"loss": loss, "nll": outer.nll, "nll_gain": before - outer.nll, "kl": outer.divergence}
            found.append({name: value.item() for name, value in values.items()})
            self._carry_on(updated, last - first)
        return found

    def _determine_best_metric(self, metrics: Mapping[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics=dict(metrics), trial=trial)
        if is_best:
            self.state.best_global_step = self.state.global_step
            if self.best_folder is not None and self.args.should_save:
                self.weighter.save(self.best_folder)
        elif self._is_out_of_patience(self.state):
            self.control.should_training_stop = self.control.should_save = True
        return is_best

    def _is_out_of_patience(self, state: TrainerState) -> bool:
        best = state.best_global_step or 0
        since = sum("dev/loss" in entry and entry["step"] > best for entry in state.log_history)
        return self.settings.patience is not None and since >= self.settings.patience

    def is_over(self, state: TrainerState) -> bool:
        """Return whether a checkpoint with this state is the last one: resuming from it would train a step too many."""
        return state.global_step >= state.max_steps or self._is_out_of_patience(state)

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            self.weighter.save(Path(output_dir or self.checkpoints) / WEIGHTER)

    def _complete_checkpoint(self, folder: Path) -> None:
        values = {"since_start": torch.tensor(self._since_start)}
        if self._since_start:
            values |= {f"base/{name}": value.contiguous() for name, value in self._parameters().items()}
        save_file(values, folder / BASE_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.weighter.load_state_dict(load_file(folder / WEIGHTER / "model.safetensors"))
        values = load_file(folder / BASE_FILE, device=str(self.args.device))
        self._since_start = int(values["since_start"])
        if self._since_start:
            self._set_base({name: values[f"base/{name}"] for name in self.names})
