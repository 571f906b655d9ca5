"""A run's affinity matrix and groups, without torch."""

from dataclasses import dataclass
from typing import Any

from taskloom.report.html.reading.files import number
from taskloom.report.html.reading.run import Run

__all__ = ["Affinity", "read_affinity"]

Matrix = list[list[float | None]]


@dataclass(frozen=True)
class Affinity:
    """Estimates of affinity in the order of the groups.

    Attributes:
        tasks: their names.
        groups: places in `tasks`, group by group; one group of all before `taskloom group`.
        grouped: whether there are groups.
        values, stderr, gain, gain_stderr: a row a task, a column a task that it is trained with; None is not known.
        alone: whether gains are over training alone; otherwise over the mean of the row.
        metric: what is estimated.
    """

    tasks: list[str]
    groups: list[list[int]]
    grouped: bool
    values: Matrix
    stderr: Matrix
    gain: Matrix
    gain_stderr: Matrix
    alone: bool
    metric: str

    def sure(self, i: int, j: int) -> bool:
        """Return whether a gain is more than two standard errors."""
        gain, error = self.gain[i][j], self.gain_stderr[i][j]
        return gain is not None and error is not None and abs(gain) > 2 * error


def read_affinity(run: Run) -> Affinity | None:
    """Return a run's affinity; None if it has none, or its file is damaged, which is noted."""
    name = "affinity/affinity.json"
    if not run.files.has(name):
        return None
    content = run.files.json(name)
    tasks = content.get("tasks")
    if not content:
        return None
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        run.notes.add(f"{run.path / name}: expected a list of task names under 'tasks': the file is left out")
        return None
    matrices: dict[str, Matrix] = {}
    for part in ("values", "stderr", "gain", "gain_stderr"):
        matrix = _matrix(content.get(part), len(tasks))
        if matrix is None:
            run.notes.add(
                f"{run.path / name}: expected {len(tasks)} rows of {len(tasks)} numbers under '{part}': the file is "
                "left out"
            )
            return None
        matrices[part] = matrix
    groups = _groups(run, tasks)
    order = [task for group in groups for task in group] if groups else tasks
    place = {task: number for number, task in enumerate(tasks)}
    rows = [place[task] for task in order]
    arranged = {part: [[matrix[i][j] for j in rows] for i in rows] for part, matrix in matrices.items()}
    sizes = [len(group) for group in groups] or [len(tasks)]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    blocks = [list(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]
    alone = content.get("order") != "higher"
    return Affinity(order, blocks, bool(groups), **arranged, alone=alone, metric=str(content.get("metric") or "loss"))


def _matrix(value: Any, size: int) -> Matrix | None:
    if not isinstance(value, list) or len(value) != size:
        return None
    if not all(isinstance(row, list) and len(row) == size for row in value):
        return None
    return [[number(item) for item in row] for row in value]


def _groups(run: Run, tasks: list[str]) -> list[list[str]]:
    name = "affinity/groups.json"
    groups = run.files.json(name).get("groups")
    if groups is None:
        return []
    if isinstance(groups, list) and all(isinstance(group, list) for group in groups):
        named = [task for group in groups for task in group]
        if len(named) == len(tasks) and {str(task) for task in named} == set(tasks):
            return groups
    run.notes.add(f"{run.path / name}: is no partition of the tasks of affinity.json: left out")
    return []
