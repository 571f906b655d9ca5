"""The site: it builds strictly without a network, asks for nothing from elsewhere, and its reference is complete."""

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from scripts.reference import MARK, reference_pages

from taskloom.cli.app import app
from taskloom.recipe import recipe_fields
from taskloom.recipe.packaged import packaged_recipes
from taskloom.tasks import list_presets
from taskloom.tasks.task import Task
from tests.docs.pages import HOUSE, PAGES, read

PACKAGES = (
    "taskloom",
    *(f"taskloom.{name}" for name in ("adapters", "sampling", "gradients", "affinity", "auxiliary", "online")),
    *(f"taskloom.{name}" for name in ("evaluation", "graphs", "report")),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install 'taskloom[docs]', or make docs)")
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=HOUSE,
        capture_output=True,
        text=True,
        check=False,
    )
    warnings = [line for line in run.stderr.splitlines() if line.startswith(("WARNING", "ERROR", "Aborted"))]
    assert run.returncode == 0, "\n".join(warnings) or run.stderr[-2000:]
    return folder


class Resources(HTMLParser):
    """What a page loads by itself, as opposed to what it links to; and the ids on it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.add(str(given["id"]))
        key = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}.get(tag)
        if key and given.get(key) and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(str(given[key]))


def parsed(page: Path) -> Resources:
    parser = Resources()
    parser.feed(page.read_text("utf-8"))
    return parser


def test_no_page_loads_anything_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        outside = [url for url in parsed(page).loaded if re.match(r"(https?:)?//", url)]
        assert outside == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", style.read_text("utf-8")), style.name


def test_every_page_is_in_the_site(site):
    for page in PAGES:
        place = "index" if page == "README.md" else page.removeprefix("docs/").removesuffix(".md")
        assert (site / f"{place}.html").is_file(), page


def test_every_page_is_in_the_navigation(site):
    """Others can be found by searching alone."""
    home = (site / "index.html").read_text("utf-8")
    for page in PAGES:
        if page != "README.md":
            place = page.removeprefix("docs/").removesuffix(".md")
            tab = place.partition("/")[0] in ("methods", "reference", "migration")  # the first page links to each tab
            whole = (site / f"{place}.html").read_text("utf-8") if tab else home
            assert f'{place.rpartition("/")[2]}.html"' in whole, page


def test_the_python_reference_has_every_public_name(site):
    for package in PACKAGES:
        module = importlib.import_module(package)
        ids = parsed(site / f"reference/{package.rpartition('.')[2]}.html").ids
        names = [name for name in module.__all__ if not name.startswith("_")]
        assert [name for name in names if f"{package}.{name}" not in ids] == [], package


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package):
    module = importlib.import_module(package)
    assert inspect.getdoc(module)
    for name in module.__all__:
        value = getattr(module, name)
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        # A dataclass without a docstring is given its signature.
        own = vars(value).get("__doc__") or "" if inspect.isclass(value) else value.__doc__ or ""
        assert own, f"{package}.{name} has no docstring"
        assert not own.startswith(f"{name}("), f"{package}.{name} has no docstring of its own"


# --- what the code writes


def test_each_page_of_reference_has_a_place_for_its_tables():
    for page in reference_pages():
        assert read(f"docs/{page}").count(MARK) == 1


def test_the_command_line_is_complete():
    text = reference_pages()["reference/cli.md"]
    group: Any = typer.main.get_command(app)

    def verbs(command: Any, name: str) -> list[tuple[str, Any]]:
        inner = getattr(command, "commands", {})
        return [(name, command)] + [each for key, below in inner.items() for each in verbs(below, f"{name} {key}")]

    found = verbs(group, "taskloom")
    assert len(found) > 15
    for name, command in found[1:]:
        if hasattr(command, "commands"):
            continue
        section = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            if parameter.name == "help" or "--help" in parameter.opts:
                continue
            shown = parameter.metavar if parameter.param_type_name == "argument" else parameter.opts[0]
            assert str(shown).strip("[]").split("|")[0].strip() in section.replace("\\|", "|"), f"{name}: {shown}"
            if parameter.help:
                assert parameter.help.split("`")[0].split("|")[0].split("<")[0][:30].strip() in section, (
                    f"{name}: {shown}"
                )


def test_the_tables_of_fields_are_complete():
    pages = reference_pages()
    recipe, task = pages["reference/recipe.md"], pages["reference/task.md"]
    assert [field.name for field in recipe_fields() if f"| `{field.name}` |" not in recipe] == []
    assert [name for name in Task.model_fields if f"| `{name}` |" not in task] == []
    assert [name for name, _ in list_presets() if f"| `{name}` |" not in task] == []
    assert [name for name in packaged_recipes() if f"[`{name}`]" not in pages["reference/recipes.md"]] == []
    for table in pages.values():
        widths = [len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines() if line.startswith("| ")]
        assert set(widths) <= {4, 6}, "a row with another number of cells"
