"""A stage's folder and the content that it was made from: what is up to date, and what is set aside or taken back.

Every folder that a stage owns holds `stage.json`, its marker, written before anything else in it: the key of what the
stage depends on, and these inputs. It moves with the folder, so that a kill at any moment leaves nothing mislabelled.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from taskloom.errors import RunError
from taskloom.locks import FolderLock
from taskloom.pipeline.content import changes, key
from taskloom.pipeline.plan import Stage
from taskloom.storage import PARTIAL_SUFFIX, write_atomically

__all__ = ["SET_ASIDE", "State", "prepare", "state"]

SET_ASIDE = "set-aside"

State = Literal["finished", "unfinished", "changed", "new", "stored", "always"]


def state(stage: Stage, output: Path, inputs: Mapping[str, Any]) -> tuple[State, list[str]]:
    """Return how a stage stands, and what has changed since it was made.

    Finished; unfinished, which goes on; changed, which begins anew; new; stored, which is taken back; or always made.

    Raises:
        RunError: its folder holds what no pipeline made.
    """
    if stage.marker is None:
        return "always", []
    stored = _stored(stage)
    if stored is not None and stored["key"] == key(inputs):
        return ("finished" if stage.finished else "unfinished"), []
    differing = [] if stored is None else changes(stored["inputs"], inputs)
    if stage.owned is not None and _aside(stage, output, key(inputs)).is_dir():
        return "stored", differing
    return ("new" if stored is None else "changed"), differing


def prepare(stage: Stage, output: Path, inputs: Mapping[str, Any], again: bool = False) -> bool:
    """Make a stage's folder ready to run or to be read: one of other content makes room for it.

    Args:
        stage: the stage.
        output: the pipeline's folder.
        inputs: what the stage depends on.
        again: remove what was made of the same content before.

    Returns whether there is something to go on with.
    """
    if stage.marker is None:
        return False
    stored = _stored(stage)
    if stored is not None and stored["key"] != key(inputs):
        set_aside(stage, output)
        stored = None
    if again:
        _remove(stage)
        stored = None
    if stored is None and (again or not _taken_back(stage, output, inputs)):
        content = {"key": key(inputs), "inputs": dict(inputs)}
        write_atomically(stage.marker, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return stage.owned is not None and (stage.owned / "recipe.yaml").is_file()


def set_aside(stage: Stage, output: Path) -> None:
    """Move what a stage has written to `set-aside`, where it is found again by its key; remove single files."""
    stored = _stored(stage)
    if stored is None:
        return
    if stage.owned is None:
        _remove(stage)
        return
    aside = _aside(stage, output, stored["key"])
    aside.parent.mkdir(parents=True, exist_ok=True)
    if aside.exists():  # of the same content: an earlier run of it
        shutil.rmtree(aside)
    stage.owned.rename(aside)


def _remove(stage: Stage) -> None:
    if stage.owned is None:
        stage.result.unlink(missing_ok=True)
    elif stage.owned.exists():
        doomed = stage.owned.with_name(f".{stage.owned.name}{PARTIAL_SUFFIX}")
        shutil.rmtree(doomed, ignore_errors=True)
        stage.owned.rename(doomed)  # at once: a kill leaves no half of it
        shutil.rmtree(doomed)


def _taken_back(stage: Stage, output: Path, inputs: Mapping[str, Any]) -> bool:
    aside = _aside(stage, output, key(inputs))
    if stage.owned is None or not aside.is_dir():
        return False
    shutil.rmtree(stage.owned, ignore_errors=True)  # nothing but a lock, if it is there
    stage.owned.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(stage.owned)
    return True


def _aside(stage: Stage, output: Path, of: str) -> Path:
    return output / SET_ASIDE / f"{stage.name}-{of}"


def _stored(stage: Stage) -> dict[str, Any] | None:
    """Return the key and the inputs of what is there, or None if nothing is."""
    path = stage.marker
    if path is None:
        return None
    if path.is_file():
        try:
            stored = json.loads(path.read_text("utf-8"))
            return {"key": str(stored["key"]), "inputs": dict(stored["inputs"])}
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path}: is damaged ({error}). Remove {stage.owned or path} to run '{stage.name}' anew"
            ) from error
    held = stage.owned.iterdir() if stage.owned is not None and stage.owned.is_dir() else ()
    if any(file.name != FolderLock.FILE_NAME and file.suffix != PARTIAL_SUFFIX for file in held):
        raise RunError(
            f"{stage.owned}: holds files that this pipeline did not write. Move them, or choose another folder with "
            "output=FOLDER"
        )
    return None
