"""Small tasks of each kind."""

from taskloom.tasks.kinds import Kind
from taskloom.tasks.task import Task

INPUTS = {"span": ("question", "context")}


def a_task(kind: Kind, metrics: tuple[str, ...], labels: tuple[str, ...] | None = None, name: str = "a-task") -> Task:
    return Task(name=name, kind=kind, inputs=INPUTS.get(kind, ("text",)), metrics=metrics, labels=labels)
