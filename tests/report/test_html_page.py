"""The report's page as text: what it holds, what it escapes, what it leaves out, how it is written."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from taskloom.errors import RunError
from taskloom.report.html import Report, write_report
from taskloom.report.html.page import script_json
from taskloom.report.html.reading.find import find_runs
from taskloom.report.html.section import Limits
from taskloom.report.html.sections.sweeps import _Axis
from taskloom.report.html.svg import Line, LineChart, show, smoothed, style, thinned, ticks
from taskloom.report.html.view import Labels
from tests.cli.command import refused, run
from tests.report.folders import (
    HOSTILE,
    NAMES,
    write_affinity,
    write_generations,
    write_objectives,
    write_pipeline,
    write_run,
    write_stream,
    write_sweep,
)


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of each."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.text = ""
        self._inside: str | None = None
        self.feed(html.decode("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.text += data


def everything(folder):
    """Return folders of runs of every kind."""
    plain = write_run(folder / "plain", {"rte": 0.7, "mrpc": 0.45, "cola": 0.9})
    other = write_run(folder / "other", {"rte": 0.8, "mrpc": 0.6, "cola": 0.9}, adapter={"method": "ca_mtl"})
    write_affinity(plain, ["rte", "mrpc", "cola"], [["rte", "cola"], ["mrpc"]])
    write_generations(plain, 45)
    auxiliary = write_run(folder / "auxiliary", {"rte": 0.75}, auxiliary={"space": "full"})
    write_objectives(auxiliary)
    pipeline = folder / "pipeline"
    write_run(pipeline / "train", {"sst2": 0.9})
    write_pipeline(pipeline, {"train": "train"})
    return [plain, other, auxiliary, write_stream(folder / "online"), write_sweep(folder / "sweep"), pipeline]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return Report.of(everything(tmp_path_factory.mktemp("runs")))


def test_every_section_appears(report):
    assert report.sections == [
        *("summary", "pipeline", "scores", "curves", "affinity", "objectives", "online"),
        *("generations", "sweeps", "shares", "recipes"),
    ]
    assert report.notes == []


def test_the_page_needs_nothing_but_itself_and_its_policy_allows_its_own_scripts_alone(report):
    page = Parsed(report.html)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        for name in ("src", "srcset", "action", "data", "poster", "background"):
            assert name not in attributes, (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = [
        attributes["content"] for tag, attributes in page.elements if "Content-Security-Policy" in attributes.values()
    ]
    (script,) = [text for attributes, text in page.scripts if "type" not in attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "url(" not in report.html.decode()
    assert "http" not in re.sub(
        r'"[^"]*http-equiv[^"]*"|http-equiv|http://www.w3.org/2000/svg', "", report.html.decode()
    )


def test_structure_serves_screen_readers(report):
    page = Parsed(report.html)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    tags = [tag for tag, _ in page.elements]
    assert [tags.count(tag) for tag in ("main", "h1", "nav", "header", "footer")] == [1] * 5
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 or before >= 3 for before, after in pairwise(levels))
    for tag, attributes in page.elements:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label"), attributes
        if tag == "th":
            assert attributes.get("scope") in ("col", "row", "colgroup")


def test_scores_are_the_runs_own(report):
    page = report.html.decode()
    row = page[page.index("<bdi>mrpc</bdi>") :].partition("</tr>")[0]
    assert re.findall(r'data-v="([\d.]+)"', row)[:3] == ["0.5", "0.45", "0.6"]
    assert "≤ majority" in row.split("</td>")[1]
    assert "best" in row.split("</td>")[2]
    cola = page[page.index("<bdi>cola</bdi>") :].partition("</tr>")[0]
    assert "best" not in cola  # both have 0.9


def test_seeds_are_summed_up_and_runs_of_other_tasks_are_not_compared(tmp_path):
    runs = [write_run(tmp_path / f"seed-{seed}", {"rte": 0.5 + seed / 10}, seed=seed) for seed in (0, 1)]
    runs.append(write_run(tmp_path / "elsewhere", {"sst2": 0.99}))
    text = Parsed(Report.of(runs).html).text
    assert "0.550 ± 0.071" in text
    assert "The highest" not in text
    other = write_run(tmp_path / "other", {"rte": 0.4}, x=1)
    text = Parsed(Report.of([*runs[:2], other]).html).text
    assert "The highest mean dev score is 0.550 ± 0.071 over 2 seeds: seed-0 (2 seeds)." in text


def test_equal_runs_are_all_the_best(tmp_path):
    runs = [
        write_run(tmp_path / name, {"rte": score}, x=name) for name, score in zip("abc", (0.6, 0.5, 0.6), strict=True)
    ]
    page = Report.of(runs).html
    assert "The highest mean dev score is 0.600: a and c." in Parsed(page).text
    table = page.decode().partition("<caption>Runs</caption>")[2].partition("</table>")[0]
    assert table.count(">best<") == 2


def test_a_sweep_is_not_counted_as_a_run(tmp_path):
    write_sweep(tmp_path / "sweep")
    assert "1 sweep." in Parsed(Report.of([tmp_path / "sweep"]).html).text


def test_differences_of_recipes_are_shown(report):
    page = report.html.decode()
    table = page[page.index("What differs between the recipes") :].partition("</table>")[0]
    assert "adapter.method" in table
    assert "ca_mtl" in table
    assert "training.learning_rate" in table  # the sweep's recipe has none
    assert "output" not in table


def test_many_differences_are_whole_in_the_recipes_section_and_few_are_told_once(tmp_path):
    runs = [
        write_run(tmp_path / f"r{number}", {"rte": 0.5}, changed={f"f{at}": number for at in range(9)})
        for number in (0, 1)
    ]
    text = Parsed(Report.of(runs).html).text
    assert "the first 8 of 9 fields" in text
    assert "Fields in which the recipes differ" in text
    few = [write_run(tmp_path / f"s{number}", {"rte": 0.5}, f0=number) for number in (0, 1)]
    text = Parsed(Report.of(few).html).text
    assert "What differs between the recipes" in text
    assert "Fields in which the recipes differ" not in text
    assert "The recipes are the same" not in text


def test_a_pipeline_is_titled_by_its_description(tmp_path):
    stages = [{"name": "train", "kind": "train", "folder": "train", "status": "done", "seconds": 1.0, "message": None}]
    for description, title in (("Which tasks help?", "Which tasks help?"), ("", "opinions"), ("x" * 200, "opinions")):
        folder = tmp_path / f"p{len(description)}"
        write_run(folder / "train", {"rte": 0.5})
        content = {"recipe": "opinions", "description": description, "stages": stages}
        (folder / "pipeline.json").write_text(json.dumps(content))
        page = Report.of([folder]).html.decode()
        assert f'<h1 dir="auto">{title}</h1>' in page
        assert page.count("<bdi>Which tasks help?</bdi>") == 0  # not told twice


def test_an_unfinished_stage_goes_on_with_its_pipeline(tmp_path):
    write_run(tmp_path / "train", {"rte": 0.5}, finished=False)
    stages = [{"name": "train", "kind": "train", "folder": "train", "status": "interrupted"}]
    (tmp_path / "pipeline.json").write_text(json.dumps({"recipe": "r", "description": "", "stages": stages}))
    (note,) = Report.of([tmp_path]).notes
    assert note.endswith("The command that ran the pipeline goes on with it")


def test_what_opened_a_finished_run_did_not_resume_it(tmp_path):
    run = write_run(tmp_path / "run", {"rte": 0.5})
    times = [f"2026-01-01T10:{minute:02d}:00+00:00" for minute in (0, 2, 3)]
    (run / "finished.json").write_text(json.dumps({"finished": times[1]}))
    environment = {"started": times[0], "resumed": [{"started": times[2]}]}
    (run / "environment.json").write_text(json.dumps(environment))
    (found,) = find_runs([run]).runs
    assert (found.resumed, found.minutes) == (0, 2.0)
    (run / "finished.json").write_text(json.dumps({"finished": "2026-01-01T10:04:00+00:00"}))
    (found,) = find_runs([run]).runs
    assert (found.resumed, found.minutes) == (1, None)


def test_hostile_text_is_text(tmp_path):
    scores = {name.replace("/", "|"): 0.6 for name in NAMES}
    run = write_run(tmp_path / "run", scores, description=HOSTILE, tasks=list(NAMES))
    write_affinity(run, list(scores), [list(scores)])
    write_generations(run, 3, answer=HOSTILE)
    html = Report.of([run, write_stream(tmp_path / "online", HOSTILE)], title=HOSTILE).html
    page = Parsed(html)
    assert not any(
        tag == "img" or any(name.startswith("on") for name in attributes) for tag, attributes in page.elements
    )
    assert len(page.scripts) == 2
    assert HOSTILE[:60] in page.text
    (data,) = [text for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    assert not set("<>&\u2028\u2029") & set(data)
    answers = json.loads(data)["answers"]["rows"]
    assert answers[1]["a"][0][0] == HOSTILE
    assert "{{ 7*7 }}" in page.text


def test_lone_surrogates_can_be_written(tmp_path):
    run = write_run(tmp_path / "run", description="x")
    (run / "generations").mkdir()
    (run / "generations" / "a.jsonl").write_text('{"input": "\\ud800 end", "prediction": "\\udfff"}\n')
    assert b"? end" in Report.of([run]).html


def test_data_cannot_end_its_element():
    value = {"a": "</script><!--<script>&\u2028\u2029"}
    text = script_json(value)
    assert json.loads(text) == value
    assert "<" not in text
    assert "\u2028" not in text


def test_unfinished_and_damaged_runs_are_shown_with_what_is_missing(tmp_path):
    run = write_run(tmp_path / "run", finished=False)
    with (run / "metrics.jsonl").open("a") as log:
        log.write("oops\n")
    made = Report.of([run])
    text = Parsed(made.html).text
    assert "run: not finished; it has logged 20 steps. Continue it with --resume" in text
    assert f"{run / 'metrics.jsonl'}:13: not a JSON object" in text
    assert "curves" in made.sections
    assert len(made.notes) == 2
    begun = write_run(tmp_path / "begun", finished=False)
    (begun / "metrics.jsonl").unlink()
    (begun / "environment.json").unlink()
    text = Parsed(Report.of([begun]).html).text
    assert "nothing is logged yet" in text


def test_what_does_not_fit_is_left_out_and_named(tmp_path):
    run = write_run(tmp_path / "run")
    write_generations(run, 3000)
    whole = Report.of([run])
    assert whole.notes == []
    small = Report.of([run], most=200_000)
    assert len(small.html) < 200_000 < len(whole.html)
    (note,) = small.notes
    shown = len(json.loads(next(text for a, text in Parsed(small.html).scripts if "type" in a))["answers"]["rows"])
    assert note.startswith(f"{3000 - shown:,} of 3,000 answered inputs")
    assert note in Parsed(small.html).text


def test_a_heatmap_that_is_left_out_leaves_groups_and_pairs(tmp_path):
    names = [f"task-{number}" for number in range(301)]
    run = write_run(tmp_path / "run")
    write_affinity(run, names, [names[:100], names[100:]])
    made = Report.of([run])
    assert made.notes == [f"run: the heatmap of 301 tasks; see {run / 'affinity'}"]
    page = made.html.decode()
    assert 'class="heatmap"' not in page
    assert "Graph of 301 tasks in 2 groups" in page
    assert "The 40 strongest pairs" in page


def test_a_page_that_stays_too_large_says_so(tmp_path):
    made = Report.of([write_run(tmp_path / "run")], most=1000)
    assert "whatever is left out: name fewer runs" in made.notes[-1]


def test_limits_shrink_to_a_fixed_point():
    limits = Limits()
    for _ in range(40):
        limits = limits.tighter()
    assert limits == limits.tighter() == Limits(1, 1, 1, 1, 1)


def test_long_names_are_shortened_once_and_stay_apart():
    labels = Labels()
    first, second = "x" * 100 + "a", "x" * 100 + "b"
    assert len(labels.short(first)) == len(labels.short(first)) <= 48
    assert labels.short(first) != labels.short(second)
    assert labels("short & <b>") == "<bdi>short &amp; &lt;b&gt;</bdi>"
    assert 'href="#name-2"' in labels(second)


def test_charts_numbers():
    assert [show(value) for value in (None, 0.12345, -0.5, 12345.6, 1e-5, 0, float("nan"), "x")] == [
        *("–", "0.123", "−0.500", "1.235e+04", "1e−05", "0.000", "–", "–")
    ]
    assert ticks(0, 80) == [0, 20, 40, 60, 80]
    assert ticks(0.31, 0.52) == pytest.approx([0.35, 0.4, 0.45, 0.5])
    points = [(float(x), float(x % 2)) for x in range(1000)]
    assert len(thinned(points, 50)) == 50
    assert (thinned(points, 50)[0], thinned(points, 50)[-1]) == (points[0], points[-1])
    assert smoothed([(0, 1.0), (1, 2.0), (2, 6.0)]) == [(0, 3.0), (1, 3.0), (2, 3.0)]
    assert len({style(index) for index in range(28)}) == 28
    chart = LineChart("k", "t", [Line("a", [(0, 1.0), (10, 3.0)], 0)])
    assert chart.x(10) > chart.x(0)
    assert chart.y(3) < chart.y(1)
    assert not LineChart("k", "t", [])
    assert LineChart("k", "t", [Line("a", [(5, 2.0)], 0)]).svg()


def test_axes_of_sweeps():
    rates = _Axis([1e-5, 1e-3, 1e-1])
    assert rates.place(1e-3) == pytest.approx(0.5)
    words = _Axis(["b", "a", None, [1]])
    assert [words.place(value) for value in ("b", "a", None, [1])] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert _Axis([3, 3]).place(3) == 0.5


# Writing, and the command


def test_a_report_may_be_replaced_but_nothing_else(tmp_path):
    run = write_run(tmp_path / "run")
    path = tmp_path / "deep" / "report.html"
    assert write_report([run], path) == path
    first = path.read_bytes()
    write_report([run], path, title="Another")
    assert path.read_bytes() != first
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    with pytest.raises(RunError, match="is no report of taskloom"):
        write_report([run], notes)
    assert notes.read_text() == "mine"
    with pytest.raises(RunError, match="is a folder"):
        write_report([run], tmp_path)


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = write_run(tmp_path / "first")
    write_run(tmp_path / "second", finished=False)
    done = run(capsys, "report", "first")
    assert (done.code, done.err) == (0, "")
    assert "Report: first/report.html" in done.out
    assert (first / "report.html").is_file()
    done = run(capsys, "report", "first", "second", "--title", "Both <b>", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["report"] == "report.html"
    assert told["runs"] == ["first", "second"]
    assert "not finished" in told["notes"][0]
    assert "<title>Both &lt;b&gt; – taskloom report</title>" in (tmp_path / "report.html").read_text("utf-8")


def test_command_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run")
    assert "there is no such run folder" in refused(capsys, "report", "gone")
    assert not (tmp_path / "gone").exists()
    assert "holds no run" in refused(capsys, "report", "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    assert "is a folder" in refused(capsys, "report", "run", "-o", "empty")


def test_opening(tmp_path, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    folder = write_run(tmp_path / "run with space")
    assert run(capsys, "report", folder, "--open").code == 0
    assert opened == [(folder / "report.html").as_uri()]
