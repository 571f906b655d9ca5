"""One training of a sweep, in a process of its own: what becomes of it cannot harm the others.

It is `taskloom VERB RECIPE FIELD=VALUE ... --resume` in a normal run folder, so a trial that was stopped goes on where
it was, and one that is finished is only read. Beside the folder stand its output (seed-N-log.txt) and what became of
it (seed-N-outcome.json).
"""

import ctypes
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from taskloom.errors import RunError
from taskloom.metrics_log import MetricsLog
from taskloom.storage import write_atomically
from taskloom.sweep.space import RECIPE, Settings, slug

__all__ = ["LOG_FILE", "OUTCOME_FILE", "SETTINGS_FILE", "Outcome", "Trial", "copied_recipe", "read_metric"]

COMMAND = (sys.executable, "-m", "taskloom")
LOG_FILE = "log.txt"
OUTCOME_FILE = "outcome.json"
SETTINGS_FILE = "settings.json"
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_KILLED = -9  # SIGKILL, which not every system has
#: Exit code of a training that was interrupted.
INTERRUPTED = 130
#: Seconds between two looks at a training's log.
POLL = 0.5

Status = Literal["ok", "failed", "pruned"]


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Attributes:
        status: ``ok``; ``failed``, with the reason; or ``pruned``, stopped early.
        value: the sweep's metric; None without one.
        reason: why it failed, in a line.
    """

    status: Status
    value: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Trial:
    """A setting under one seed.

    Attributes:
        recipe: the sweep's recipe file, where the settings name none of their own.
        verb: the command that trains, such as ``train`` or ``online adapt``.
        settings: values by dotted field.
        seed: of the training.
        sweep: the sweep's folder.
        metric: what is compared: ``mean``, or a dotted path into scores.json such as ``after.stream.f1``.
        command: what runs `taskloom`.
    """

    recipe: Path
    verb: str
    settings: Settings
    seed: int
    sweep: Path
    metric: str = "mean"
    command: tuple[str, ...] = field(default_factory=lambda: COMMAND)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.sweep / "trials" / slug(self.settings) / f"seed-{self.seed}"

    def overrides(self) -> list[str]:
        """Return the trial's fields as `taskloom` takes them."""
        given = {field: value for field, value in self.settings.items() if field != RECIPE}
        fields = {**given, "seed": self.seed, "output": str(self.folder)}
        return [f"{field}={json.dumps(value)}" for field, value in fields.items()]

    def run(self, on_score: Callable[[int, float], bool] | None = None, retries: int = 1) -> Outcome:
        """Train, unless that is done, and return what became of it.

        Args:
            on_score: called with the step and the mean dev score of each evaluation; False stops the training.
            retries: how often a training that failed is taken up again.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder.parent / SETTINGS_FILE, json.dumps(self.settings, indent=2) + "\n")
        outcome = self._attempt(on_score)
        for _ in range(retries):
            if outcome.status == "failed":
                outcome = self._attempt(on_score)
        self.record(outcome)
        return outcome

    def record(self, outcome: Outcome) -> None:
        """Write down what became of the training."""
        write_atomically(self._beside(OUTCOME_FILE), json.dumps(asdict(outcome), indent=2) + "\n")

    def recorded(self) -> Outcome | None:
        """Return what was written down; None if it is not through."""
        path = self._beside(OUTCOME_FILE)
        return Outcome(**json.loads(path.read_text("utf-8"))) if path.is_file() else None

    def _beside(self, name: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}-{name}")

    def _attempt(self, on_score: Callable[[int, float], bool] | None) -> Outcome:
        if not self._finished():
            log = self._beside(LOG_FILE)
            own = self.settings.get(RECIPE)
            recipe = self.recipe if own is None else copied_recipe(self.sweep, own)
            command = [*self.command, *self.verb.split(), str(recipe), *self.overrides()]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [*command, "--resume"],
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
                try:
                    if not self._watch(process, on_score):
                        return Outcome("pruned", self.latest_score())
                finally:
                    _end(process)
            if process.returncode in (INTERRUPTED, -signal.SIGINT):
                raise KeyboardInterrupt
            if process.returncode:
                return Outcome("failed", reason=_reason(log, process.returncode))
        try:
            value = read_metric(self._results(), self.metric)
        except RunError as error:
            return Outcome("failed", reason=str(error))
        return Outcome("ok", value) if math.isfinite(value) else Outcome("failed", reason=f"{self.metric} is {value}")

    def _watch(self, process: subprocess.Popen[bytes], on_score: Callable[[int, float], bool] | None) -> bool:
        """Wait for a training; False if `on_score` has it stopped."""
        seen = 0
        while process.poll() is None:
            time.sleep(POLL)
            for step, score in self._scores():
                if step > seen and on_score is not None:
                    seen = step
                    if not on_score(step, score):
                        return False
        return True

    def _scores(self) -> Iterator[tuple[int, float]]:
        try:
            entries = MetricsLog(self.folder / "metrics.jsonl").read()
        except RunError:
            return
        for entry in entries:
            if isinstance(entry.get("dev/mean"), float | int):
                yield entry["step"], entry["dev/mean"]

    def latest_score(self) -> float | None:
        """Return the latest mean dev score that the training has logged."""
        scores = [score for _, score in self._scores()]
        return scores[-1] if scores else None

    def _results(self) -> Path:
        """Return the run folder: that of a verb which makes one below its output, or the output itself."""
        if (self.folder / "finished.json").is_file():
            return self.folder
        nested = sorted(self.folder.glob("*/finished.json"))
        return nested[-1].parent if nested else self.folder

    def _finished(self) -> bool:
        return (self._results() / "finished.json").is_file()


def copied_recipe(sweep: Path, name: str) -> Path:
    """Return where a sweep keeps its copy of a recipe that it tries."""
    return sweep / "recipes" / f"{slug({RECIPE: name}).removeprefix(f'{RECIPE}=')}.yaml"


def read_metric(run: Path, metric: str) -> float:
    """Return a value of a run's scores.json by its dotted path.

    Raises:
        RunError: there is none.
    """
    path = run / "scores.json"
    if not path.is_file():
        raise RunError(f"{run}: has no scores.json; is it finished?")
    value: Any = json.loads(path.read_text("utf-8"))
    for part in metric.split("."):
        known = list(value) if isinstance(value, dict) else []
        if part not in known:
            raise RunError(f"{path}: has no '{metric}': at '{part}' there is {', '.join(known) or 'no more'}")
        value = value[part]
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise RunError(f"{path}: '{metric}' is no number")
    return float(value)


def _die_with_parent() -> None:
    """Have the training stopped when the sweep's process is killed: it would hold its folder's lock."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a training that still runs: with a checkpoint if it takes no more than half a minute."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(log: Path, code: int) -> str:
    if code == _KILLED:
        return "killed (out of memory?)"
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "")
    return f"exit code {code}: {told}"[:300]
