"""What can be tested here of Windows and macOS: modules that only Unix has, locks, names that a disk cannot hold."""

import ast
import fcntl
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import taskloom
from taskloom.errors import RunError
from taskloom.locks import FolderLock
from taskloom.tasks.task import Task

SOURCES = sorted(Path(taskloom.__file__).parent.rglob("*.py"))
#: What Windows does not have.
UNIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}
UNIX_NAMES = {
    "SIGALRM",
    "SIGHUP",
    "SIGKILL",
    "SIGUSR1",
    "SIGUSR2",
    "fork",
    "getuid",
    "geteuid",
    "killpg",
    "mkfifo",
    "uname",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_that_only_unix_has_is_needed(path):
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body:  # within functions such an import stands behind a question for the platform
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not UNIX_MODULES & {*names, getattr(node, "module", None)}
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not UNIX_NAMES & used
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in ("read_text", "write_text"):
            with_encoding = len(call.args) > (name == "write_text") or any(
                key.arg == "encoding" for key in call.keywords
            )
            assert with_encoding, f"{path}:{call.lineno}: the locale's encoding is another one under Windows"


class Msvcrt(SimpleNamespace):
    """Windows' locks of a file's bytes, played by those of Unix, which are as exclusive between processes."""

    LK_NBLCK = 2

    def __init__(self):
        self.taken: set[tuple[int, int]] = set()

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        import os

        assert (mode, count) == (self.LK_NBLCK, 1)
        place = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        if place in self.taken:
            raise OSError(13, "Permission denied")
        self.taken.add(place)


def test_folders_are_locked_under_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt())
    monkeypatch.setattr(fcntl, "lockf", None)  # is not there
    lock = FolderLock(tmp_path)
    with pytest.raises(RunError, match="in use by process"):
        FolderLock(tmp_path)
    lock.release()
    ((_, place),) = sys.modules["msvcrt"].taken
    assert place > 1000  # behind the content: what is locked cannot be read


@pytest.mark.parametrize("name", ["con", "NUL", "aux.v2", "com1", "end.", "a/b", "a:b", "a\\b", "a*", " a"])
def test_task_names_that_a_disk_cannot_hold_are_refused(name):
    with pytest.raises(ValueError, match="name"):
        Task(name=name, inputs=("text",))


def test_names_that_only_look_like_devices_are_fine():
    for name in ("console", "nullable", "com", "lpt-1", "a.con"):
        assert Task(name=name, inputs=("text",)).name == name


def test_tasks_that_differ_in_capitals_alone_are_refused(tmp_path):
    from taskloom.errors import DataError
    from taskloom.tasks import TaskSuite
    from tests.tiny import tiny_tasks

    first = tiny_tasks(tmp_path)[0]
    with pytest.raises(DataError, match="'sentiment' and 'Sentiment' differ in capitals alone"):
        TaskSuite.load([first, {**first, "name": "Sentiment"}])
