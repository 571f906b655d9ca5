"""Multi-task training on `transformers.Trainer`.

The Trainer brings devices, mixed precision, accumulation, schedules, trackers and callbacks. This subclass adds what
many tasks need: batches by a sampling strategy, the choice of uncertain examples, the loss as a mean over tasks,
each task's loss and share in the log, evaluation task by task, gradient aggregation, and checkpoints that a kill at
any moment cannot spoil. Several processes (`torchrun`, `accelerate launch`) share each batch and make the steps of one.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import IntervalStrategy

from taskloom.aggregation import aggregate_gradients, find_aggregator
from taskloom.callbacks import BatchSchedule
from taskloom.checkpoints import StagedTrainer
from taskloom.evaluation.generations import GENERATIONS_FOLDER, Generations, predicted_answers_file
from taskloom.generation import TextInference
from taskloom.generative import GenerativeModel
from taskloom.inference import Inference, Scores, dev_splits, mean_score, split_title
from taskloom.model import MultiTaskModel
from taskloom.processes import main_first, sum_over, world_size
from taskloom.sampling import Proportional, Sampling, TaskBatchSampler, Uncertainty
from taskloom.sharding import is_sharded, whole_weights
from taskloom.shares import WEIGHT, SharedBatches, collate_share, example_weights, own_positions
from taskloom.storage import staged_folder, write_atomically
from taskloom.tasks import MultiTaskCollator, TaskSuite
from taskloom.tasks.collate_text import Text2TextCollator
from taskloom.uncertainty import UncertaintyScorer, take

__all__ = ["MultiTaskTrainer"]

SAMPLING_FILE = "sampling.safetensors"
SCORES_FILE = "scores.json"


class MultiTaskTrainer(StagedTrainer):
    """Train a `MultiTaskModel` or a `GenerativeModel` on a `TaskSuite`.

    Args:
        model: the model of the suite's tasks.
        args: the Trainer's arguments; `metric_for_best_model` is ``"mean"``, the mean of the tasks' primary metrics.
        suite: the tasks and their data.
        tokenizer: the encoder's tokenizer.
        batch_size: examples of a batch, of all processes together; None takes as many as `args` asks of each process.
        sampling: which examples come next.
        max_length: longest input, in tokens.
        max_target_length: longest answer of text2text tasks that do not say their own, in tokens.
        on_too_long: ``"truncate"`` longer inputs or raise an ``"error"``.
        mixed: whether a batch may hold examples of several tasks.
        group_by_length: batch examples of similar length.
        loss: ``"tasks"``, the mean over the tasks present in the batch, or ``"examples"``, over its examples.
        aggregator: name of a `torchjd` aggregator that combines the tasks' gradients instead of their mean.
        head_learning_rate: learning rate of the heads; None takes that of the encoder.
        patience: stop after this many evaluations without a better mean score; None never stops early.
        evaluate_every: optimizer steps from one evaluation to the next; None evaluates once an epoch.
        checkpoint_every: optimizer steps from one checkpoint to the next; None writes one at each evaluation.
        best_folder: where the best model so far is kept, with its dev scores.
        answers_folder: where generated answers are kept: those of the best model so far (`generations`), and of
            question answering the candidates of each evaluation (`<step>predicted_answers.json`).
        stride: tokens by which neighbouring windows over a context overlap.
        pad_to: pad every batch to this many tokens; None pads to the longest of the batch.
        callbacks: further Trainer callbacks.

    Raises:
        UserError: an unknown aggregator, or data that the suite refuses.
    """

    def __init__(
        self,
        model: MultiTaskModel | GenerativeModel,
        args: TrainingArguments,
        suite: TaskSuite,
        tokenizer: Any,
        *,
        batch_size: int | None = None,
        sampling: Sampling | None = None,
        max_length: int = 128,
        max_target_length: int = 128,
        on_too_long: Literal["truncate", "error"] = "truncate",
        mixed: bool = True,
        group_by_length: bool = True,
        loss: Literal["tasks", "examples"] = "tasks",
        aggregator: str | None = None,
        head_learning_rate: float | None = None,
        patience: int | None = None,
        evaluate_every: int | None = None,
        checkpoint_every: int | None = None,
        best_folder: Path | None = None,
        answers_folder: Path | None = None,
        stride: int = 128,
        pad_to: int | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.network = model
        self.suite = suite
        self.sampling = sampling or Proportional()
        self.mean_loss: Literal["tasks", "examples"] = loss
        self.aggregator = find_aggregator(aggregator) if aggregator else None
        self.patience = patience
        self.best_folder = best_folder
        self.answers_folder = answers_folder
        self.head_learning_rate = head_learning_rate
        layout: dict[str, Any] = {
            "max_length": max_length,
            "on_too_long": on_too_long,
            "stride": stride,
            "max_target_length": max_target_length,
            "decoder_only": model.layout == "decoder",
        }
        with main_first():  # who comes later reads the first one's cache
            self.dev_features = {
                (task.name, split): suite.task_features(task.name, split, tokenizer, **layout)
                for task, split in dev_splits(suite)
            }
            train_features = suite.features(tokenizer, **layout)
        if isinstance(model, GenerativeModel):
            collator = Text2TextCollator(tokenizer, model.layout == "decoder", pad_to)
            self.inference: Inference = TextInference(
                model, tokenizer, args.eval_batch_size, max_target_length, shared=True
            )
        else:
            collator = MultiTaskCollator(tokenizer, suite, pad_to=pad_to)
            self.inference = Inference(model, collator, args.eval_batch_size, shared=True)
        self.batch_sampler = TaskBatchSampler(
            self.sampling,
            train_features.sizes,
            batch_size or args.train_batch_size * world_size(),
            lengths=train_features.lengths,
            group_by_length=group_by_length,
            mixed=mixed,
            seed=args.seed,
        )
        # Columns such as `task` are ours and must reach the model.
        args.remove_unused_columns = False
        # What a batch has no use for, such as the head of a task that is not in it, differs from process to process.
        args.ddp_find_unused_parameters, args.ddp_broadcast_buffers = True, False
        args.eval_strategy = args.save_strategy = IntervalStrategy.STEPS
        args.eval_steps = evaluate_every or math.ceil(len(self.batch_sampler) / args.gradient_accumulation_steps)
        args.save_steps = checkpoint_every or args.eval_steps
        args.metric_for_best_model, args.greater_is_better = "mean", True
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_features,
            # Only tells the Trainer that there is something to evaluate; `evaluate` knows what.
            eval_dataset={split_title(*key): features for key, features in self.dev_features.items()},
            data_collator=collator,
            callbacks=callbacks,
        )
        self.add_callback(BatchSchedule(self.batch_sampler))
        self.scorer = UncertaintyScorer(
            list(suite),
            {
                position: suite.examples(task.name, "train").targets or []
                for position, task in enumerate(suite)
                if task.kind == "regression"
            },
            args.device,
        )
        self._scores: Scores = {}
        self._generations = Generations()
        self._loss_sums = torch.zeros(len(suite), device=args.device)
        self._counts = torch.zeros(len(suite), device=args.device)

    # Batches

    def get_train_dataloader(self) -> DataLoader:
        """Return batches, or pools of candidates, in the order of the sampling strategy.

        Of several processes each has its share of a batch, but the whole of a pool, from which all choose together.
        """
        dataset, collate = self.train_dataset, self.data_collator
        if self._is_shared and not isinstance(self.sampling, Uncertainty):
            dataset = SharedBatches(dataset, self.mean_loss)  # pyright: ignore[reportArgumentType]
            collate = functools.partial(collate_share, collate)
        loader = DataLoader(
            dataset,  # pyright: ignore[reportArgumentType]
            batch_sampler=self.batch_sampler,
            collate_fn=collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
        )
        # As of one process: what `accelerator.prepare` would share out are whole batches.
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    @property
    def _is_shared(self) -> bool:
        return world_size() > 1

    def _own_share(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return this process's share of a whole batch, with the examples' weights."""
        weights = example_weights(inputs["task"], len(self.suite), self.mean_loss)
        own, count = own_positions(len(weights))
        positions = torch.tensor(own, device=weights.device)
        return {**take(inputs, positions), WEIGHT: weights[positions] * count}

    # One step

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Give the heads their own learning rate if they have one."""
        optimizer = super().create_optimizer(model)
        if self.head_learning_rate is not None:
            heads = {id(parameter) for parameter in self.head_parameters()}
            for group in list(optimizer.param_groups):
                own = [parameter for parameter in group["params"] if id(parameter) in heads]
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in heads]
                optimizer.add_param_group({**group, "params": own, "lr": self.head_learning_rate})
        return optimizer

    def head_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that have the heads' learning rate."""
        return self.network.head_parameters()

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Tensor | Any], num_items_in_batch: Any = None
    ) -> Tensor:
        inputs = self._prepare_inputs(inputs)
        if isinstance(self.sampling, Uncertainty):
            size = self.batch_sampler.batch_size
            each = self.sampling.guaranteed(len(self.suite), size)
            # Outside of a wrapper for several processes: not all score equally many candidates.
            scoring = self.network if self._is_shared else model
            inputs = self.scorer.select(scoring, inputs, size, self.args.eval_batch_size, each)
            if self._is_shared:
                inputs = self._own_share(inputs)
        if self.aggregator is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        with self.compute_loss_context_manager():
            # Outside of such a wrapper here, too: the rows are added up, not the gradient.
            outputs = self._outputs(self.network if self._is_shared else model, inputs)
        self._observe(outputs)
        return aggregate_gradients(
            self.network,
            outputs,
            self.aggregator,
            self.current_gradient_accumulation_steps,
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        outputs = self._outputs(model, inputs)
        self._observe(outputs)
        if WEIGHT in inputs:
            # What the Trainer does with the processes' gradients and losses is a mean.
            loss = (inputs[WEIGHT] * outputs["example_loss"]).sum() * world_size()
        else:
            loss = outputs["loss"] if self.mean_loss == "tasks" else outputs["example_loss"].mean()
        return (loss, outputs) if return_outputs else loss

    def _outputs(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the model; examples of weight 0 are in no task's sum and count."""
        outputs = model(**{name: value for name, value in inputs.items() if name != WEIGHT})
        if WEIGHT in inputs:
            counted = (inputs[WEIGHT] > 0).to(outputs["example_loss"].dtype)
            zeros = torch.zeros_like(outputs["counts"])
            outputs["counts"] = zeros.index_add(0, inputs["task"], counted)
            outputs["loss_sums"] = zeros.index_add(0, inputs["task"], counted * outputs["example_loss"])
        return outputs

    def _observe(self, outputs: dict[str, Tensor]) -> None:
        """Count losses and examples task by task, on the device: nothing is read back before the next log."""
        sums, counts = sum_over(torch.stack([outputs["loss_sums"].detach(), outputs["counts"].detach()]))
        self._loss_sums += sums
        self._counts += counts
        self.scorer.observe(sums, counts)

    # The log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each task's mean loss and share of the examples since the last log."""
        if "loss" in logs:
            counts = self._counts.tolist()
            means = (self._loss_sums / self._counts.clamp(min=1)).tolist()
            for name, count, mean in zip(self.suite.names, counts, means, strict=True):
                logs[f"share/{name}"] = count / max(sum(counts), 1)
                if count:
                    logs[f"loss/{name}"] = mean
            self._loss_sums.zero_()
            self._counts.zero_()
        super().log(logs, start_time)

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the dev splits of every task.

        Returns:
            ``eval_mean``, the mean over tasks of the primary metric, and ``eval_<task>_<metric>``.
        """
        self._generations = Generations()
        scores, losses = self.inference.score(self.suite, self.dev_features, self._generations)
        self._scores = scores
        if self.answers_folder is not None and self.args.should_save:
            path = self.answers_folder / predicted_answers_file(self.state.global_step)
            self._generations.write_predicted_answers(path)
        mean = mean_score(self.suite, scores)
        named = {f"{title}/{metric}": value for title, task in scores.items() for metric, value in task.items()}
        named |= {f"{title}/loss": value for title, value in losses.items()}
        self.log({"dev/mean": mean} | {f"dev/{name}": value for name, value in named.items()})
        metrics = {"eval_mean": mean} | {f"eval_{name.replace('/', '_')}": value for name, value in named.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _determine_best_metric(self, metrics: Mapping[str, float], trial: Any) -> bool:
        is_best = super()._determine_best_metric(metrics=dict(metrics), trial=trial)
        if is_best:
            self.state.best_global_step = self.state.global_step
            weights = self._whole_weights()
            if self.best_folder is not None and self.args.should_save:
                with staged_folder(self.best_folder) as folder:
                    self.network.save(folder, weights)
                    write_atomically(folder / SCORES_FILE, json.dumps(self._scores, indent=2))
            if self.answers_folder is not None and self.args.should_save and len(self._generations):
                self._generations.write(self.answers_folder / GENERATIONS_FOLDER)
        else:
            self.control.should_training_stop |= self._is_out_of_patience(self.state)
        return is_best

    def _is_out_of_patience(self, state: TrainerState) -> bool:
        best = state.best_global_step or 0
        since = sum("dev/mean" in entry and entry["step"] > best for entry in state.log_history)
        return self.patience is not None and since >= self.patience

    def is_over(self, state: TrainerState) -> bool:
        """Return whether a checkpoint with this state is the last one: resuming from it would train a step too many."""
        return state.global_step >= state.max_steps or self._is_out_of_patience(state)

    @property
    def best_step(self) -> int:
        """The step of the best model, or the last one if nothing was evaluated."""
        return self.state.best_global_step or self.state.global_step

    # Checkpoints

    def _complete_checkpoint(self, folder: Path) -> None:
        save_file(self.scorer.state_dict(), folder / SAMPLING_FILE)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        weights = self._whole_weights()
        if self.args.should_save:
            self.network.save(Path(output_dir or self.checkpoints), weights)

    def _whole_weights(self) -> dict[str, Tensor] | None:
        model = self.network
        return whole_weights(model, model.backbone if isinstance(model, GenerativeModel) else model.encoder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if is_sharded(self.network):
            return  # `StagedTrainer.train` has loaded it before it was sharded
        folder = Path(resume_from_checkpoint)
        self.network.load(folder)
        self.scorer.load_state_dict(load_file(folder / SAMPLING_FILE))
