"""Where the splits of a task are, and reading them: a data folder, the recipe's folder or a Hugging Face data set."""

import logging
import os
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from taskloom.errors import DataError
from taskloom.tasks.files import EXTENSIONS, Table, join_tables, read_table, require_file
from taskloom.tasks.task import Task

__all__ = ["forget_files", "read_splits"]

logger = logging.getLogger(__name__)

#: File names, less extension, by which the splits of a `Task.path` are found.
SPLIT_STEMS = {
    "train": ("train",),
    "dev": ("dev", "val", "valid", "validation", "dev_matched"),
    "dev_mismatched": ("dev_mismatched",),
    "test": ("test", "test_matched"),
    "test_mismatched": ("test_mismatched",),
}


def read_splits(task: Task, base_dir: Path, data_dir: Path | None) -> tuple[dict[str, str], dict[str, Table]]:
    """Return `Task.splits`, found by the usual names if empty, and the rows of every split that exists.

    Args:
        task: The task.
        base_dir: Folder that relative paths start from when there is no `data_dir`.
        data_dir: Folder that relative paths start from, and may not leave.

    Raises:
        DataError: A split that is not optional is missing or unreadable, or a path leads out of `data_dir`.
    """
    if task.dataset is not None:
        from taskloom.tasks.hub import read_dataset

        folder = _anchored(task, Path(task.dataset), base_dir, data_dir)
        return read_dataset(task, folder if folder.is_dir() else None)
    if task.divide is not None:
        path = _anchored(task, Path(task.path or ""), base_dir, data_dir)
        table = _read_once(task, path, "train")
        return dict.fromkeys(task.divide, str(task.path)), divide(table, task.divide, task.divide_seed)
    splits = task.splits or _discover(task, base_dir, data_dir)
    tables = {}
    for split, file in splits.items():
        paths = _files(task, file, base_dir, data_dir)
        missing = next((path for path in paths if not path.is_file()), None)
        if split in task.optional_splits and missing is not None:
            if (split, missing) not in _missing:
                logger.warning("task '%s' has no %s split: there is no file %s", task.name, split, missing)
            _missing.add((split, missing))
            continue
        tables[split] = join_tables([_read_once(task, path, split) for path in paths])
    return splits, tables


def forget_files() -> None:
    """Free what `read_splits` has kept for further tasks of the same suite."""
    _read_file.cache_clear()
    _missing.clear()


#: Missing optional files that were warned of: forty templates of one data set need no forty warnings.
_missing: set[tuple[str, Path]] = set()


def _read_once(task: Task, path: Path, split: str) -> Table:
    """Read a file, or return it as read for the task before: the templates of a suite share their data."""
    return _read_file(path, task.delimiter, task.quoting, _header(task, split), task.malformed_rows, task.records)


@lru_cache(maxsize=8)
def _read_file(
    path: Path,
    delimiter: str | None,
    quoting: bool,
    names: tuple[str, ...] | None,
    malformed_rows: Literal["error", "skip"],
    records: str | None,
) -> Table:
    return read_table(
        path, delimiter=delimiter, quoting=quoting, names=names, malformed_rows=malformed_rows, records_key=records
    )


def divide(table: Table, shares: Mapping[str, float], seed: int) -> dict[str, Table]:
    """Divide the rows at random into splits of about the given shares, at least one row each, in the file's order.

    Raises:
        DataError: there are fewer rows than splits.
    """
    count = len(table.rows)
    if count < len(shares):
        raise DataError(f"{table.source}: cannot divide {count} examples into {', '.join(shares)}; give more examples")
    order = random.Random(seed).sample(range(count), count)
    names = sorted(shares, key=lambda name: shares[name])  # the largest takes what rounding leaves
    tables = {}
    for name in names:
        size = count if name == names[-1] else max(1, round(shares[name] * count))
        chosen, order = sorted(order[:size]), order[size:]
        tables[name] = replace(table, rows=[table.rows[index] for index in chosen])
    return {name: tables[name] for name in shares}


def _files(task: Task, file: str, base_dir: Path, data_dir: Path | None) -> list[Path]:
    """Return the file of a split, or the several that `file` joins by +."""
    whole = _anchored(task, Path(task.path or "", file), base_dir, data_dir)
    if "+" not in file or whole.is_file():
        return [whole]
    parts = [part.strip() for part in file.split("+")]
    if not all(parts):
        raise DataError(f"task '{task.name}': splits: '{file}' joins files by +, and one of them has no name")
    return [_anchored(task, Path(task.path or "", part), base_dir, data_dir) for part in parts]


def _header(task: Task, split: str) -> tuple[str, ...] | None:
    """Return the column names of a split's file if it has no header line."""
    if isinstance(task.columns, tuple) and (task.headerless is None or split in task.headerless):
        return task.columns
    return None


def _anchored(task: Task, path: Path, base_dir: Path, data_dir: Path | None) -> Path:
    """Return where a relative `path` of `task` starts from; refuse to leave `data_dir`."""
    path = path.expanduser()
    if data_dir is None or path.is_absolute():
        return base_dir / path
    if Path(os.path.normpath(path)).parts[:1] == (os.pardir,):
        raise DataError(
            f"task '{task.name}': the path '{path}' leads out of the data folder {data_dir}; "
            "move the file into it or give an absolute path"
        )
    return data_dir / path


def _discover(task: Task, base_dir: Path, data_dir: Path | None) -> dict[str, str]:
    """Return split name to name of the file in `Task.path`, of any format."""
    if task.path is None:
        raise DataError(f"task '{task.name}' does not say where its data is: give `splits`, `path` or `dataset`")
    folder = _anchored(task, Path(task.path), base_dir, data_dir)
    if not folder.is_dir():
        require_file(folder / "train")  # names the nearest folder
    found: dict[str, str] = {}
    for split, stems in SPLIT_STEMS.items():
        files = [folder / f"{stem}{extension}" for stem in stems for extension in EXTENSIONS]
        files = [file for file in files if file.is_file()]
        if len(files) > 1:
            raise DataError(
                f"task '{task.name}': the {split} split may be {files[0].name} or {files[1].name} in {folder}; "
                "say which under `splits`"
            )
        if files:
            found[split] = files[0].name
    if not found:
        raise DataError(
            f"task '{task.name}': no train, dev or test file ({', '.join(EXTENSIONS)}) in {folder}; "
            "name the files under `splits`"
        )
    return found
