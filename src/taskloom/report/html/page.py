"""The page: sections put together, and written as one file that fetches nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup

import taskloom
from taskloom.errors import RunError
from taskloom.report.html.reading.find import Found, find_runs
from taskloom.report.html.section import Limits, Section
from taskloom.report.html.sections.affinity import affinity
from taskloom.report.html.sections.curves import curves
from taskloom.report.html.sections.generations import generations
from taskloom.report.html.sections.objectives import objectives
from taskloom.report.html.sections.online import online
from taskloom.report.html.sections.pipeline import pipeline
from taskloom.report.html.sections.recipes import recipes
from taskloom.report.html.sections.scores import scores
from taskloom.report.html.sections.shares import shares
from taskloom.report.html.sections.summary import summary
from taskloom.report.html.sections.sweeps import sweeps
from taskloom.report.html.svg import show, style
from taskloom.report.html.view import View
from taskloom.storage import write_atomically

__all__ = ["MOST_BYTES", "Report", "write_report"]

#: A page that can be sent by mail.
MOST_BYTES = 10_000_000

#: A longer description of a pipeline is no title.
LONGEST_TITLE = 120

#: How a file is known to be a report, which another may replace.
MARK = '<meta name="generator" content="taskloom report'

_SECTIONS = (summary, pipeline, scores, curves, affinity, objectives, online, generations, sweeps, shares, recipes)
_SCRIPTS = ("base.js", "tables.js", "charts.js", "heatmap.js", "generations.js", "tokens.js")


@dataclass(frozen=True)
class Report:
    """A page, and what is on it.

    Attributes:
        html: the page.
        sections: their keys.
        runs: their names.
        notes: what is damaged, missing or left out.
    """

    html: bytes
    sections: list[str]
    runs: list[str]
    notes: list[str]

    @classmethod
    def of(cls, runs: Sequence[Path], title: str | None = None, most: int = MOST_BYTES) -> "Report":
        """Make the page of runs; what does not fit into `most` bytes is left out, and the page says so.

        Raises:
            RunError: a folder holds no run.
        """
        found, limits = find_runs(runs), Limits()
        while True:
            report = _drawn(View(found, limits, title or _title(runs, found)))
            if len(report.html) <= most:
                return report
            if limits == limits.tighter():
                large = f"the page has {len(report.html) / 1e6:.1f} MB, whatever is left out: name fewer runs"
                return replace(report, notes=[*report.notes, large])
            limits = limits.tighter()

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all, and return its file.

        Raises:
            RunError: there is something else in the place of `path`.
        """
        path = path.expanduser()
        refuse_other(path)
        write_atomically(path, self.html)
        return path


def refuse_other(path: Path) -> None:
    """Refuse to write where there is something other than a report.

    Raises:
        RunError: a folder, or another file.
    """
    if path.is_dir():
        raise RunError(f"{path}: is a folder, expected a file for the report, such as {path / 'report.html'}")
    if path.is_file():
        with path.open("rb") as file:
            if MARK.encode() not in file.read(4000):
                raise RunError(f"{path}: is there already, and is no report of taskloom: choose another file with -o")


def write_report(runs: Sequence[Path], path: Path, title: str | None = None) -> Path:
    """Write one HTML page about runs, which needs nothing but itself, and return its file.

    Args:
        runs: run folders, folders of groups, stages or seeds, sweeps, pipelines.
        path: the file; a report that is there is replaced.
        title: of the page; None takes a pipeline's description, or the folders' names.

    Raises:
        RunError: a folder holds no run, or there is something else in the place of `path`.
    """
    refuse_other(path.expanduser())
    return Report.of([Path(run) for run in runs], title).write(path)


def _title(runs: Sequence[Path], found: Found) -> str:
    if len(runs) == 1 and found.pipelines:
        pipeline = found.pipelines[0]
        return pipeline.description if 0 < len(pipeline.description) <= LONGEST_TITLE else pipeline.name
    names = list(dict.fromkeys(path.expanduser().resolve().name for path in runs))
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


def _drawn(view: View) -> Report:
    names = [run.name for run in view.runs if run.kind != "way"] or [each.name for each in view.pipelines]
    # The summary comes last, so that it has the notes of all that the others have read.
    others = {draw.__name__: draw(view) for draw in _SECTIONS if draw is not summary}
    others["summary"] = summary(view)
    sections = [section for draw in _SECTIONS if (section := others[draw.__name__]) is not None]
    left_out = [line for section in sections for line in section.left_out]
    html = (
        _environment(view)
        .get_template("page.html.j2")
        .render(
            title=view.title,
            sections=sections,
            left_out=left_out,
            generated=datetime.now(UTC).isoformat(timespec="minutes"),
            version=taskloom.__version__,
            **_assets(_data(sections)),
            shortened=view.labels.shortened,
        )
    )
    values = others["summary"].values
    notes = [*values["notes"], *values["missing"], *left_out]
    # A lone half of a surrogate pair cannot be written; it becomes a question mark.
    return Report(html.encode("utf-8", "replace"), [section.key for section in sections], names, notes)


def _environment(view: View) -> Environment:
    loader = ChoiceLoader([PackageLoader("taskloom.report.html"), PackageLoader("taskloom.report", "")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"label": view.labels, "short": view.labels.short, "num": show, "style": style}
    return environment


def _data(sections: Sequence[Section]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for section in sections:
        for name, value in section.data.items():
            if isinstance(value, dict) and isinstance(data.get(name), dict):
                data[name] |= value
            else:
                data[name] = value
    return data


def _assets(data: dict[str, Any]) -> dict[str, Any]:
    """Return styles, scripts and data, with the policy under which a browser runs these scripts and loads nothing."""
    static = resources.files("taskloom.report.html").joinpath("static")
    styles = static.joinpath("report.css").read_text("utf-8")
    script = "\n".join(static.joinpath(name).read_text("utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();'
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"styles": Markup(styles), "script": Markup(script), "policy": policy, "data": script_json(data)}


def script_json(value: Any) -> Markup:
    """Return `value` as JSON that no text in it can end the script element of, or start a comment in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    replaced = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return Markup(text.translate(str.maketrans(replaced)))
