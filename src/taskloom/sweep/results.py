"""The results of a sweep, gathered from its trials' folders: one row a setting, mean and spread over its seeds."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taskloom.storage import write_atomically
from taskloom.sweep.space import Settings
from taskloom.sweep.trial import OUTCOME_FILE, SETTINGS_FILE

__all__ = ["Row", "gather", "write_results"]


@dataclass(frozen=True)
class Row:
    """A setting and what became of it.

    Attributes:
        settings: values by dotted field.
        status: ``ok``, ``pruned`` or ``failed``: the worst of its seeds.
        values: the metric by seed, of those that have one.
        reason: why a seed failed.
    """

    settings: Settings
    status: str
    values: dict[int, float]
    reason: str = ""

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None without a value."""
        return float(np.mean(list(self.values.values()))) if self.values else None

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds (divided by n - 1); None with fewer than two."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else None


def gather(sweep: Path, minimize: bool = False) -> list[Row]:
    """Return the settings of a sweep whose trials came to an end, the best first, failed ones last."""
    rows = [row for folder in sorted(sweep.glob("trials/*")) if (row := _row(folder)) is not None]
    sign = 1 if minimize else -1
    return sorted(rows, key=lambda row: (row.status != "ok", row.mean is None, sign * (row.mean or 0.0)))


def _row(folder: Path) -> Row | None:
    outcomes = {
        int(path.name.split("-")[1]): json.loads(path.read_text("utf-8"))
        for path in sorted(folder.glob(f"seed-*-{OUTCOME_FILE}"))
    }
    if not outcomes:
        return None
    statuses = [outcome["status"] for outcome in outcomes.values()]
    status = next((each for each in ("failed", "pruned") if each in statuses), "ok")
    values = {seed: outcome["value"] for seed, outcome in outcomes.items() if outcome["value"] is not None}
    reason = next((outcome["reason"] for outcome in outcomes.values() if outcome["reason"]), "")
    return Row(json.loads((folder / SETTINGS_FILE).read_text("utf-8")), status, values, reason)


def write_results(rows: Sequence[Row], sweep: Path) -> Path:
    """Write ``results.csv`` and ``results.parquet``, and return the first."""
    import pyarrow
    import pyarrow.parquet

    fields = list(dict.fromkeys(field for row in rows for field in row.settings))
    seeds = sorted({seed for row in rows for seed in row.values})
    columns = [*fields, "status", "mean", "std", *(f"seed_{seed}" for seed in seeds), "reason"]
    table = [
        {field: _cell(row.settings.get(field)) for field in fields}
        | {"status": row.status, "mean": row.mean, "std": row.std, "reason": row.reason}
        | {f"seed_{seed}": row.values.get(seed) for seed in seeds}
        for row in rows
    ]
    text = io.StringIO()
    writer: Any = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    path = sweep / "results.csv"
    write_atomically(path, text.getvalue())
    # A column of values of several types is text.
    data = {column: [row[column] for row in table] for column in columns}
    for column in fields:
        if len({type(value) for value in data[column] if value is not None}) > 1:
            data[column] = [None if value is None else str(value) for value in data[column]]
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(data), buffer)
    write_atomically(sweep / "results.parquet", buffer.getvalue().to_pybytes())
    return path


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
