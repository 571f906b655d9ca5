"""The learned weights over time, as ``objective_weights.csv`` of a run: a row a log step.

Columns: ``step``, ``primary`` and ``auxiliary`` (the balance), a stage's values as ``data=task``, then the weight of
each objective under its name. A kill leaves at most a last line without an end, which readers leave out.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taskloom.auxiliary.stages import STAGES
from taskloom.auxiliary.weights import ObjectiveWeights
from taskloom.errors import RunError
from taskloom.storage import write_atomically

__all__ = ["HISTORY_FILE", "WeightHistory", "WeightLog", "read_weight_history"]

#: The file's name in a run folder.
HISTORY_FILE = "objective_weights.csv"

_FIRST = ("step", "primary", "auxiliary")


class WeightLog:
    """Writes the weights of one training, step after step.

    Args:
        path: the file; it is made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def append(self, step: int, weights: ObjectiveWeights) -> None:
        """Add the present weights as those of `step`, in one write."""
        stages = {
            f"{stage}={value}": share
            for stage, shares in weights.stage_probabilities().items()
            for value, share in shares.items()
        }
        objectives = zip((each.name for each in weights.space), weights.probabilities().tolist(), strict=True)
        values = {**dict(zip(_FIRST[1:], weights.balance(), strict=True)), **stages, **dict(objectives)}
        text = _line([step, *(f"{value:.6g}" for value in values.values())])
        if not self.path.exists():
            write_atomically(self.path, _line(["step", *values]) + text)
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text)

    def begin(self, step: int, weights: ObjectiveWeights) -> None:
        """Make ready to go on after `step`: drop later rows; a new file begins with the weights as they are."""
        self.truncate(step)
        if not self.path.exists():
            self.append(step, weights)

    def end(self, step: int, weights: ObjectiveWeights) -> None:
        """Make the weights after the last step the last row, whether that step was logged or not."""
        self.truncate(step - 1)
        self.append(step, weights)

    def truncate(self, step: int) -> None:
        """Drop the rows after `step`, and a half-written one: a resumed training writes them again."""
        if not self.path.exists():
            return
        lines = _complete_lines(self.path)
        header, rows = lines[:1], lines[1:]
        kept = [row for row in rows if int(row.partition(",")[0]) <= step]
        write_atomically(self.path, "".join(f"{line}\n" for line in [*header, *kept]))


@dataclass(frozen=True)
class WeightHistory:
    """The weights of a run over its steps.

    Attributes:
        steps: the logged steps, int ``[rows]``.
        primary, auxiliary: the balance, ``[rows]``.
        stages: by stage and value, ``[rows]``.
        objectives: by the objective's name, ``[rows]``.
    """

    steps: np.ndarray
    primary: np.ndarray
    auxiliary: np.ndarray
    stages: dict[str, dict[str, np.ndarray]]
    objectives: dict[str, np.ndarray]


def read_weight_history(path: Path) -> WeightHistory:
    """Read what a `WeightLog` wrote.

    Raises:
        RunError: there is no such file, or a line of it was changed.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: there are no weights of objectives over time")
    header, *rows = list(csv.reader(_complete_lines(path))) or [[]]
    if tuple(header[:3]) != _FIRST:
        raise RunError(f"{path}:1: expected the columns {', '.join(_FIRST)} first, found {', '.join(header[:3])}")
    values = np.array(list(_numbers(path, len(header), rows))).reshape(len(rows), len(header))
    columns = dict(zip(header, values.T, strict=True))
    stages: dict[str, dict[str, np.ndarray]] = {stage: {} for stage in STAGES}
    objectives: dict[str, np.ndarray] = {}
    for name in header[3:]:
        stage, _, value = name.partition("=")
        if stage in STAGES:
            stages[stage][value] = columns[name]
        else:
            objectives[name] = columns[name]
    return WeightHistory(columns["step"].astype(int), columns["primary"], columns["auxiliary"], stages, objectives)


def _numbers(path: Path, width: int, rows: Iterable[list[str]]) -> Iterator[list[float]]:
    for number, row in enumerate(rows, start=2):
        try:
            values = [float(value) for value in row]
        except ValueError as error:
            raise RunError(f"{path}:{number}: not a row of numbers: the file was changed ({error})") from error
        if len(values) != width:
            raise RunError(f"{path}:{number}: {len(values)} values under {width} columns: the file was changed")
        yield values


def _complete_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
