"""What was run: the environments, the exact recipes, and every field in which they differ."""

import shlex

from taskloom.report.html.reading.files import mapping
from taskloom.report.html.reading.run import Run
from taskloom.report.html.reading.settings import differing_fields
from taskloom.report.html.section import Section
from taskloom.report.html.sections.summary import MOST, plain
from taskloom.report.html.view import View

__all__ = ["recipes"]

#: Of these every run has its own.
_EACH_ITS_OWN = ("started", "command", "folder of the run", "seed", "resumed")
#: Longer recipes are cut.
LONGEST = 60_000


def recipes(view: View) -> Section | None:
    """Return environments and recipes side by side."""
    runs = [run for run in view.runs if run.kind != "way"]
    if not runs:
        return None
    left_out = [
        f"{run.name}: what is behind the first {LONGEST:,} characters of its recipe; see {run.path}"
        for run in runs
        if len(run.recipe_text) > LONGEST
    ]
    environments = [_environment(run) for run in runs]
    fields = dict.fromkeys(name for each in environments for name in each)
    rows = []
    for name in fields:
        known = {each.get(name, "–") for each in environments if each and name not in _EACH_ITS_OWN}
        rows.append((name, [each.get(name, "–") for each in environments], len(known) > 1))
    differing = differing_fields(runs)
    values = {
        "names": [run.name for run in runs],
        "environment": rows,
        # The summary has them unless they are many.
        "differing": [(name, [plain(value) for value in each]) for name, each in differing.items()]
        if len(differing) > MOST
        else [],
        "same": not differing,
        "recipes": [(run.name, run.recipe_text[:LONGEST]) for run in runs],
        "missing": [run.name for run in runs if not run.recipe_text],
    }
    return Section("recipes", "Recipes and environment", values, {}, left_out)


def _environment(run: Run) -> dict[str, str]:
    found = run.environment
    if not found:
        return {}
    command = found.get("command")
    git = mapping(found.get("git"))
    rows = {
        "started": found.get("started"),
        "command": shlex.join(map(str, command)) if isinstance(command, list) else command,
        "folder of the run": str(run.path),
        "seed": found.get("seed"),
        "device": found.get("device"),
        "processor cores": found.get("cpus"),
        "platform": found.get("platform"),
        "commit": f"{git.get('commit')}{' (with changes)' if git.get('dirty') else ''}" if git else None,
        "resumed": f"{run.resumed} time{'s' * (run.resumed > 1)}" if run.resumed else None,
        "Python": found.get("python"),
        **{str(name): version for name, version in mapping(found.get("packages")).items()},
    }
    return {name: str(value) for name, value in rows.items() if value is not None}
