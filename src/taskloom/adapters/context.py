"""What the layers of one stack share during a forward pass, such as which task each example belongs to.

It reaches layers deep inside a model that knows nothing of tasks. A temporary hook around the forward pass would be too
short-lived: gradient checkpointing runs parts of a forward again during the backward pass, possibly after other
forwards. So a plain object keeps it, shared by all layers of one stack.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["PassContext", "TaskContext", "fit_to_batch"]

State = TypeVar("State")


def _backward_pass() -> int:
    """Return a number of the backward pass that is running in this thread, -1 outside of one."""
    return torch._C._current_graph_task_id()


class PassContext(Generic[State]):
    """The state of the forward pass that is running, or of the one that is being recomputed.

    A recomputed layer is told apart by its input: checkpointing keeps a layer's input for as long as it may run the
    layer again, so the input's storage names the forward pass that it came from.
    """

    def __init__(self) -> None:
        self._state: State | None = None
        self._started_in = _backward_pass()
        self._state_of_input: dict[StorageWeakRef, State | None] = {}

    def begin(self, state: State | None) -> None:
        """Begin a forward pass."""
        self._state = state
        if torch.compiler.is_compiling():
            return
        self._started_in = _backward_pass()
        for gone in [storage for storage in self._state_of_input if storage.expired()]:
            del self._state_of_input[gone]

    def enter_layer(self, hidden: Tensor) -> None:
        """Note, or recognise, the forward pass that a layer with this input belongs to."""
        if torch.compiler.is_compiling() or is_functorch_wrapped_tensor(hidden):
            return  # there is no checkpointing to recognise in a compiled or functionally transformed model
        storage = StorageWeakRef(hidden.untyped_storage())
        if _backward_pass() == self._started_in:
            self._state_of_input[storage] = self._state
        elif storage in self._state_of_input:
            self._state = self._state_of_input[storage]
        else:
            raise RuntimeError(
                "A layer is being recomputed in the backward pass, but which forward pass it belongs to, and so its "
                "tasks, cannot be told: its input was moved or copied since. Use gradient checkpointing without "
                "offloading, or none."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a model begin outside of any forward pass."""
        of_one_pass = vars(type(self)())
        return {name: value for name, value in vars(self).items() if name not in of_one_pass}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(type(self)()), **state)


def fit_to_batch(task: Tensor | None, batch: int, expands: bool) -> Tensor:
    """Return `task`, LongTensor[entries], if it fits a batch of so many rows.

    Args:
        task: task ids, one a row; or, where `expands` says that a row may stand for several, a divisor as many; or one
            for all.
        batch: rows.
        expands: whether beams or samples expand the batch.

    Raises ValueError if no `task` was given or if it does not fit the batch.
    """
    if task is None:
        raise ValueError("The forward pass needs `task=`, a LongTensor[batch] with the task number of each example.")
    if len(task) != batch and (not (expands or len(task) == 1) or batch % len(task)):
        raise ValueError(f"`task` has {len(task)} entries, but the batch has {batch} examples.")
    return task


class TaskContext(PassContext[Tensor]):
    """The task ids of a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._generating: Tensor | None = None

    def start(self, task: Tensor | None) -> None:
        """Begin a forward pass over examples of `task`, LongTensor[batch]; None within `generation` keeps its ids."""
        self.begin(task)

    @contextmanager
    def generation(self, task: Tensor | None) -> Iterator[None]:
        """Use `task` for all forward passes of a generation; its ids are repeated where beams expand the batch."""
        self._generating = task
        try:
            yield
        finally:
            self._generating = None

    def ids(self, batch: int, device: torch.device) -> Tensor:
        """Return the task of each of `batch` examples, LongTensor[batch].

        Raises ValueError if no `task` was given or if it does not fit the batch.
        """
        task = self._state if self._state is not None else self._generating
        task = fit_to_batch(task, batch, expands=self._generating is not None)
        return task.repeat_interleave(batch // len(task)).to(device)
