"""The published splits of the question sets, by what each part is used for: ``presets.yaml``."""

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from taskloom.errors import DataError, did_you_mean

__all__ = ["list_presets", "role_source"]


def list_presets() -> list[str]:
    """Return the names of the presets."""
    return list(_presets())


def role_source(preset: str, role: str, *, hub: bool = False) -> dict[str, Any]:
    """Return where a part of a published question set is, as the arguments of `taskloom.online.formats.read_questions`.

    Args:
        preset: ``squad``, ``streamingqa`` or ``archivalqa``.
        role: ``qa_train``, ``qa_dev``, ``meta_train``, ``meta_dev`` or ``stream``.
        hub: read it from the hub; otherwise ``path`` is relative to the folder of data.

    Raises:
        DataError: there is no such preset or role, or the set is not on the hub.
    """
    presets = _presets()
    if preset not in presets:
        raise DataError(f"no question set '{preset}'.{did_you_mean(preset, presets)}")
    roles = dict(presets[preset])
    dataset = roles.pop("hub", None)
    if role not in roles:
        raise DataError(f"the question set '{preset}' has no part '{role}'.{did_you_mean(role, roles)}")
    source = dict(roles[role])
    split = source.pop("split", None)
    if not hub:
        return source
    if dataset is None:
        raise DataError(
            f"the question set '{preset}' is not on the hub: put its file at {source['path']} below a folder, and name "
            "that folder as data.dir"
        )
    return source | {"path": dataset, "format": "squad_hub", "split": split}


@cache
def _presets() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(files("taskloom.online").joinpath("presets.yaml").read_text("utf-8"))
