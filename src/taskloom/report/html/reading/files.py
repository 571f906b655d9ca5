"""Files of a run, read so that a damaged one costs the report what it holds and no more.

What cannot be read is noted with file and line, and the rest of the run is shown.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Files", "Notes", "mapping", "number", "numbers"]


class Notes:
    """What a reader of the report must know about a run: a line each, and no line twice."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, line: str) -> None:
        self._lines[line] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


class Files:
    """The files of one folder.

    Args:
        folder: the folder.
        notes: takes a line for each file that is damaged.
    """

    def __init__(self, folder: Path, notes: Notes) -> None:
        self.folder = folder
        self.notes = notes

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def text(self, name: str) -> str | None:
        """Return a file's text; None without one."""
        path = self.folder / name
        try:
            return path.read_text("utf-8", errors="replace") if path.is_file() else None
        except OSError as error:
            self.notes.add(f"{path}: cannot be read: {error.strerror}")
            return None

    def json(self, name: str) -> dict[str, Any]:
        """Return a file's JSON object; an empty one if there is none, or it is damaged."""
        text = self.text(name)
        if text is None:
            return {}
        try:
            value = json.loads(text)
        except ValueError as error:
            self.notes.add(f"{self.folder / name}:{_line(error)}: not JSON: the file is damaged, and left out")
            return {}
        except RecursionError:
            self.notes.add(f"{self.folder / name}: nested too deeply: the file is left out")
            return {}
        if not isinstance(value, dict):
            self.notes.add(f"{self.folder / name}: expected a JSON object: the file is left out")
            return {}
        return value

    def json_lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of a file of JSON lines, without a last line that a kill cut short."""
        text = self.text(name)
        if text is None:
            return
        damaged: list[int] = []
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict):
                yield value
            else:
                damaged.append(number)
        if damaged:
            more = f" and {len(damaged) - 1} lines more" if len(damaged) > 1 else ""
            self.notes.add(f"{self.folder / name}:{damaged[0]}{more}: not a JSON object: damaged, and left out")

    def csv(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file by their column; rows of another width are noted and left out."""
        text = self.text(name)
        if text is None:
            return []
        try:
            header, *lines = list(csv.reader(io.StringIO(text.replace("\0", "")))) or [[]]
        except csv.Error as error:
            self.notes.add(f"{self.folder / name}: not CSV ({error}): the file is damaged, and left out")
            return []
        complete = lines if text.endswith("\n") else lines[:-1]
        for number, line in enumerate(complete, start=2):
            if len(line) != len(header):
                self.notes.add(
                    f"{self.folder / name}:{number}: {len(line)} values under {len(header)} columns: left out"
                )
        return [dict(zip(header, line, strict=True)) for line in complete if len(line) == len(header)]


def _line(error: ValueError) -> int:
    return error.lineno if isinstance(error, json.JSONDecodeError) else 1


def number(value: Any) -> float | None:
    """Return a finite number, from its text too; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def numbers(value: Any) -> dict[str, float]:
    """Return the finite numbers of a mapping, by name."""
    return {str(name): found for name, item in mapping(value).items() if (found := number(item)) is not None}


def mapping(value: Any) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}
