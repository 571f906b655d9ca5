"""The folder of a saved weighter: what kind it is, its settings, its tensors."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from taskloom.errors import RunError

__all__ = ["read_settings", "read_tensors", "write_weighter"]

CONFIG, TENSORS = "config.json", "model.safetensors"

# The field of config.json that says that the folder holds a weighter, and of which kind.
_KIND = "taskloom_weighter"


def write_weighter(folder: Path, kind: str, settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a weighter's settings and tensors into an existing folder."""
    text = json.dumps({_KIND: kind, **settings}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / TENSORS)


def read_settings(folder: Path, kind: str) -> dict[str, Any]:
    """Read the settings of a weighter of this kind.

    Raises:
        RunError: there is no weighter of this kind; the message says what there is.
    """
    needed = f"A {kind} weighter's folder is needed, as its save() or a meta-train run writes it."
    file = folder / CONFIG
    if not file.is_file():
        found = f"holds no {CONFIG}" if folder.is_dir() else "does not exist"
        raise RunError(f"{folder}: {found}. {needed}")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file}: is not JSON ({error}). {needed}") from None
    found = settings.pop(_KIND, None) if isinstance(settings, dict) else None
    if found is None:
        model = settings.get("model_type") if isinstance(settings, dict) else None
        holds = f"a plain {model} model, not a weighter" if model else "no weighter"
        raise RunError(f"{folder}: holds {holds}. {needed}")
    if found != kind:
        raise RunError(f"{folder}: holds a {found} weighter. {needed}")
    return settings


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a weighter.

    Raises:
        RunError: the file is missing or damaged.
    """
    file = folder / TENSORS
    if not file.is_file():
        raise RunError(f"{folder}: holds no {TENSORS}, which has the weighter's parameters. Copy the whole folder.")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise RunError(f"{file}: cannot be read ({error}). It is damaged; copy the weighter's folder again.") from None
