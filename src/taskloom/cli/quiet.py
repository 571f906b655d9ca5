"""Silence for what other libraries print: the user of a verb reads taskloom's own lines."""

import os
import sys
import warnings

__all__ = ["hush_libraries"]


def hush_libraries() -> None:
    """Turn off transformers' progress bars, and notices that tell the user nothing (`python -W` keeps those)."""
    # Of C++ parts, which read this when torch is imported; among them one that every process repeats.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # PEFT, which then sets it right
