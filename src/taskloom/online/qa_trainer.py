"""The `transformers.Trainer` that tunes a language model on questions and keeps the best model by each metric."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState

from taskloom.callbacks import BatchSchedule
from taskloom.checkpoints import StagedTrainer
from taskloom.online.best_models import BestModels, load_trained, save_trained
from taskloom.online.encode import QACollator
from taskloom.online.qa import answer_losses
from taskloom.online.qa_history import METRICS, best_value, is_out_of_patience
from taskloom.online.qa_scores import score_questions
from taskloom.online.questions import Question
from taskloom.processes import world_size
from taskloom.shares import own_positions
from taskloom.tasks.encoding import IGNORED

__all__ = ["QATrainer"]


class QATrainer(StagedTrainer):
    """Train on the answers of questions, each token of an optimizer step alike.

    Several processes share each batch, and the dev questions, and do what one does.

    Args:
        model: a causal language model, plain or wrapped by PEFT; parameters that require gradients train.
        args: the Trainer's arguments; `eval_steps` and `save_steps` say when to evaluate and to save.
        train: questions to train on.
        dev: questions by whose scores the best models are chosen.
        tokenizer: of the model.
        collator: makes the batches.
        best: where the best models are kept, by each metric in `kept`.
        kept: the metrics.
        stop_on: the metric of early stopping.
        patience: evaluations without a better value; None never stops early.
        generate: let the model answer the dev questions (greedily), not only score the right answers.
        saves: whether there are checkpoints.
        callbacks: further callbacks.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train: Sequence[Question],
        dev: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        *,
        collator: QACollator,
        best: BestModels,
        kept: Sequence[str],
        stop_on: str,
        patience: int | None,
        generate: bool,
        saves: bool,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.network = model
        self.dev = dev
        self.tokenizer = tokenizer
        self.collator = collator
        self.best = best
        self.kept = kept
        self.stop_on = stop_on
        self.patience = patience
        self.generate = generate
        self.saves = saves
        self.batches = _ShuffledBatches(train, args.train_batch_size, args.gradient_accumulation_steps, args.seed)
        args.ddp_find_unused_parameters = True  # not all that a language model has is used in each batch
        super().__init__(
            model=model,
            args=args,
            train_dataset=list(train),  # pyright: ignore[reportArgumentType]
            eval_dataset=list(dev),  # pyright: ignore[reportArgumentType]
            data_collator=collator,
            callbacks=callbacks,
        )
        # `compute_loss` divides by the tokens of the whole step, which the Trainer counts for such models only.
        self.model_accepts_loss_kwargs = True
        self.add_callback(BatchSchedule(self.batches))

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of an epoch, or this process' share of each."""
        loader = DataLoader(
            self.train_dataset,  # pyright: ignore[reportArgumentType]
            batch_sampler=self.batches,
            collate_fn=self._collated_share,
        )
        # As of one process: what `accelerator.prepare` would share out are whole batches.
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def _collated_share(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        own, counts = own_positions(len(questions))
        batch = self.collator([questions[position] for position in own])
        if not counts:  # a batch of fewer questions than processes: this one's are those of another
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        return batch

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if world_size() > 1 and not (inputs["labels"] != IGNORED).any():  # nothing of its own; yet all take part
            return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.sum() * 0.0
        # The count is that of all processes, whose gradients are averaged.
        return answer_losses(model, inputs).sum() / num_items_in_batch * self.accelerator.num_processes

    # Evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the dev questions, keep the model where it is the best so far, and stop when patience is over."""
        scores = score_questions(
            self.network,
            self.tokenizer,
            self.dev,
            generate=self.generate,
            batch_size=self.args.eval_batch_size,
            collator=self.collator,
            shared=True,
        ).metrics()
        self.log({f"dev/{name}": value for name, value in scores.items()})
        history = evaluations(self.state)
        for metric in self.kept:
            found = best_value(history, metric)
            keeps = self.args.should_save or self.best.folder is None  # on disk once, in memory in each process
            if found is not None and found.step == self.state.global_step and keeps:
                self.best.keep(metric)
        if is_out_of_patience(history, self.stop_on, self.patience):
            self.control.should_training_stop = self.control.should_save = True
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def is_over(self, state: TrainerState) -> bool:
        """Return whether a checkpoint with this state is the last one: resuming from it would train a step too many."""
        return state.global_step >= state.max_steps or is_out_of_patience(
            evaluations(state), self.stop_on, self.patience
        )

    # Checkpoints

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        if self.saves:
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            save_trained(self.network, Path(output_dir or self.checkpoints))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load_trained(self.network, Path(resume_from_checkpoint))


def evaluations(state: TrainerState) -> list[Mapping[str, float]]:
    """Return the history of evaluations of a training: the step and the metrics of each."""
    names = [*METRICS, "max_f1", "top_k_exact_match", "prefix_exact_match"]
    return [
        {"step": entry["step"]} | {name: entry[f"dev/{name}"] for name in names if f"dev/{name}" in entry}
        for entry in state.log_history
        if "dev/nll" in entry
    ]


class _ShuffledBatches:
    """Batches in an order that follows from the seed and the epoch; those of one optimizer step by length.

    The gradient of a step does not depend on how its questions are divided into batches.
    """

    drop_last = False

    def __init__(self, questions: Sequence[Question], batch_size: int, accumulation: int, seed: int) -> None:
        self.lengths = np.array([len(question.text) + len(question.answer) for question in questions])
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.lengths))
        step = self.batch_size * self.accumulation
        for first in range(0, len(order), step):
            places = order[first : first + step]
            places = places[np.argsort(-self.lengths[places], kind="stable")]
            for start in range(0, len(places), self.batch_size):
                yield places[start : start + self.batch_size].tolist()
