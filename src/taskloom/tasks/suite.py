"""`TaskSuite`: the tasks of one model in a fixed order, with their data read and checked."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from taskloom.cache import cache_folder
from taskloom.errors import DataError, did_you_mean
from taskloom.evaluation.metrics import metric_complaint
from taskloom.tasks.archives import is_archive, unpack
from taskloom.tasks.examples import Examples, derive_labels, examples_from_inputs, read_examples, read_inputs
from taskloom.tasks.files import read_table, require_file
from taskloom.tasks.hold_out import hold_out
from taskloom.tasks.kinds import LABELLED_KINDS
from taskloom.tasks.presets import TaskSpec, resolve_tasks
from taskloom.tasks.sources import forget_files, read_splits
from taskloom.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from taskloom.tasks.features import MultiTaskDataset, TaskFeatures

__all__ = ["TaskSuite"]

#: Environment variable that names the cache folder.


class TaskSuite:
    """Tasks in order; the position of a task is its id in batches.

    Args:
        tasks: The tasks; names are unique.
        examples: (task name, split) to examples. A suite without examples still encodes inputs for prediction.
        cache_dir: Folder for tokenised features, by default ``$TASKLOOM_CACHE`` or ``~/.cache/taskloom``.

    Raises:
        DataError: Two tasks have the same name.
    """

    def __init__(
        self,
        tasks: Iterable[Task],
        examples: Mapping[tuple[str, str], Examples] | None = None,
        cache_dir: Path | str | None = None,
    ) -> None:
        self.tasks = tuple(tasks)
        _refuse_repeated_names(self.tasks)
        self._examples = dict(examples or {})
        self._indices = {task.name: index for index, task in enumerate(self.tasks)}
        self.cache_dir = cache_folder(cache_dir)

    @classmethod
    def load(
        cls,
        specs: Sequence[TaskSpec],
        data_dir: Path | str | None = None,
        base_dir: Path | str | None = None,
        cache_dir: Path | str | None = None,
        limits: Mapping[str, int] | None = None,
        seed: int = 0,
        split_validation_test: bool = False,
    ) -> "TaskSuite":
        """Read and check every split of every task.

        Args:
            specs: Tasks: preset ids ("glue/rte"), YAML files, mappings of fields (with "preset": what differs
                from it), `Task` objects.
            data_dir: Folder, .zip or .tar archive with the data; presets are then read in the benchmark's own
                folder layout instead of from the hub. Relative paths may not lead out of it.
            base_dir: Folder that relative paths start from otherwise; by default the current one.
            cache_dir: As for the class.
            limits: Split to the most examples that are kept of it; "dev" and "test" also hold for further splits
                that start so. The subset is random but the same for the same seed.
            seed: Chooses the subset.
            split_validation_test: Whether tasks with a `hold_out` make a test split of their dev or train split,
                before `limits`.

        Raises:
            DataError: One message on the first thing that is wrong with the tasks or their data.
        """
        cache = cache_folder(cache_dir)
        limits = limits or {}
        _check_limits(limits)
        folder = None if data_dir is None else Path(data_dir).expanduser()
        resolved = resolve_tasks(specs, Path(base_dir or "."), folder is not None, folder)
        if not resolved:
            raise DataError("there are no tasks: list at least one under `tasks`, for example glue/rte")
        _refuse_repeated_names([task for task, _ in resolved])
        _check_metrics([task for task, _ in resolved])
        root = None if folder is None else _data_root(folder, resolved, cache)

        tasks: list[Task] = []
        examples: dict[tuple[str, str], Examples] = {}
        try:
            for declared, base in resolved:
                task, splits = _read_task(declared, base, root)
                if split_validation_test:
                    task, splits = hold_out(task, splits)
                tasks.append(task)
                for split, read in splits.items():
                    limit = limits.get(split, limits.get(split.split("_")[0]))
                    examples[task.name, split] = _limited(read, limit, f"{seed}/{task.name}/{split}")
        finally:
            forget_files()
        return cls(tasks, examples, cache)

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, name: str) -> Task:
        return self.tasks[self.index(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """Task names in the order of their ids."""
        return tuple(self._indices)

    def index(self, name: str) -> int:
        """Return the id of a task.

        Raises:
            DataError: There is no such task.
        """
        if name not in self._indices:
            raise DataError(f"there is no task '{name}' here.{did_you_mean(name, self._indices)}")
        return self._indices[name]

    def examples(self, name: str, split: str) -> Examples:
        """Return the examples of one split of one task.

        Raises:
            DataError: There is no such task or it has no such split.
        """
        self.index(name)
        if (name, split) not in self._examples:
            splits = [known for task, known in self._examples if task == name]
            raise DataError(f"task '{name}' has no split '{split}'; it has {', '.join(splits) or 'no data'}")
        return self._examples[name, split]

    def features(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        split: str = "train",
        on_too_long: Literal["truncate", "error"] = "truncate",
        stride: int = 128,
        max_target_length: int = 128,
        decoder_only: bool = False,
    ) -> "MultiTaskDataset":
        """Return one split of all tasks as token ids, tokenised once and cached; arguments as `task_features`."""
        from taskloom.tasks.features import MultiTaskDataset

        settings = (split, tokenizer, max_length, on_too_long, stride, max_target_length, decoder_only)
        return MultiTaskDataset([self.task_features(name, *settings) for name in self.names])

    def task_features(
        self,
        name: str,
        split: str,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        on_too_long: Literal["truncate", "error"] = "truncate",
        stride: int = 128,
        max_target_length: int = 128,
        decoder_only: bool = False,
    ) -> "TaskFeatures":
        """Return one split of one task as token ids, tokenised once and cached.

        Args:
            name: The task.
            split: The split.
            tokenizer: A fast tokenizer.
            max_length: The most tokens of an item, special tokens included.
            on_too_long: What to do with longer examples: cut them (and log how many), or raise. Span tasks never
                cut their context but slide a window over it.
            stride: Tokens by which neighbouring windows of a span task overlap.
            max_target_length: The most tokens of a text2text answer, of tasks that do not say their own.
            decoder_only: Whether prompts and answers are for a model that reads them as one text.

        Raises:
            DataError: There is no such split, or an example is too long and `on_too_long` is "error".
            ValueError: The tokenizer is not a fast one.
        """
        from taskloom.tasks.caching import Tokenising, cached_features

        settings = Tokenising(tokenizer, max_length, on_too_long, stride, max_target_length, decoder_only)
        folder = self.cache_dir / "features"
        return cached_features(self[name], self.index(name), split, self.examples(name, split), settings, folder)

    def encode(
        self,
        name: str,
        inputs: Sequence[str | Sequence[str] | Mapping[str, Any]] | Examples,
        tokenizer: "PreTrainedTokenizerBase",
        max_length: int,
        on_too_long: Literal["truncate", "error"] = "truncate",
        stride: int = 128,
        max_target_length: int = 128,
        decoder_only: bool = False,
    ) -> "TaskFeatures":
        """Return new inputs of a task as items for the collator, without targets.

        Args:
            name: The task.
            inputs: For each example a text, a tuple of texts in the order of the task's `inputs`, or a mapping of
                columns to values (token tasks: a list of words), or what `read_inputs` returned.
            tokenizer: As for `task_features`, like the other arguments.
            max_length: Tokens.
            on_too_long: "truncate" or "error".
            stride: Tokens.
            max_target_length: Tokens.
            decoder_only: As for `task_features`.

        Raises:
            DataError: An example lacks a column, has the wrong number of texts, or is too long.
        """
        from taskloom.tasks.caching import Tokenising, build_features

        task = self[name]
        examples = inputs if isinstance(inputs, Examples) else examples_from_inputs(task, inputs)
        settings = Tokenising(tokenizer, max_length, on_too_long, stride, max_target_length, decoder_only)
        return build_features(task, self.index(name), "input", examples, settings)

    def read_inputs(self, name: str, path: Path | str) -> Examples:
        """Read a file of new inputs for a task, with the columns that its `inputs` name; a target is not needed.

        Raises:
            DataError: The file is missing, empty or malformed, or lacks a column.
        """
        task = self[name]
        return read_inputs(task, read_table(Path(path), delimiter=task.delimiter, quoting=task.quoting))


def _refuse_repeated_names(tasks: Sequence[Task]) -> None:
    names = [task.name for task in tasks]
    folded = [name.lower() for name in names]  # as the disks of Windows and macOS tell their files' names apart
    for name in names:
        if names.count(name) == 1 and folded.count(name.lower()) > 1:
            other = next(each for each in names if each != name and each.lower() == name.lower())
            raise DataError(
                f"the tasks '{name}' and '{other}' differ in capitals alone, and so would their files; "
                "give one of them another `name`"
            )
        if names.count(name) > 1:
            raise DataError(
                f"two tasks are named '{name}'; give one of them another `name`, "
                "a preset as for example {preset: glue/rte, name: rte2}"
            )


def _check_limits(limits: Mapping[str, int]) -> None:
    for split, limit in limits.items():
        if not split.startswith(("train", "dev", "test")):
            raise DataError(f"limits: '{split}' is not a split.{did_you_mean(split, ('train', 'dev', 'test'))}")
        if limit < 1:
            raise DataError(f"limits: '{split}' must be at least 1, found {limit}")


def _check_metrics(tasks: Iterable[Task]) -> None:
    for task in tasks:
        for metric in task.metrics:
            if complaint := metric_complaint(task, metric):
                raise DataError(f"task '{task.name}': {complaint}")


def _data_root(data_dir: Path, resolved: Sequence[tuple[Task, Path]], cache: Path) -> Path:
    """Return the folder of the data; of an archive, its single top folder unless the tasks' paths start with that."""
    if is_archive(data_dir):
        require_file(data_dir)
        root = unpack(data_dir, cache / "archives")
        top = [entry for entry in root.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
        paths = [path for task, _ in resolved for path in (task.path, *task.splits.values()) if path]
        if len(top) == 1 and top[0].is_dir() and not any(Path(path).parts[:1] == (top[0].name,) for path in paths):
            return top[0]
        return root
    if not data_dir.is_dir():
        raise DataError(f"the data folder {data_dir} does not exist; expected a folder or a .zip or .tar archive")
    return data_dir


def _read_task(task: Task, base_dir: Path, data_dir: Path | None) -> tuple[Task, dict[str, Examples]]:
    """Return the task with its labels and the splits that exist, and their examples."""
    splits, tables = read_splits(task, base_dir, data_dir)
    update: dict[str, Any] = {"splits": {split: splits[split] for split in tables}}
    if task.kind in LABELLED_KINDS and task.labels is None:
        if "train" not in tables:
            raise DataError(f"task '{task.name}' has no train split to find its labels in: list its `labels`")
        update["labels"] = derive_labels(task, tables["train"])
    task = task.model_copy(update=update)
    return task, {split: read_examples(task, table, split) for split, table in tables.items()}


def _limited(examples: Examples, limit: int | None, seed: str) -> Examples:
    if limit is None or len(examples) <= limit:
        return examples
    return examples.subset(sorted(random.Random(seed).sample(range(len(examples)), limit)))
