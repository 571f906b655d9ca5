"""What the trainings of this package have in common: the Trainer's arguments, beginning or going on, and running."""

from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.utils import logging as transformers_logging

from taskloom.callbacks import GracefulStop, MetricsWriter, ProgressLine
from taskloom.checkpoints import StagedTrainer
from taskloom.errors import RecipeError, RunError
from taskloom.metrics_log import MetricsLog
from taskloom.processes import lost_processes, on_main
from taskloom.storage import latest_checkpoint, remove_partial

__all__ = ["Beginning", "Precision", "begin", "run_trainer", "training_arguments"]

Precision = Literal["float32", "bf16", "fp16"]


class Beginning:
    """Where a training begins.

    Attributes:
        checkpoint: the one to go on from; None begins anew.
        state: its state.
        callbacks: the training log, the progress line and a clean stop, for the trainer.
    """

    def __init__(self, folder: Path | None, checkpoint: Path | None, console: Console | None) -> None:
        console = console or Console(quiet=True)
        self.checkpoint = checkpoint
        self.state = TrainerState()
        if checkpoint is not None:
            self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
            console.print(f"Resuming after step {self.state.global_step}.")
        self.stop, self.progress = GracefulStop(console), ProgressLine(console)
        self.callbacks: list[TrainerCallback] = [self.stop, self.progress]
        if folder is not None:
            log = MetricsLog(folder / "metrics.jsonl")
            on_main(lambda: log.truncate(-1 if checkpoint is None else self.state.global_step))
            self.callbacks.append(MetricsWriter(log.append))


def begin(folder: Path | None, resume: bool, console: Console | None) -> Beginning:
    """Return where to begin in a folder, and drop what was logged after that; without a folder, at the beginning.

    Raises:
        RunError: the folder holds a training already, and `resume` is off.
    """
    transformers_logging.disable_progress_bar()  # one line of progress is enough, and it is ours
    if folder is None:
        return Beginning(None, None, console)
    return Beginning(folder, on_main(lambda: _made_ready(folder, resume)), console)


def _made_ready(folder: Path, resume: bool) -> Path | None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    if checkpoint is not None and not resume:
        raise RunError(f"{folder}: holds a training already. Continue it with `resume`, or choose another folder.")
    remove_partial(folder)
    return checkpoint


def run_trainer(trainer: StagedTrainer, beginning: Beginning) -> TrainerState:
    """Train, or go on, and return the last state.

    Raises:
        KeyboardInterrupt: the training was interrupted; a checkpoint has been written.
    """
    trainer.remove_callback(PrinterCallback)
    checkpoint, state = beginning.checkpoint, beginning.state
    if checkpoint is not None and trainer.is_over(state):
        trainer.restore(checkpoint, state)
        return state
    try:
        with lost_processes("The same command with --resume goes on from the last checkpoint."):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    finally:
        beginning.progress.stop()
        beginning.stop.restore()
    if beginning.stop.requested:
        raise KeyboardInterrupt
    return trainer.state


def training_arguments(precision: Precision, **settings: Any) -> TrainingArguments:
    """Return arguments for a training at a constant rate, without weight decay, that evaluates and saves by steps.

    Raises:
        RecipeError: fp16 without a GPU.
    """
    on_cpu = not torch.accelerator.is_available()
    if precision == "fp16" and on_cpu:
        raise RecipeError("training.precision: fp16 needs a GPU, and there is none. Use float32 or bf16.")
    return TrainingArguments(
        **{
            "eval_strategy": "steps",
            "save_strategy": "steps",
            "weight_decay": 0.0,
            "lr_scheduler_type": "constant",
            "logging_nan_inf_filter": False,
            "bf16": precision == "bf16",
            "fp16": precision == "fp16",
            "use_cpu": on_cpu,
            "report_to": "none",
            "restore_callback_states_from_checkpoint": True,
            "remove_unused_columns": False,
            "disable_tqdm": True,
            **settings,
        }
    )
