"""The training log: one JSON object a line, appended while a run trains, cut back when it is resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskloom.errors import RunError
from taskloom.plain_json import to_json
from taskloom.storage import write_atomically

__all__ = ["MetricsLog"]


class MetricsLog:
    """A file of log entries, each with the ``step`` that it belongs to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append one entry. Values that are not finite are written as null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_json(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the entries, without a last line that a kill cut short; none without a file."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        # What follows the last line end is the start of an entry that was never completed.
        return [self._parse(number, line) for number, line in enumerate(lines[:-1], start=1)]

    def truncate(self, step: int) -> None:
        """Drop the entries after `step` (and a half-written last line): a resumed run writes them again."""
        kept = [entry for entry in self.read() if entry.get("step", 0) <= step]
        write_atomically(self.path, "".join(to_json(entry) + "\n" for entry in kept))

    def _parse(self, number: int, line: str) -> dict[str, Any]:
        try:
            return json.loads(line)
        except json.JSONDecodeError as error:
            raise RunError(f"{self.path}:{number}: not a JSON object: the file was changed") from error
