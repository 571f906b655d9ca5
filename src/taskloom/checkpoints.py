"""Checkpoints of `transformers.Trainer` that a kill at any moment cannot spoil, for any number of processes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from unittest.mock import patch

import torch
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import sort_checkpoints

from taskloom.errors import RunError
from taskloom.sharding import gather_for_calls, whole_optimizer
from taskloom.storage import PARTIAL_SUFFIX, named_failures

__all__ = ["StagedTrainer"]


class StagedTrainer(Trainer):
    """A `Trainer` whose checkpoints, ``checkpoint-<step>`` in its output folder, are complete or not there."""

    _staging: Path | None = None

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return Path(self.args.output_dir or "checkpoints")

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Write a checkpoint under a temporary name, rename it, and only then remove older ones."""
        final = self.checkpoints / f"checkpoint-{self.state.global_step}"
        staging = final.with_name(f".{final.name}{PARTIAL_SUFFIX}")
        keep, self.args.save_total_limit, self._staging = self.args.save_total_limit, None, staging
        try:
            with named_failures(final):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit, self._staging = keep, None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            written = staging / final.name
            self._complete_checkpoint(written)
            self.state.best_model_checkpoint = None  # it would name the temporary folder
            self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            if final.exists():
                final.replace(staging / "replaced")
            written.replace(final)
            shutil.rmtree(staging)
            for outdated in sort_checkpoints(str(self.checkpoints))[:-keep] if keep else []:
                shutil.rmtree(outdated, ignore_errors=True)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as the Trainer does; a model that will be sharded is loaded while it is whole."""
        if isinstance(resume_from_checkpoint, str) and self.is_fsdp_enabled:
            self._load_from_checkpoint(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.is_fsdp_enabled:
            gather_for_calls(prepared[0])
        return prepared

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model's files, from sharded parameters, too."""
        if self.is_fsdp_enabled:
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._unsharded():
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _readable(checkpoint), self._unsharded():
            super()._load_optimizer_and_scheduler(checkpoint)

    @contextmanager
    def _unsharded(self) -> Iterator[None]:
        """Let the Trainer write and read the files of one process, however the parameters are sharded."""
        if not self.is_fsdp_enabled:
            yield
            return
        with whole_optimizer(self.optimizer), patch.object(self, "is_fsdp_enabled", False):
            yield

    def is_over(self, state: TrainerState) -> bool:
        """Return whether a checkpoint with this state is the last one: resuming from it would train a step too many."""
        return state.global_step >= state.max_steps

    def restore(self, checkpoint: Path, state: TrainerState) -> None:
        """Take over a checkpoint, and its `state`, without training on from it."""
        self._load_from_checkpoint(str(checkpoint))
        self.state = state

    def _complete_checkpoint(self, folder: Path) -> None:
        """Add what else a checkpoint must hold; called in the main process only."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging is not None else super()._get_output_dir(trial)


@contextmanager
def _readable(checkpoint: str | None) -> Iterator[None]:
    """Say of files that cannot be read, as a failing disk leaves them, which checkpoint they belong to."""
    try:
        yield
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        if checkpoint is None or "out of memory" in str(error):
            raise
        raise RunError(
            f"{checkpoint}: is damaged ({str(error).partition(chr(10))[0]}). Remove it to go on from an earlier one"
        ) from error
