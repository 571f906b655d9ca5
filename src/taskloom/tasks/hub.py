"""Reading a Hugging Face data set, from the hub or from a local folder that is laid out like one."""

import logging
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError

from taskloom.errors import DataError, did_you_mean
from taskloom.tasks.columns import ColumnReader, InputsReader
from taskloom.tasks.files import Table
from taskloom.tasks.task import Task

__all__ = ["read_dataset"]

logger = logging.getLogger(__name__)

#: The branch on which the hub keeps each subset of a data set as Parquet files, in a folder of the subset's name. It
#: serves data sets that otherwise are Python code, which `datasets` no longer runs.
PARQUET_EXPORT = "refs/convert/parquet"
#: Names under which a data set's splits are looked for when the task names none.
USUAL_NAMES = {"train": ("train",), "dev": ("validation", "dev", "valid", "val"), "test": ("test",)}


def read_dataset(task: Task, folder: Path | None = None) -> tuple[dict[str, str], dict[str, Table]]:
    """Return `Task.splits`, found by the usual names if empty, and the rows of every split that exists.

    Class numbers become class names, and the number -1, which stands for a hidden class, becomes null.

    Args:
        task: A task with a `dataset`.
        folder: The local folder, if `task.dataset` names one.

    Raises:
        DataError: The data set cannot be reached or read, or lacks a split that is not optional.
    """
    loaded = _load(task, folder)
    splits = _split_names(task, loaded)
    tables = {}
    for split, name in splits.items():
        # Of a sum of slices such as "train[:90%]+unverified".
        needed = [part.partition("[")[0].strip() for part in name.split("+")]
        unknown = next((part for part in needed if part not in loaded), None)
        if unknown is None:
            rows = loaded[name] if name in loaded else _load(task, folder, name)
            tables[split] = _table(task, rows, f"{_title(task)}, split {name}")
        elif split in task.optional_splits:
            logger.warning("task '%s' has no %s split: %s has no split '%s'", task.name, split, _title(task), unknown)
        else:
            raise DataError(
                f"task '{task.name}': {_title(task)} has no split '{unknown}'.{did_you_mean(unknown, map(str, loaded))}"
            )
    return splits, tables


def _load(task: Task, folder: Path | None, split: str | None = None) -> Any:
    revision = None if folder else task.revision
    name, data_dir = task.subset, None
    if revision == PARQUET_EXPORT:
        name, data_dir = None, task.subset or "default"
    try:
        return datasets.load_dataset(
            str(folder or task.dataset), name, data_dir=data_dir, split=split, revision=revision
        )
    except (OSError, ValueError, RuntimeError, DatasetsError) as failure:
        reason = str(failure).partition("\n")[0].rstrip(".")
        advice = (
            "check its files and the task's `subset`"
            if folder
            else "check the id, `subset` and `revision`, the network, and that HF_HUB_OFFLINE is not set; "
            "or give a folder of data"
        )
        raise DataError(f"task '{task.name}': cannot load {_title(task)}: {reason}; {advice}") from None


def _title(task: Task) -> str:
    return f"data set {task.dataset}" + (f" ({task.subset})" if task.subset else "")


def _split_names(task: Task, loaded: datasets.DatasetDict) -> dict[str, str]:
    if task.splits:
        return task.splits
    found = {
        split: name
        for split, names in USUAL_NAMES.items()
        if (name := next((name for name in names if name in loaded), None))
    }
    if not found:
        raise DataError(
            f"task '{task.name}': {_title(task)} has the splits {', '.join(map(str, loaded))}; say under `splits` "
            "which is train and which dev"
        )
    return found


def _table(task: Task, rows: datasets.Dataset, source: str) -> Table:
    """Return the columns that the task reads; data sets may have others that are large."""
    columns = InputsReader(task).columns
    named = [task.target, task.choices if isinstance(task.choices, str) else None, task.spans, task.id, *task.where]
    columns += [ColumnReader(name, task) for name in named if name is not None]
    wanted = {path for column in columns for path in column.paths} | set(task.explode)
    wanted |= {path.partition(".")[0] for path in wanted}
    kept = rows.select_columns([name for name in rows.column_names if name in wanted])
    numbers = range(1, len(kept) + 1)
    for name, values in task.where.items():
        # Here, too, before the rows are read: a data set of several parts may be large.
        if name in kept.column_names and kept.features[name].dtype == "string":
            found = [index for index, value in enumerate(kept[name]) if value in values]
            kept, numbers = kept.select(found), [numbers[index] for index in found]
    records: list[dict[str, Any]] = kept.to_list()
    classes = {}
    for name, feature in kept.features.items():
        labels = feature if isinstance(feature, datasets.ClassLabel) else getattr(feature, "feature", None)
        if isinstance(labels, datasets.ClassLabel):
            classes[name] = tuple(labels.names)
            for record in records:
                record[name] = _class_names(record[name], labels.names)
    return Table(source, "row", tuple(rows.column_names), list(zip(numbers, records, strict=True)), classes)


def _class_names(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_class_names(item, names) for item in value]
    return None if value is None or value < 0 else names[value]
