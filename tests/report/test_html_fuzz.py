"""Files of runs with anything in the place of what belongs there: the report shows what is left, and never breaks."""

import json
import random
import shutil

import pytest
import yaml

from taskloom.errors import UserError
from taskloom.report.html import Report
from tests.report.test_html_page import everything

JUNK = [
    *(None, True, -1, 1e300, 10**30, "text", "", "1e5", "<b>", [], {}, [[]], [1, "a", None]),
    *({"a": {"b": [1]}}, {"x": None}, [[1], [2]]),
]


def changed(value, rng):
    """Return a value with one thing in it replaced, renamed or removed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key, how = rng.choice(list(value)), rng.random()
        others = {name: each for name, each in value.items() if name != key}
        if how < 0.1:
            return others
        if how < 0.2:
            return others | {str(rng.choice(JUNK)): value[key]}
        return value | {key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], changed(value[place], rng), *value[place + 1 :]]
    return rng.choice(JUNK)


def change(path, rng):
    text = path.read_text("utf-8")
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(changed(json.loads(text), rng)))
        case ".yaml":
            path.write_text(yaml.safe_dump(changed(yaml.safe_load(text), rng)))
        case ".jsonl":
            lines = text.splitlines()
            place = rng.randrange(len(lines))
            lines[place] = json.dumps(changed(json.loads(lines[place]), rng))
            path.write_text("".join(f"{line}\n" for line in lines))
        case _:
            rows = [line.split(",") for line in text.splitlines()]
            row = rng.choice(rows)
            row[rng.randrange(len(row))] = str(rng.choice(JUNK))
            path.write_text("".join(f"{','.join(row)}\n" for row in rows))


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return folder, [run.relative_to(folder) for run in everything(folder)]


@pytest.mark.parametrize("seed", range(12))
def test_files_of_any_content_are_survived(originals, tmp_path, seed):
    folder, runs = originals
    copy = tmp_path / "runs"
    shutil.copytree(folder, copy)
    rng = random.Random(seed)
    kinds = (".json", ".jsonl", ".csv", ".yaml")
    for path in rng.sample(sorted(path for path in copy.rglob("*") if path.suffix in kinds), 4):
        change(path, rng)
    try:
        made = Report.of([copy / run for run in runs])
    except UserError:
        return
    assert made.html.rstrip().endswith(b"</html>")
