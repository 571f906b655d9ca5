"""Running a pipeline: stage after stage, from where it stands."""

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape

from taskloom.errors import RecipeError, RunError, UserError, did_you_mean
from taskloom.locks import FolderLock
from taskloom.pipeline.actions import run_stage
from taskloom.pipeline.cache import State, prepare, state
from taskloom.pipeline.content import Inputs
from taskloom.pipeline.plan import Stage, plan_stages
from taskloom.processes import is_main, on_main, together
from taskloom.recipe import Recipe, recipe_yaml
from taskloom.storage import write_atomically

__all__ = ["PIPELINE_FILE", "Progress", "Step", "dry_run", "run_pipeline"]

PIPELINE_FILE = "pipeline.json"
RECIPE_FILE = "pipeline.yaml"

Status = Literal["waiting", "running", "done", "failed", "interrupted"]


@dataclass
class Progress:
    """What became of a stage; a line of `pipeline.json`.

    Attributes:
        name, kind: of the stage.
        folder: the run folder, below the pipeline's.
        result: the file that the stage writes last, below the pipeline's folder.
        status: how it stands.
        seconds: what it took, in all its runs; None before the first.
        message: why it failed.
    """

    name: str
    kind: str
    folder: str
    result: str
    status: Status = "waiting"
    seconds: float | None = None
    message: str | None = None


@dataclass(frozen=True)
class Step:
    """What a dry run tells of a stage: how it stands and why it would run again; "waits" for a stage before it."""

    name: str
    kind: str
    state: State | Literal["waits"]
    changes: list[str]


def run_pipeline(
    recipe: Recipe, only: Collection[str] = (), again: Collection[str] = (), quiet: bool = False
) -> list[Progress]:
    """Run the stages of a recipe that are not up to date, and go on with what was interrupted.

    A stage is up to date if its settings, the content of its data and the stages that it needs are those of its
    result. Otherwise its old result moves to `set-aside` in the output folder, and comes back with its settings.

    Args:
        recipe: all settings.
        only: names of the stages to run; none runs all. What they need must be up to date.
        again: names of stages that run anew whether up to date or not.
        quiet: print nothing.

    Raises:
        UserError: a mistake in the recipe, the data or the folders, by the stage's name; the earlier stages' results
            stay.
        KeyboardInterrupt: a stage was interrupted; the same call goes on there.
    """
    stages = plan_stages(recipe)
    _refuse_unknown(stages, only, "--only")
    _refuse_unknown(stages, again, "--again")
    with together():
        lock = _begin(recipe) if is_main() else None
    try:
        return _Pipeline(recipe, stages, quiet).run(only, again)
    finally:
        if lock is not None:
            lock.release()


def dry_run(recipe: Recipe) -> list[Step]:
    """Return how each stage of a recipe stands, and run nothing.

    Raises:
        UserError: a mistake in the recipe, the data or the folders.
    """
    inputs, steps = Inputs(), []
    unfinished: set[str] = set()
    for stage in plan_stages(recipe):
        if unfinished.intersection(needed.name for needed in stage.needs):
            found: State | Literal["waits"] = "waits"
            differing: list[str] = []
        else:
            found, differing = state(stage, recipe.output, inputs.of(stage))
        if found not in ("finished", "stored"):
            unfinished.add(stage.name)
        steps.append(Step(stage.name, stage.kind, found, differing))
    return steps


def _begin(recipe: Recipe) -> FolderLock:
    """Make the pipeline's folder, or refuse another kind's."""
    output = recipe.output
    if output.exists() and not output.is_dir():
        raise RunError(f"{output}: a pipeline needs a folder, but this is a file")
    for name, what in (("recipe.yaml", "a run"), ("sweep.json", "a sweep")):
        if (output / name).is_file():
            raise RunError(f"{output}: holds {what}, not a pipeline. Choose another folder with output=FOLDER")
    output.mkdir(parents=True, exist_ok=True)
    return FolderLock(output)


def _refuse_unknown(stages: list[Stage], names: Collection[str], option: str) -> None:
    known = [stage.name for stage in stages]
    for name in names:
        if name not in known:
            raise RecipeError(f"{option} {name}: the pipeline has no such stage.{did_you_mean(name, known)}")


@contextmanager
def _naming(stage: Stage) -> Iterator[None]:
    """Say in which stage a mistake was found."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"stage '{stage.name}': {error}") from error


class _Pipeline:
    def __init__(self, recipe: Recipe, stages: list[Stage], quiet: bool) -> None:
        self.recipe = recipe
        self.stages = stages
        self.quiet = quiet or not is_main()
        self.console = Console(stderr=True, quiet=self.quiet)
        self.inputs = Inputs()
        before = _read(recipe.output)
        self.progress = {stage.name: self._progress(stage, before.get(stage.name, {})) for stage in stages}

    def _progress(self, stage: Stage, before: dict[str, Any]) -> Progress:
        output = self.recipe.output
        folder, result = (path.relative_to(output).as_posix() for path in (stage.folder, stage.result))
        return Progress(stage.name, stage.kind, folder, result, seconds=before.get("seconds"))

    def run(self, only: Collection[str], again: Collection[str]) -> list[Progress]:
        if is_main():
            write_atomically(self.recipe.output / RECIPE_FILE, recipe_yaml(self.recipe))
        for number, stage in enumerate(self.stages, 1):
            title = f"{number}/{len(self.stages)} {stage.name}"
            if only and stage.name not in only:
                self._check_needed(stage, only)
                continue
            resume, current = on_main(lambda stage=stage: self._prepared(stage, stage.name in again))
            if current:
                self.console.print(f"[bold]{escape(title)}[/bold]: up to date", highlight=False)
                self._note(stage, "done")
                continue
            self.console.rule(f"[bold]{escape(title)}", align="left")
            self._run(stage, resume)
        return list(self.progress.values())

    def _prepared(self, stage: Stage, again: bool) -> tuple[bool, bool]:
        """Make the stage's folder ready; return whether there is something to go on with, and whether it is done."""
        with _naming(stage):
            inputs = self.inputs.of(stage)
            _, differing = state(stage, self.recipe.output, inputs)
            if differing and not self.quiet:
                told = "; ".join(differing[:3]) + ("; ..." if len(differing) > 3 else "")
                self.console.print(f"{stage.name}: changed since its last run: {told}", markup=False, highlight=False)
            resume = prepare(stage, self.recipe.output, inputs, again)
        return resume, stage.finished and stage.marker is not None

    def _check_needed(self, stage: Stage, only: Collection[str]) -> None:
        """Refuse to run a stage on what is missing, or was made from other settings or data."""
        wanted = [each for each in self.stages if each.name in only and stage in each.needs]
        if wanted and wanted[0].kind != "report" and (found := self._outdated(stage)) is not None:
            outdated, why = found
            raise RunError(
                f"--only {wanted[0].name}: needs the stage '{outdated.name}', which is {why}. Run it, too: "
                f"--only {outdated.name} --only {wanted[0].name}; or all that is not up to date, without --only"
            )
        self._note(stage, "done" if stage.finished else "waiting")

    def _outdated(self, stage: Stage) -> tuple[Stage, str] | None:
        """Return the first stage, of this one and those before it, that is not up to date, and why."""
        for needed in stage.needs:
            if (found := self._outdated(needed)) is not None:
                return found
        if not stage.finished:
            return stage, "not finished"
        found, differing = state(stage, self.recipe.output, self.inputs.of(stage))
        return None if found == "finished" else (stage, f"not up to date ({'; '.join(differing[:3])})")

    def _run(self, stage: Stage, resume: bool) -> None:
        started = time.monotonic()
        taken = self.progress[stage.name].seconds or 0 if resume else 0

        def note(status: Status, message: str | None = None) -> None:
            self._note(stage, status, taken + time.monotonic() - started, message)

        # A report shows itself as what it is once somebody reads it.
        note("done" if stage.kind == "report" else "running")
        try:
            with _naming(stage):
                run_stage(stage, resume, self.quiet)
        except KeyboardInterrupt:
            note("interrupted")
            raise
        except Exception as error:
            note("failed", str(error))
            raise
        note("done")

    def _note(self, stage: Stage, status: Status, seconds: float | None = None, message: str | None = None) -> None:
        noted = self.progress[stage.name]
        noted.status, noted.message = status, message
        if seconds is not None:
            noted.seconds = round(seconds, 1)
        if is_main():
            content = {
                "recipe": self.recipe.name,
                "description": self.recipe.description,
                "stages": [asdict(each) for each in self.progress.values()],
            }
            write_atomically(self.recipe.output / PIPELINE_FILE, json.dumps(content, indent=1) + "\n")


def _read(output: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of earlier runs of the stages, by name."""
    try:
        stored = json.loads((output / PIPELINE_FILE).read_text("utf-8"))
        return {stage["name"]: stage for stage in stored["stages"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # only the seconds are taken from there
