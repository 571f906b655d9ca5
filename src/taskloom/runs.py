"""The run folder: what is written where, atomically, and what a resumed run may continue.

runs/NAME/
  recipe.yaml        the resolved recipe: every field, absolute paths
  environment.json   versions, machine, commit, command line, seed; one entry more for each resumption
  metrics.jsonl      one JSON object a line while training
  checkpoints/       checkpoint-STEP folders, complete or not there
  model/             the best model, its tokenizer and heads
  scores.json        dev scores a task
  summary.md         the scores as a table
  curves.png         the learning curves
  predictions/       predictions for the test splits, one TSV each
  generations/       of tasks that generate text, what the best model answered, one JSONL a split
  STEPpredicted_answers.json, STEPpredicted_answers_test.json
                     of question answering by generation, the answers of all windows with their likelihoods
  finished.json      written last
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from taskloom.environment import describe_environment
from taskloom.errors import RunError, UserError
from taskloom.locks import FolderLock
from taskloom.metrics_log import MetricsLog
from taskloom.plain_json import to_json
from taskloom.processes import is_main, on_main, together
from taskloom.recipe import Recipe, differences, load_recipe, recipe_yaml
from taskloom.storage import PARTIAL_SUFFIX, latest_checkpoint, remove_partial, write_atomically

__all__ = ["STAGE_FILE", "RunFolder"]

_logger = logging.getLogger(__name__)

#: What a run may have written before it came to anything; the last five are `taskloom online`'s.
_BEGINNINGS = (
    *("recipe.yaml", "environment.json", "metrics.jsonl", "checkpoints"),
    *("answers", "documents.jsonl", "sweep", "sweep.csv", "weights"),
)


#: Written by a pipeline into a stage's folder before the run begins; see `taskloom.pipeline.cache`.
STAGE_FILE = "stage.json"


class RunFolder:
    """One run on disk. `create` starts or resumes a training; `open` reads what is there."""

    def __init__(self, path: Path, recipe: Recipe, lock: FolderLock | None = None) -> None:
        """Use `create` or `open`; they make sure that `path` holds a run of `recipe`."""
        self.path = path
        self.recipe = recipe
        self._lock = lock
        self._begun_here = False

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe, resume: bool = False) -> Self:
        """Start a run in `path`, or with `resume` continue the one that is there.

        Use it in a `with` statement: other processes are kept from the folder until its end. `resume` on a missing or
        empty folder starts from the beginning, so that one command can be repeated after a kill at any moment.
        Of several processes, which must all call, the main one begins and locks the folder and writes to it; what the
        others write goes nowhere.

        Raises:
            RunError: the folder holds files and `resume` is off; it is no run folder; its recipe differs in a field
                that matters; another process uses it.

        """
        path = Path(path)
        run = None
        with together():
            if is_main():
                run = cls._begin(path, recipe, resume)
        return run or cls(path, recipe)

    @classmethod
    def _begin(cls, path: Path, recipe: Recipe, resume: bool) -> Self:
        cls.refuse_unusable(path, resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # below a file, on a drive that is not there, in a folder of the system's
            raise RunError(
                f"{path}: cannot be made ({error.strerror}): choose another folder with output=FOLDER"
            ) from error
        lock = FolderLock(path)
        try:
            # Again under the lock: another training may have filled the folder in between.
            cls.refuse_unusable(path, resume)
            remove_partial(path)
            run = cls(path, recipe, lock)
            if run._recipe_file.exists():
                _refuse_other_recipe(path, _stored_recipe(path), recipe)
                run._record_resumption()
            else:
                if resume:
                    _logger.warning("%s: nothing to resume; starting from the beginning", path)
                # The recipe comes last: without it the folder counts as not yet begun.
                run._write_json("environment.json", describe_environment(recipe.seed))
                write_atomically(run._recipe_file, recipe_yaml(recipe))
                run._begun_here = True
        except BaseException:
            lock.release()
            raise
        return run

    @staticmethod
    def refuse_unusable(path: str | Path, resume: bool = False) -> None:
        """Raise `RunError` if a run cannot start (or, with `resume`, continue) in `path`, and write nothing."""
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: a run needs a folder, but this is a file")
        if not path.is_dir() or ((path / "recipe.yaml").is_file() and resume):
            return
        # A run that was killed before its recipe was written leaves these behind.
        unstarted = {FolderLock.FILE_NAME, STAGE_FILE, "environment.json"}
        others = sorted(
            item.name for item in path.iterdir() if item.name not in unstarted and item.suffix != PARTIAL_SUFFIX
        )
        if not others:
            return
        if (path / "recipe.yaml").is_file():
            raise RunError(
                f"{path}: holds a run already. Continue it with --resume, or choose another folder with output=FOLDER"
            )
        raise RunError(
            f"{path}: not empty (it holds {others[0]}) and not a run: choose another folder with output=FOLDER"
        )

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open an existing run for reading (and for evaluation), without locking it.

        Raises `RunError` if there is no run in `path`.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"{path}: there is no such run folder")
        if not (path / "recipe.yaml").is_file():
            raise RunError(f"{path}: not a run folder: {_what_else(path)}")
        return cls(path, _stored_recipe(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Let other processes have the folder; a run that a mistake ended before it came to anything is taken back."""
        if self._begun_here and isinstance(error, UserError) and not self._has_results():
            self._take_back()
        if self._lock is not None:
            self._lock.release()

    def _has_results(self) -> bool:
        streamed = any(self.checkpoints.glob("stream-*"))  # of `taskloom online adapt`
        return self.model_folder.exists() or self.latest_checkpoint() is not None or streamed

    def _take_back(self) -> None:
        """Leave the folder as before the run began, but for the lock, so that the mended recipe can be run in it."""
        for name in _BEGINNINGS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    @property
    def _recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def metrics_file(self) -> Path:
        """The training log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints. A checkpoint is staged beside its final name and renamed when complete."""
        return self.path / "checkpoints"

    @property
    def model_folder(self) -> Path:
        """The folder of the best model."""
        return self.path / "model"

    @property
    def finished(self) -> bool:
        """Whether the run has written everything that it had to write."""
        return (self.path / "finished.json").is_file()

    def mark_finished(self) -> None:
        """Record that the run is complete: the last thing a training does. Every process finds all of it then."""
        content = {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
        on_main(lambda: self._write_json("finished.json", content))

    def latest_checkpoint(self) -> Path | None:
        """Return the complete checkpoint of the highest step, or None."""
        return latest_checkpoint(self.checkpoints)

    def append_metrics(self, entry: Mapping[str, Any]) -> None:
        """Append one entry to `metrics.jsonl`. Values that are not finite are written as null."""
        if is_main():
            MetricsLog(self.metrics_file).append(entry)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the entries of `metrics.jsonl`, without a last line that a kill cut short."""
        return MetricsLog(self.metrics_file).read()

    def truncate_metrics(self, step: int) -> None:
        """Drop the entries after `step` (and a half-written last line): a resumed run writes them again."""
        if is_main():
            MetricsLog(self.metrics_file).truncate(step)

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """Write `scores.json`."""
        self._write_json("scores.json", scores)

    def read_scores(self) -> dict[str, Any]:
        """Return what `write_scores` wrote.

        Raises `RunError` when the run has no scores yet.
        """
        path = self.path / "scores.json"
        if not path.is_file():
            raise RunError(f"{self.path}: no scores yet; the run is not finished")
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path}: is damaged ({error})") from error

    def write_summary(self, markdown: str) -> None:
        """Write `summary.md`."""
        if is_main():
            write_atomically(self.path / "summary.md", markdown)

    def write_submission(self, file_name: str, predictions: Sequence[str]) -> Path:
        """Write the predictions for a test split as the GLUE server takes them (`index`, `prediction`).

        `file_name` is the one that the server wants, such as "RTE.tsv". Returns the file.
        """
        path = self.path / "predictions" / file_name
        rows = [f"{index}\t{prediction}\n" for index, prediction in enumerate(predictions)]
        if is_main():
            write_atomically(path, "index\tprediction\n" + "".join(rows))
        return path

    def _write_json(self, name: str, value: Any) -> None:
        if is_main():
            write_atomically(self.path / name, to_json(value, indent=2) + "\n")

    def _record_resumption(self) -> None:
        path = self.path / "environment.json"
        environment = json.loads(path.read_text(encoding="utf-8"))
        environment.setdefault("resumed", []).append(describe_environment(self.recipe.seed))
        self._write_json("environment.json", environment)


def _what_else(path: Path) -> str:
    """Say what a folder without a recipe is, and which of its folders are meant, perhaps."""
    kinds = {"pipeline.json": "a pipeline", "sweep.json": "a sweep"}
    kind = next((kind for name, kind in kinds.items() if (path / name).is_file()), None)
    if kind is None:
        return "it has no recipe.yaml"
    below = sorted(file.parent for pattern in ("*", "trials/*/*") for file in path.glob(f"{pattern}/recipe.yaml"))
    return f"it is {kind}; name one of its runs{f', such as {below[0]}' if below else ''}"


def _stored_recipe(path: Path) -> Recipe:
    return load_recipe(path / "recipe.yaml")


def _refuse_other_recipe(path: Path, stored: Recipe, present: Recipe) -> None:
    """Refuse to continue a run under a recipe that would train something else."""
    differing = differences(stored, present)
    if "tasks" in differing:
        if _names(stored) != _names(present):
            raise RunError(
                f"{path}: its checkpoints belong to another task list: {_names(stored)}; "
                f"the recipe now lists {_names(present)}. Choose another folder with output=FOLDER"
            )
        before, now = next(pair for pair in zip(stored.tasks, present.tasks, strict=True) if pair[0] != pair[1])
        raise RunError(
            f"{path}: its checkpoints belong to tasks that were declared otherwise: {before}; now {now}. "
            "Choose another folder with output=FOLDER"
        )
    if differing:
        changes = "\n".join(f"  {name}: {before} -> {now}" for name, (before, now) in differing.items())
        raise RunError(f"{path}: cannot resume with another recipe; it differs in\n{changes}")


def _names(recipe: Recipe) -> str:
    return ", ".join(
        task if isinstance(task, str) else str(task.get("name", task.get("preset"))) for task in recipe.tasks
    )
