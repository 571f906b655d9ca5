"""A sweep's trials, as `taskloom.sweep.results` gathers them, but for those whose files are damaged."""

import re
from dataclasses import dataclass
from typing import Any

from taskloom.report.html.reading.files import Files, mapping, number
from taskloom.report.html.reading.run import Run, flat
from taskloom.sweep.plan import PLAN_FILE
from taskloom.sweep.results import Row
from taskloom.sweep.trial import OUTCOME_FILE, SETTINGS_FILE

__all__ = ["Sweep", "read_sweep"]


@dataclass(frozen=True)
class Sweep:
    """A sweep: its metric, whether less of it is better, and a row a setting, the best first."""

    metric: str
    minimize: bool
    planned: int | None
    rows: list[Row]

    @property
    def fields(self) -> list[str]:
        return list(dict.fromkeys(field for row in self.rows for field in row.settings))


def read_sweep(run: Run) -> Sweep:
    """Read a sweep's folder."""
    plan = run.files.json(PLAN_FILE)
    minimize = plan.get("minimize") is True
    rows = []
    for folder in sorted((run.path / "trials").glob("*")):
        files = Files(folder, run.notes)
        outcomes: dict[int, dict[str, Any]] = {}
        for path in sorted(folder.glob(f"seed-*-{OUTCOME_FILE}")):
            match = re.fullmatch(rf"seed-(\d+)-{re.escape(OUTCOME_FILE)}", path.name)
            if match and (outcome := files.json(path.name)):
                outcomes[int(match[1])] = outcome
        if outcomes:
            rows.append(_row(flat(files.json(SETTINGS_FILE)), outcomes))
    sign = 1 if minimize else -1
    rows.sort(key=lambda row: (row.status != "ok", row.mean is None, sign * (row.mean or 0.0)))
    size = number(plan.get("trials"))
    if size is None:
        choices = [mapping(each).get("values") for each in mapping(plan.get("space")).values()]
        size = 1
        for values in choices:
            size *= len(values) if isinstance(values, list) else 1
    return Sweep(str(plan.get("metric") or "mean"), minimize, int(size), rows)


def _row(settings: dict[str, Any], outcomes: dict[int, dict[str, Any]]) -> Row:
    statuses = [str(outcome.get("status")) for outcome in outcomes.values()]
    status = next((each for each in ("failed", "pruned") if each in statuses), "ok")
    values = {seed: value for seed, each in outcomes.items() if (value := number(each.get("value"))) is not None}
    reason = next((str(each["reason"]) for each in outcomes.values() if each.get("reason")), "")
    return Row(settings, status, values, reason)
