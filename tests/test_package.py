"""What is installed: the wheel's content, the lowest versions, and imports without extras."""

import subprocess
import sys
import tomllib
from ast import Import, ImportFrom, parse, walk
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts.lowest_requirements import FILE, LEFT_OUT, lowest
from scripts.package import ROOT, build

EXTRAS = ("torchjd", "torch_geometric", "rouge_score", "sacrebleu", "gguf", "spacy", "optuna", "ray", "cvxpy")


def test_the_wheel_is_complete_and_that_of_the_source_distribution(tmp_path):
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    sdist, wheel = build(tmp_path)
    assert sdist.stat().st_size < 10 * 2**20
    assert wheel.stat().st_size < 5 * 2**20
    assert {path.name for path in tmp_path.iterdir()} == {sdist.name, wheel.name}


def test_the_lowest_versions_are_those_of_the_project():
    assert FILE.read_text("utf-8") == lowest()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pinned = {line.partition("=")[0] for line in lowest().splitlines()[1:]}
    assert {line.partition(">")[0] for line in project["dependencies"]} <= pinned | set(LEFT_OUT)


def test_every_module_is_imported_without_the_extras():
    names = [
        path.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in sorted((ROOT / "src").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    code = f"""
import sys, importlib
sys.modules |= dict.fromkeys({EXTRAS!r})
for name in {names!r}:
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        getattr(module, public)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_imported_is_declared():
    """Each package that the code imports is a direct dependency, or belongs to an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    known = packages_distributions()
    imported = set()
    for path in Path(ROOT / "src").rglob("*.py"):
        for node in walk(parse(path.read_text("utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, Import) else []
            if isinstance(node, ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            imported |= {name.partition(".")[0] for name in names}
    used = {
        canonicalize_name(known[name][0]) for name in imported - sys.stdlib_module_names - {"taskloom"} if name in known
    }
    # Parts of pydantic and of jinja2, which require them in the versions that they need.
    assert used - declared - {"pydantic-core", "markupsafe"} == set()
