"""Where taskloom keeps what it can compute again."""

import os
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder"]

CACHE_VARIABLE = "TASKLOOM_CACHE"


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """Return the folder for what can be computed again: `cache_dir`, ``$TASKLOOM_CACHE`` or ``~/.cache/taskloom``."""
    return Path(cache_dir or os.environ.get(CACHE_VARIABLE) or "~/.cache/taskloom").expanduser()
