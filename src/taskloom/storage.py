"""Writing to disk so that nothing is ever half there: write under a temporary name, then rename."""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["latest_checkpoint", "named_failures", "remove_partial", "staged_folder", "write_atomically"]

#: Names of unfinished files and folders end in this; whoever lists a folder must skip them.
PARTIAL_SUFFIX = ".partial"


def _partial_name(final: Path) -> Path:
    return final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path` so that a reader sees either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.filename is None:  # a disk that is full says so without a name
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final` that takes its place when the block ends without an exception.

    An existing `final` is replaced. If the block fails, `final` is left as it was and the staged files are removed.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_name(final)
    partial.mkdir()
    try:
        with named_failures(final):
            yield partial
        if final.exists():
            outgoing = _partial_name(final)
            final.rename(outgoing)
            partial.rename(final)
            shutil.rmtree(outgoing, ignore_errors=True)
        else:
            partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Name `path` in what libraries say of a full disk: in words of their own, and without the file."""
    try:
        yield
    except Exception as error:
        if (failure := _failed_write(error, path)) is not None:
            raise failure from error
        raise


def _failed_write(error: Exception, final: Path) -> OSError | None:
    """Return the `OSError` behind an error of writing; None for other errors."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, str(final)) if error.filename is None else None
    if told := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
        return OSError(int(told[1]), os.strerror(int(told[1])), str(final))
    if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):
        return OSError(errno.ENOSPC, "cannot be written (is the disk full?)", str(final))
    return None


def remove_partial(folder: Path) -> None:
    """Remove what a kill left unfinished in `folder` and in the folders in it."""
    for leftover in [*folder.glob(f".*{PARTIAL_SUFFIX}"), *folder.glob(f"*/*{PARTIAL_SUFFIX}")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def latest_checkpoint(checkpoints: Path) -> Path | None:
    """Return the complete ``checkpoint-<step>`` of the highest step in a folder, or None."""
    complete = {
        int(match.group(1)): folder
        for folder in checkpoints.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)) and (folder / "trainer_state.json").is_file()
    }
    return complete[max(complete)] if complete else None
