"""What a stage's result depends on: its settings, the content of its data, and the stages before it."""

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from taskloom.pipeline.plan import FOLLOWED, Stage
from taskloom.recipe.comparison import flat_settings

__all__ = ["Inputs", "changes", "key"]

#: Files larger than this (bytes), such as a model's weights, count by their size and their time of change.
LARGE = 64 * 2**20

_CONTENT = "content of "
_STAGE = "stage "


class Inputs:
    """Finds what stages depend on; data that several stages share is read once."""

    def __init__(self) -> None:
        self._read: dict[Hashable, str] = {}

    def of(self, stage: Stage) -> dict[str, Any]:
        """Return all that a stage's result depends on, by name, in plain values.

        The stages that it needs must be finished. Raises `UserError`: data cannot be read.
        """
        followed = FOLLOWED[stage.kind]
        settings = flat_settings(stage.recipe)
        found = {name: value for name, value in settings.items() if name.partition(".")[0] in followed}
        if "tasks" in followed and stage.recipe.tasks:
            found[f"{_CONTENT}tasks"] = self._tasks(stage)
        if "questions" in followed:
            found |= self._questions(stage)
        found |= {f"{_CONTENT}{name}": self._path(path) for name, path in _paths(settings, followed, stage)}
        options = stage.settings.model_dump(mode="json", exclude={"stage", "name", "of", "set"})
        found |= {f"pipeline.{name}": value for name, value in options.items()}
        return found | {f"{_STAGE}{needed.name}": self._result(needed) for needed in stage.needs}

    def _tasks(self, stage: Stage) -> str:
        from taskloom.build import build_suite

        def rows() -> Iterator[Any]:
            suite = build_suite(stage.recipe)
            for task in suite:
                for split in task.splits:
                    examples = suite.examples(task.name, split)
                    yield [task.name, split, len(examples), task.model_dump(mode="json", exclude={"path", "splits"})]
                    for column in (examples.texts, examples.targets, examples.choices, examples.spans, examples.ids):
                        yield from column or [None]

        return self._once(stage, ("seed", "data", "tasks", "only"), rows)

    def _questions(self, stage: Stage) -> dict[str, str]:
        from taskloom.online.stages.parts import has_role, read_role
        from taskloom.recipe.online import ROLES

        def rows(role: str) -> Iterator[Any]:
            for document in read_role(stage.recipe, role, "adapt").documents:
                yield [document.text, document.group, [[each.text, each.answers] for each in document.questions]]

        return {
            f"{_CONTENT}questions.{role}": self._once(stage, ("data", "questions"), lambda role=role: rows(role), role)
            for role in ROLES
            if has_role(stage.recipe, role)
        }

    def _result(self, stage: Stage) -> str:
        """Return what a finished stage means to those that need it."""
        if stage.kind == "group":  # the groups themselves: other estimates may lead to the same
            return _digest([json.loads(stage.result.read_text("utf-8"))["groups"]])
        return key(self.of(stage))

    def _path(self, path: Path) -> str:
        if path not in self._read:
            self._read[path] = _digest(_files(path))
        return self._read[path]

    def _once(self, stage: Stage, sections: Iterable[str], rows: Callable[[], Iterable[Any]], what: str = "") -> str:
        values = stage.recipe.resolved()
        name = (what, json.dumps([values[section] for section in sections], default=str))
        if name not in self._read:
            self._read[name] = _digest(rows())
        return self._read[name]


def key(inputs: Mapping[str, Any]) -> str:
    """Return a short hash of what a stage depends on."""
    return _digest([inputs])[:16]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say in words what differs, an item each."""
    told = []
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old != new:
            told.append(name if name.startswith((_CONTENT, _STAGE)) else f"{name}: {_short(old)} -> {_short(new)}")
    return told


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _digest(rows: Iterable[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _paths(settings: Mapping[str, Any], followed: Iterable[str], stage: Stage) -> Iterator[tuple[str, Path]]:
    """Yield the files and folders that fields name, but for tasks and questions, and for what other stages wrote."""
    for name, value in settings.items():
        if name.partition(".")[0] not in followed or name in ("tasks", "data.dir", "data.cache"):
            continue
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and Path(each).is_absolute():
                path = Path(each)
                if path.exists() and not path.is_relative_to(stage.folder.parent):
                    yield name, path


def _files(path: Path) -> Iterator[Any]:
    """Describe a file, or all files of a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        status = file.stat()
        large = status.st_size > LARGE
        content = status.st_mtime_ns if large else hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
        yield [file.relative_to(path).as_posix(), status.st_size, content]
