"""`taskloom doctor`: what it finds, what it calls a problem, and that it never hangs."""

import importlib
import json
import subprocess
import sys
import threading
import time
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from socket import create_server

import pytest

from taskloom import doctor
from tests.cli.command import run

pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def nothing_is_asked(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def diagnosis(capsys, *arguments: object, code: int = 0) -> dict:
    outcome = run(capsys, "doctor", "--json", *arguments)
    assert outcome.code == code, outcome
    return json.loads(outcome.out)


def test_a_good_installation(capsys, tmp_path):
    found = diagnosis(capsys, "--output", tmp_path / "not" / "yet")
    assert found["ok"]
    assert found["problems"] == []
    versions = {each["package"]: each for each in found["versions"]}
    for package in ("torch", "transformers", "peft", "accelerate", "datasets"):
        assert versions[package]["found"] == metadata.version(package)
        assert versions[package]["ok"]
    assert found["devices"][0]["kind"] == "cpu"
    assert 2**28 < found["devices"][0]["free"] <= found["devices"][0]["memory"]
    runs = found["disk"][-1]
    assert runs["path"] == str(tmp_path / "not" / "yet")
    assert runs["writable"]
    assert not (tmp_path / "not").exists()  # it only looks


def test_the_text_ends_with_the_verdict(capsys):
    outcome = run(capsys, "doctor")
    assert outcome.code == 0
    assert outcome.out.endswith("Training can work.\n")
    assert "HF_HUB_OFFLINE is set" in outcome.out
    assert "\x1b" not in outcome.out


def test_the_extras_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert doctor.EXTRAS.keys() == extras.keys() - {"dev", "docs"}
    for extra in doctor.diagnose().extras:
        assert extra.install == f"pip install 'taskloom[{extra.name}]'"
        assert extra.installed == (not extra.missing)


def test_what_is_missing_or_too_old_is_a_problem_with_its_remedy(capsys, monkeypatch):
    present = metadata.version

    def version(package: str) -> str:
        if package == "peft":
            raise metadata.PackageNotFoundError(package)
        return "0.0.1" if package in ("transformers", "optuna") else present(package)

    monkeypatch.setattr(metadata, "version", version)
    found = diagnosis(capsys, code=1)
    assert len(found["problems"]) == 2
    told = "\n".join(found["problems"])
    assert "peft is not installed" in told
    assert "pip install 'transformers>=" in told
    sweep = next(extra for extra in found["extras"] if extra["name"] == "sweep")
    assert not sweep["installed"]
    assert sweep["missing"][0].startswith("optuna>=")  # an extra is no problem
    assert "Training cannot work." in run(capsys, "doctor").out


def test_a_broken_torch_is_told(capsys, monkeypatch):
    real = importlib.import_module

    def broken(name: str, *rest: object):
        if name == "taskloom.training":
            raise OSError("libtorch.so: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    found = diagnosis(capsys, code=1)
    assert found["problems"] == [
        "taskloom.training cannot be imported: OSError: libtorch.so: cannot open shared object file"
    ]


def test_a_folder_that_cannot_be_written_to_is_a_problem(capsys, monkeypatch, tmp_path):
    def read_only(**_: object):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    assert f"{tmp_path} (runs) cannot be written to" in diagnosis(capsys, "--output", tmp_path, code=1)["problems"]


# --- the hub


class Answer(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(404 if self.path.startswith("/lost") else 200)
        self.end_headers()

    def log_message(self, *_: object):
        pass


@pytest.fixture
def hub(monkeypatch):
    """Ask the hub at this address."""

    def ask(capsys, endpoint: str, *arguments: object) -> dict:
        monkeypatch.delenv("HF_HUB_OFFLINE")
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setenv("no_proxy", "*")
        return diagnosis(capsys, *arguments)["hub"]

    return ask


@pytest.mark.parametrize("path", ["", "/lost"])
def test_a_hub_that_answers(capsys, hub, path):
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = hub(capsys, f"http://127.0.0.1:{server.server_port}{path}")
        server.shutdown()
    assert found["status"] == "reachable"


def test_a_hub_that_refuses(capsys, hub):
    with create_server(("127.0.0.1", 0)) as socket:
        port = socket.getsockname()[1]
    assert hub(capsys, f"http://127.0.0.1:{port}")["status"] == "unreachable"


def test_a_hub_that_is_silent_is_not_waited_for(capsys, hub):
    doctor.diagnose()  # the imports
    with create_server(("127.0.0.1", 0)) as socket:
        start = time.monotonic()
        found = hub(capsys, f"http://127.0.0.1:{socket.getsockname()[1]}", "--hub-timeout", "0.3")
        assert time.monotonic() - start < 2
    assert found["status"] == "unreachable"


def test_an_address_that_is_none_is_told(capsys, hub):
    assert hub(capsys, "huggingface")["status"] == "unreachable"


def test_the_hubs_folders_are_those_of_its_library():
    code = """
import os, importlib
from pathlib import Path
from huggingface_hub import constants
from taskloom.doctor import _hub, _hub_cache
for settings in ({}, {"HF_HOME": "/h"}, {"HF_HOME": "/h", "HF_HUB_CACHE": "/c"}, {"XDG_CACHE_HOME": "/x"},
                 {"HF_ENDPOINT": "http://mirror/"}):
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "HF_ENDPOINT"):
        os.environ.pop(name, None)
    os.environ.update(settings)
    importlib.reload(constants)
    assert _hub_cache().expanduser() == Path(constants.HF_HUB_CACHE), settings
    assert _hub(0.1).endpoint == constants.ENDPOINT, settings
"""
    subprocess.run([sys.executable, "-c", code], check=True)
