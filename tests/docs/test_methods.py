"""A page a method, in one form, and the files that its equations stand in exist."""

import re

import pytest

from taskloom.recipe.packaged import packaged_recipes
from tests.docs.pages import HOUSE, read

METHODS = ("aang", "ca-mtl", "camels", "grad-tag", "hyperdecoders")
HEADINGS = ["## From equation to file", "## Published settings", "## What differs from the published code, and why"]
PACKAGE = HOUSE / "src/taskloom"
#: Where the files of a page's table are, unless the table says.
HOMES = {
    "aang": "auxiliary",
    "ca-mtl": "adapters/ca_mtl",
    "camels": "online",
    "hyperdecoders": "adapters/hyperdecoder",
    "meta_gradients": "gradients",
    "grad-tag": ".",
}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_the_same_parts(method):
    text = read(f"docs/methods/{method}.md")
    found = [line for line in text.splitlines() if line in HEADINGS]
    assert found == HEADINGS
    assert re.search(r"arxiv\.org/abs/\d{4}\.\d{5}", text), "the paper"
    assert f"methods/{method}.md" in read(f"docs/migration/{method}.md")


def equations(page: str) -> list[str]:
    table = read(f"docs/methods/{page}.md").partition("## From equation to file")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[-2] for line in lines[2:]]


@pytest.mark.parametrize("page", HOMES)
def test_the_files_of_the_equations_exist(page):
    home = PACKAGE / HOMES[page]
    cells = equations(page)
    assert len(cells) >= 4
    for cell in cells:
        named = re.findall(r"`([\w/]+(?:\.[\w.]+)?)`", cell)
        assert named, f"{cell}: names no file"
        folder = ""
        for name in named:
            if re.fullmatch(r"[\w/]+\.(py|yaml)", name):
                places = [home / name, PACKAGE / name, home / folder / name]
                assert any(place.is_file() for place in places), f"{cell}: no {name}"
                folder = name.rpartition("/")[0] or folder
            elif re.fullmatch(r"[a-z_]+\.\w+(\.\w+)?", name) and (home / f"{name.partition('.')[0]}.py").is_file():
                module, _, inner = name.partition(".")
                source = (home / f"{module}.py").read_text("utf-8")
                for part in inner.split("."):
                    assert re.search(rf"(class|def) {part}\b", source), f"{cell}: no {part} in {module}.py"
            else:
                assert not name.startswith(("modules.", "layer.", "model.")), f"{cell}: no {name}"


@pytest.mark.parametrize("method", METHODS)
def test_recipes_that_a_page_names_exist(method):
    for name in re.findall(r"`recipes/([\w/-]+)(\.yaml|/)`", read(f"docs/methods/{method}.md")):
        assert (HOUSE / f"recipes/{''.join(name)}").exists(), name


@pytest.mark.parametrize("method", METHODS)
def test_the_published_settings_are_recipes(method):
    section = read(f"docs/methods/{method}.md").partition("## Published settings")[2].partition("\n## ")[0]
    packaged = packaged_recipes()
    named = {name for name in re.findall(r"`([\w-]+(?:/[\w-]+)+)`", section) if name in packaged}
    folders = [name for name in re.findall(r"recipes/([\w/-]+?)/", section) if (HOUSE / "recipes" / name).is_dir()]
    files = [name for name in re.findall(r"`recipes/([\w/-]+)\.yaml`", section) if name in packaged]
    assert named or folders or files
