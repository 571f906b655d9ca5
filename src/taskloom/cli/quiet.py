"""Silence for what other libraries print: the user of a verb reads taskloom's own lines."""

import sys
import warnings

__all__ = ["hush_libraries"]


def hush_libraries() -> None:
    """Turn off transformers' progress bars, and notices that tell the user nothing (`python -W` keeps those)."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # PEFT, which then sets it right
