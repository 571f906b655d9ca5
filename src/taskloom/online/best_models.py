"""The best model so far by each of several metrics, kept on disk or, of a training without a folder, in memory."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from taskloom.errors import RunError
from taskloom.storage import staged_folder

__all__ = ["TRAINED_FILE", "BestModels", "load_trained", "save_trained", "trained_parameters"]

#: The parameters that train, of a checkpoint or of a model wrapped by PEFT.
TRAINED_FILE = "trained.safetensors"


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by name; tied ones once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write the parameters that train to `TRAINED_FILE`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: value.detach().contiguous() for name, value in trained_parameters(model).items()}
    save_file(values, folder / TRAINED_FILE)


def load_trained(model: nn.Module, folder: Path) -> None:
    """Read what `save_trained` has written.

    Raises:
        RunError: it belongs to another model, or other parameters train.
    """
    _copy(load_file(folder / TRAINED_FILE), model, folder)


@torch.no_grad()
def _copy(values: dict[str, Tensor], model: nn.Module, source: Path | str) -> None:
    for name, parameter in trained_parameters(model).items():
        if name not in values or values[name].shape != parameter.shape:
            found = f"of shape {[*values[name].shape]}" if name in values else "missing"
            raise RunError(
                f"{source}: '{name}' is {found}, expected shape {[*parameter.shape]}: it was made with another model, "
                "or with other parameters to train. Choose another folder."
            )
        parameter.copy_(values[name])


class BestModels:
    """Keeps a model as it is at some moments, and brings it back.

    On disk a kept model is a folder ``best-<metric>`` that `AutoModelForCausalLM.from_pretrained` loads, with the
    tokenizer; adapters of PEFT are merged into it. In memory only the parameters that train are kept.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, folder: Path | None) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.folder = folder
        self._in_memory: dict[str, dict[str, Tensor]] = {}

    def path(self, metric: str) -> Path:
        """Return where the best model by `metric` is, on disk."""
        assert self.folder is not None
        return self.folder / f"best-{metric.replace('_', '-')}"

    def keep(self, metric: str) -> None:
        """Keep the model as it is, instead of the one kept for `metric` before."""
        if self.folder is None:
            self._in_memory[metric] = {
                name: value.detach().to("cpu", copy=True) for name, value in trained_parameters(self.model).items()
            }
            return
        with staged_folder(self.path(metric)) as folder:
            if isinstance(self.model, PeftModel):
                merged: Any = copy.deepcopy(self.model).merge_and_unload()  # to unmerge would not be exact
                merged.save_pretrained(folder)
                save_trained(self.model, folder)
            else:
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(str(folder))

    def restore(self, metric: str) -> None:
        """Give the model the parameters that it had when it was last kept for `metric`.

        Raises:
            RunError: the kept model is another one.
        """
        if self.folder is None:
            _copy(self._in_memory[metric], self.model, metric)
        elif isinstance(self.model, PeftModel):
            load_trained(self.model, self.path(metric))
        else:
            kept = AutoModelForCausalLM.from_pretrained(self.path(metric), dtype=self.model.dtype)
            _copy(dict(kept.named_parameters()), self.model, self.path(metric))
