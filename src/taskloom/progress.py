"""A line of progress for long work that is not training: how much is done, how fast, how long it will take."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

__all__ = ["Rate", "counted"]


class Rate(ProgressColumn):
    """Units a second, or seconds a unit when there are fewer."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text(f"-- {self.unit}/s")
        return Text(f"{speed:.1f} {self.unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{self.unit.removesuffix('s')}")


@contextmanager
def counted(console: Console | None, title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Show one line of progress and yield what advances it by a number of units.

    No console shows nothing, nor does one that writes into a file or pipe; of a stream the total may be unknown (None).
    """
    if console is None or not console.is_terminal:
        yield lambda _done: None
        return
    progress = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(unit),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        row = progress.add_task(title, total=total)
        yield lambda done: progress.update(row, advance=done)
