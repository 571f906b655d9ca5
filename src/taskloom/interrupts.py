"""Ctrl-C and `kill` at a moment that suits: what is under way is finished first, and a second one stops at once."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """Notes SIGINT and SIGTERM between `watch` and `restore`.

    Args:
        on_first: called when the first one comes and is put off.
        echo: seconds after the first in which another one counts as the same.

    Attributes:
        requested: whether one has come.
    """

    def __init__(self, on_first: Callable[[], None], echo: float = 0.0) -> None:
        self.on_first = on_first
        self.echo = echo
        self._first_at = 0.0
        self.requested = False
        self._waiting = False
        self._previous: dict[int, Any] = {}

    def watch(self) -> None:
        """Begin; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and time.monotonic() - self._first_at < self.echo:
            return
        if self.requested or self._waiting:
            raise KeyboardInterrupt
        self.requested, self._first_at = True, time.monotonic()
        self.on_first()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the first one stop at once in this context, in which nothing is under way."""
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._previous.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # set since then: see `processes.lost_processes`
                signal.signal(number, handler)
        self._previous.clear()
