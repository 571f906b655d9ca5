"""One training a run folder: an advisory lock that the operating system releases when its process dies."""

import os
import sys
from pathlib import Path
from typing import IO

from taskloom.errors import RunError

__all__ = ["FolderLock"]

_FAR = 1 << 30


class FolderLock:
    """Holds `folder`/.lock, which names the process. A dead process holds nothing: its lock is simply taken over.

    The file stays after `release`. Removing it would let two processes lock two files of the same name.
    """

    FILE_NAME = ".lock"

    def __init__(self, folder: Path) -> None:
        """Take the lock, or raise `RunError` that names the process that holds it."""
        path = folder / self.FILE_NAME
        self._file = path.open("a+", encoding="utf-8")
        try:
            _lock(self._file)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise RunError(
                f"{folder}: in use by process {holder}. Wait for it, stop it, or choose another output folder"
            ) from error
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Give the lock back. Doing so twice is harmless."""
        self._file.close()


def _lock(file: IO[str]) -> None:
    """Lock an open file, or raise `OSError` if another process has locked it."""
    if sys.platform == "win32":
        import msvcrt

        # One byte far behind the content: Windows lets nobody read what is locked.
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0, os.SEEK_END)
    else:
        import fcntl

        # A record lock, and not flock: forked data loader workers must not keep it after the trainer's death.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
