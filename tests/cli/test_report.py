"""`taskloom report` on a run that was really trained, finished and interrupted."""

import json
import re

from tests.cli.command import run


def test_a_trained_run_and_one_that_was_stopped(project, capsys):
    assert run(capsys, "train", "tiny.yaml").code == 0
    assert run(capsys, "train", "tiny.yaml", "seed=1", "output=runs/second").code == 0
    stopped = project / "runs" / "second"
    (stopped / "scores.json").unlink()
    (stopped / "finished.json").unlink()
    with (stopped / "metrics.jsonl").open("a") as log:
        log.write('{"step": 7, "lo')
    done = run(capsys, "report", "runs/tiny", "runs/second", "-o", "page.html", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["sections"] == ["summary", "scores", "curves", "shares", "recipes"]
    assert told["notes"] == ["second: not finished; it has logged 6 steps. Continue it with --resume"]
    told = run(capsys, "report", "runs/tiny", "-o", "page2.html", "--quiet")
    assert (told.out, told.err) == ("Report: page2.html\n", "")
    page = (project / "page.html").read_text("utf-8")
    scores = json.loads((project / "runs/tiny/scores.json").read_text())
    accuracy = scores["dev"]["sentiment"]["accuracy"]
    row = page[page.index("<bdi>sentiment</bdi>") :].partition("</tr>")[0]
    assert accuracy in [float(value) for value in re.findall(r'data-v="([\d.]+)"', row)]
