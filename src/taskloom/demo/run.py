"""The demo: a pipeline on the generated suite, from data to a report that shows which tasks help each other."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from taskloom.demo.suite import write_suite
from taskloom.errors import RunError
from taskloom.pipeline import run_pipeline
from taskloom.processes import on_main
from taskloom.recipe import load_recipe
from taskloom.storage import write_atomically

__all__ = ["run_demo"]

RECIPE = "demo.yaml"
SEED_FILE = "seed.txt"


def run_demo(
    output: Path, model: str | None = None, seed: int = 0, overrides: Sequence[str] = (), quiet: bool = False
) -> Path:
    """Generate the suite, run the demo's pipeline on it, and return the report.

    A demo that was interrupted goes on where it was; one that is finished writes its report again.

    Args:
        output: the folder of the demo: data in `tasks/`, the recipe `demo.yaml`, and what the pipeline writes.
        model: what to train instead of the packaged MiniLM: a hub id, a folder, or `package:DISTRIBUTION/FOLDER`.
        seed: of the suite and of all trainings.
        overrides: further settings, as on the command line: "training.max_steps=10".
        quiet: print nothing.

    Raises:
        UserError: the model cannot be had, or `output` holds a demo of another seed.
    """
    on_main(lambda: _write(output, seed))
    settings = [f"seed={seed}", *([f"model.path={json.dumps(model)}"] if model else []), *overrides]
    recipe = load_recipe(output / RECIPE, [*settings, f"output={json.dumps(str(output))}"])
    run_pipeline(recipe, quiet=quiet)
    return output / "report.html"


def _write(output: Path, seed: int) -> None:
    """Write the suite, and a copy of the recipe that the user can change and run again."""
    seeds = output / "tasks" / SEED_FILE
    if not seeds.is_file():
        write_suite(output / "tasks", seed)
        write_atomically(seeds, f"{seed}\n")
        write_atomically(output / RECIPE, files("taskloom.demo").joinpath(RECIPE).read_text(encoding="utf-8"))
    elif seeds.read_text("utf-8").strip() != str(seed):
        raise RunError(
            f"{output}: holds the demo of seed {seeds.read_text('utf-8').strip()}. Choose another folder with --output"
        )
