"""The rules that hold for every wrong input: see `error_audit.py`, which lists them."""

import shutil

import pytest

from tests.cli.error_audit import CASES, Case, make_project, run_case


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "project"
    folder.mkdir()
    make_project(folder)
    return folder


def test_names_are_told_apart():
    assert len({case.name for case in CASES}) == len(CASES) >= 40
    verbs = {case.command[0] for case in CASES}
    assert {"train", "evaluate", "predict", "affinity", "group", "auxiliary", "online", "sweep", "run"} <= verbs
    assert {"report", "recipes", "demo", "doctor"} <= verbs


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_message_says_what_is_wrong(case: Case, project):
    told = run_case(case, project)
    assert told.code == 2, told
    assert told.out == ""
    assert told.err.count("error: ") == 1, told.err
    assert "Traceback" not in told.err
    message = told.err.partition("error: ")[2]
    for part in case.told:
        assert part in message


def test_a_case_leaves_the_project_as_it_was(project):
    before = {path.relative_to(project): path.stat().st_size for path in project.rglob("*")}
    case = Case("new file", ["recipes", "no-such"], [], lambda: shutil.rmtree("data"))
    assert run_case(case, project).code == 2
    assert {path.relative_to(project): path.stat().st_size for path in project.rglob("*")} == before
