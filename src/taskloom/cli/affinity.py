"""`taskloom affinity`: which tasks of a recipe help each other."""

import shlex

import typer

from taskloom.cli.arguments import (
    DataOption,
    OutputOption,
    QuietOption,
    RecipeArgument,
    SeedOption,
    SettingsArgument,
    overridden,
)
from taskloom.cli.output import JsonOption, print_json, print_table
from taskloom.cli.quiet import hush_libraries
from taskloom.processes import is_main, launch_command
from taskloom.recipe import load_recipe

__all__ = ["affinity"]


def affinity(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate which tasks help each other, from the gradients of one model trained on all of them.

    Trains that model first, unless the run folder holds it already; whatever was interrupted goes on.
    """
    overrides = overridden(settings, output, data_dir, seed)
    checked = load_recipe(recipe, overrides)

    hush_libraries()
    from taskloom.affinity.folder import AFFINITY_FOLDER
    from taskloom.affinity.run import estimate_affinity

    try:
        run, found = estimate_affinity(checked, quiet=quiet or as_json)
    except KeyboardInterrupt:
        if is_main():
            command = shlex.join([*launch_command(), "affinity", recipe, *overrides])
            typer.echo(f"interrupted. Continue with: {command}", err=True)
        raise typer.Exit(130) from None
    if not is_main():
        return
    gains, errors = found.gain.tolist(), found.gain_stderr.tolist()
    if as_json:
        matrix = {
            "values": found.values.tolist(),
            "stderr": found.stderr.tolist(),
            "gain": gains,
            "gain_stderr": errors,
        }
        print_json({"run": str(run.path), "tasks": found.tasks, "metric": found.metric, **matrix})
        return
    rows = []
    for i, task in enumerate(found.tasks):
        others = sorted((j for j in range(len(gains)) if j != i), key=lambda j: -gains[i][j])
        rows.append((task, *(_partner(found.tasks[j], gains[i][j], errors[i][j]) for j in (others[0], others[-1]))))
    against = "training alone" if checked.affinity.order == "pairwise" else "the mean over its subsets"
    print_table(("task", f"best with (against {against})", "worst with"), rows)
    if quiet:
        return
    typer.echo(f"\nEstimates and heatmap: {run.path / AFFINITY_FOLDER}", err=True)
    typer.echo(f"Group the tasks with:  {shlex.join(['taskloom', 'group', str(run.path)])}", err=True)


def _partner(name: str, gain: float, error: float) -> str:
    return f"{name} {gain:+.4f} (stderr {error:.4f})"
