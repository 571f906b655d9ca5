"""Callbacks of trainings: the metrics file, the progress line, a clean stop on Ctrl-C, and the order of batches."""

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from taskloom.interrupts import Interrupts
from taskloom.processes import any_of, world_size
from taskloom.progress import Rate

__all__ = ["BatchSchedule", "GracefulStop", "MetricsWriter", "ProgressLine"]


class MetricsWriter(TrainerCallback):
    """Hand every log entry to `write`, with its step first."""

    def __init__(self, write: Callable[[dict[str, Any]], None]) -> None:
        self.write = write

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs and not {"total_flos", "train_loss"} & logs.keys():
            self.write({"step": state.global_step, **logs})


class BatchSchedule(TrainerCallback):
    """Tell the batch sampler its epoch, on a resumed run too, and evaluate after the last step.

    Several processes draw their own dropout masks.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if args.process_index:
            torch.manual_seed(args.seed + args.process_index)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.batch_sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


class GracefulStop(TrainerCallback):
    """On the first interrupt finish the step, write a checkpoint and end; on the second stop at once.

    Several processes end after the same step, whichever of them was interrupted.
    """

    def __init__(self, console: Console) -> None:
        message = "Stopping after this step and writing a checkpoint. Interrupt again to stop at once."
        # A launcher passes on the interrupt that the terminal sent to its processes as well.
        echo = 5.0 if world_size() > 1 else 0.0
        self._interrupts = Interrupts(lambda: console.print(message), echo)

    @property
    def requested(self) -> bool:
        """Whether an interrupt has come to any process, as of the last step."""
        return self._interrupts.requested

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._interrupts.watch()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if any_of(self.requested):
            self._interrupts.requested = True
            control.should_save = True
            control.should_training_stop = True

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        self._interrupts.restore()


class ProgressLine(TrainerCallback):
    """One line: steps done, rate, remaining time, latest loss and dev scores."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate("steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[latest]}"),
            console=console,
            transient=False,
            disable=not console.is_terminal,  # in a file or pipe a line that moves is many lines
        )
        self._latest: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.start()
            self.row = self.progress.add_task("train", total=state.max_steps, completed=state.global_step, latest="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.update(self.row, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            names = {"loss": "loss", "dev/mean": "dev mean", "dev/nll": "dev nll", "dev/f1": "dev F1"}
            self._latest |= {names[key]: logs[key] for key in names if key in logs}
            text = "  ".join(f"{name} {value:.3f}" for name, value in self._latest.items())
            self.progress.update(self.row, latest=text)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.stop()

    def stop(self) -> None:
        """End the line, also after an error."""
        if not self.progress.disable:  # before 14.3 rich ends a line that was never begun
            self.progress.stop()
