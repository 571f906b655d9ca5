"""From the folders that a user names to the runs in them.

A folder may be a run, a grouped run, a stage, a sweep, a pipeline, or hold such folders (a demo, seeds, stages).

Nothing is opened but to tell what a folder is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taskloom.errors import RunError
from taskloom.report.html.reading.files import Files, Notes, mapping, number, numbers
from taskloom.report.html.reading.run import Run, table

__all__ = ["Found", "Pipeline", "Stage", "find_runs"]

PIPELINE_FILE = "pipeline.json"


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline."""

    name: str
    kind: str
    folder: str
    status: str
    seconds: float | None
    message: str


@dataclass(frozen=True)
class Evaluation:
    """The scores of models on a split: of each model by its stage, and of the majority baseline."""

    name: str
    split: str
    scores: dict[str, dict[str, dict[str, float]]]
    majority: dict[str, dict[str, float]]
    means: dict[str, float]


@dataclass(frozen=True)
class Pipeline:
    """A pipeline's stages, the scores that it wrote, and what cannot be read of them."""

    name: str
    description: str
    path: Path
    stages: list[Stage]
    notes: Notes
    evaluations: list[Evaluation] = field(default_factory=list)


@dataclass
class Found:
    """What a report is about.

    Attributes:
        runs: in the order in which they were named.
        pipelines: those that were named.
    """

    runs: list[Run] = field(default_factory=list)
    pipelines: list[Pipeline] = field(default_factory=list)


def find_runs(folders: Sequence[Path]) -> Found:
    """Return the runs of folders, each under a name of its own.

    Raises:
        RunError: a folder holds no run, or there is no such folder.
    """
    found = Found()
    for folder in dict.fromkeys(path.expanduser().resolve() for path in folders):
        if not folder.exists():
            raise RunError(f"{folder}: there is no such run folder")
        if not folder.is_dir():
            raise RunError(f"{folder}: a file, expected a run folder")
        before = len(found.runs) + len(found.pipelines)
        _take(folder, folder.name, found)
        if len(found.runs) + len(found.pipelines) == before:
            raise RunError(
                f"{folder}: holds no run: neither recipe.yaml nor sweep.json or pipeline.json, and no folder below has "
                "one. Name the output folder of a taskloom command"
            )
    _without_common_start(found.runs)
    _name_apart(found.runs)
    return found


def _take(folder: Path, name: str, found: Found, depth: int = 2) -> None:
    if (folder / PIPELINE_FILE).is_file():
        _take_pipeline(folder, name, found)
    elif (folder / "sweep.json").is_file():
        found.runs.append(Run(folder, name, "sweep"))
    elif (folder / "recipe.yaml").is_file():
        found.runs.extend(_run(folder, name))
    elif depth:  # the folder of several: of a demo, of a recipe's online stages, of its seeds
        for below in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            _take(below, f"{name}/{below.name}", found, depth - 1)


def _run(folder: Path, name: str, kind: str | None = None) -> Iterator[Run]:
    run = Run(folder, name, kind or "train")
    ways = mapping(run.scores.get("mean"))
    if ways or run.recipe.get("groups") is not None:
        run.kind = "groups"
        yield run
        members = {
            "groups": [f"group-{number}" for number in range(1, 1 + len(list(folder.glob("group-*"))))],
            "all": ["all"],
            "single": [f"single/{path.name}" for path in sorted(folder.glob("single/*"))],
        }
        begun = [way for way, names in members.items() if names and (folder / names[0]).is_dir()]
        for way in ways or begun:
            parts = [
                Run(folder / member, f"{name}/{member}", "train", run.notes)
                for member in members.get(way, ())
                if (folder / member / "recipe.yaml").is_file()
            ]
            called = f"{name}: {way}" if len(ways or begun) > 1 else name
            yield Run(folder, called, "way", run.notes, tuple(parts), way)
        return
    if kind in (None, "train"):
        run.kind = _kind(folder, run)
    yield run


def _kind(folder: Path, run: Run) -> str:
    if folder.name in ("tune-qa", "meta-train"):
        return folder.name
    if folder.name.startswith("adapt-") or (folder / "documents.jsonl").is_file():
        return "adapt"
    return "auxiliary" if run.recipe.get("auxiliary.space") is not None else "train"


_STAGE_KINDS = ("auxiliary", "tune-qa", "meta-train", "adapt")


def _take_pipeline(folder: Path, name: str, found: Found) -> None:
    notes = Notes()
    content = Files(folder, notes).json(PIPELINE_FILE)
    stages: list[Stage] = []
    given: Any = content.get("stages")
    for value in given if isinstance(given, list) else []:
        item = mapping(value)
        stages.append(
            Stage(
                str(item.get("name") or ""),
                str(item.get("kind") or ""),
                str(item.get("folder") or ""),
                str(item.get("status") or ""),
                number(item.get("seconds")),
                str(item.get("message") or ""),
            )
        )
    title = str(content.get("recipe") or name)
    pipeline = Pipeline(title, str(content.get("description") or ""), folder, stages, notes)
    found.pipelines.append(pipeline)
    known = {run.path for run in found.runs}
    for stage in stages:
        below = (folder / stage.folder).resolve()
        # A stage's folder lies below its pipeline's: nothing else on the disk is read because a file says so.
        if not stage.folder or not below.is_relative_to(folder) or below in known or not below.is_dir():
            continue
        known.add(below)
        if stage.kind == "evaluate":
            pipeline.evaluations.extend(_evaluation(stage.name, Files(below, notes)))
            continue
        if (below / "recipe.yaml").is_file():
            kind = stage.kind if stage.kind in _STAGE_KINDS else None
            found.runs.extend(_run(below, f"{name}/{stage.name}", kind))
        elif below != folder:
            _take(below, f"{name}/{stage.name}", found)


def _evaluation(name: str, files: Files) -> Iterator[Evaluation]:
    content = files.json("scores.json")
    if content:
        scores = {str(model): table(value) for model, value in mapping(content.get("scores")).items()}
        split = str(content.get("split") or "")
        yield Evaluation(name, split, scores, table(content.get("majority")), numbers(content.get("mean")))


def _without_common_start(runs: list[Run]) -> None:
    """Leave out the name of the folder that all runs lie in: the page's title says it."""
    starts = {run.name.partition("/")[0] if "/" in run.name else None for run in runs}
    if len(runs) > 1 and len(starts) == 1 and None not in starts:
        for run in runs:
            run.name = run.name.partition("/")[2]


def _name_apart(runs: list[Run]) -> None:
    """Give runs of equal names their folder's parents, too, and if that is not enough a number."""
    runs = [run for run in runs if run.kind != "way"]
    for depth in (1, 2, 3):
        names = [run.name for run in runs]
        for run in runs:
            if names.count(run.name) > 1 and len(run.path.parts) > depth + 1:
                run.name = f"{run.path.parts[-1 - depth]}/{run.name}"
    taken: dict[str, int] = {}
    for run in runs:
        taken[run.name] = taken.get(run.name, 0) + 1
        if taken[run.name] > 1:
            run.name = f"{run.name} ({taken[run.name]})"
