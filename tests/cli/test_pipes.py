"""Standard output as a pipe: a reader that leaves early, a locale of another alphabet, colours not asked for."""

import json
import os
import subprocess
import sys

import pytest

from taskloom.cli.output import styled

MAIN = "from taskloom.cli import main; main()"


@pytest.mark.parametrize("arguments", [["tasks"], ["recipes", "--fields"], ["tasks", "--json"], ["train", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `| true` does, before anything is written
    told = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert told == ""


def test_data_is_utf8_in_any_locale(tmp_path):
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def told(name: str) -> str:
        command = [sys.executable, "-c", MAIN, "train", name]
        done = subprocess.run(command, env=plain, capture_output=True, cwd=tmp_path)
        assert done.returncode == 2
        return done.stderr.decode("utf-8")

    (tmp_path / "r.yaml").write_text("model: {path: m}\ntasks: [glue/rte]\ngröße: 3\n", "utf-8")
    assert "unknown key 'größe'" in told("r.yaml")
    (tmp_path / "größe.yaml").write_text("a: [\n", "utf-8")
    assert "not valid YAML" in told("größe.yaml")


def test_no_color_is_heeded(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("error:", fg="red") == "\x1b[31merror:\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("error:", fg="red") == "error:"


@pytest.mark.parametrize("arguments", [["tasks"], ["recipes"], ["recipes", "--fields"], ["recipes", "ca-mtl/base"]])
def test_lists_are_one_json_object(arguments):
    done = subprocess.run([sys.executable, "-c", MAIN, *arguments, "--json"], capture_output=True, text=True)
    assert isinstance(json.loads(done.stdout), dict)
    assert done.stderr == ""
