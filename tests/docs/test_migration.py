"""The migration tables have a row for everything that the published code bases document, and what they say is there."""

import importlib
import re
from typing import Any

import pytest
import typer

import taskloom
from taskloom.auxiliary import SearchSpace
from taskloom.cli.app import app
from taskloom.recipe import recipe_fields
from taskloom.recipe.packaged import packaged_recipes
from tests.docs.pages import HOUSE, read
from tests.docs.references import names_in, reference, settings_keys

CODE_BASES = ("aang", "ca-mtl", "camels", "grad-tag", "hyperdecoders")
SETTINGS = {"aang": "AANG", "hyperdecoders": "Hyperdecoders"}

#: What the documents name that is no part of the code base's interface: HTML, options of pip, conda, docker and python,
#: variables of a sentence, and places of an example.
NO_INTERFACE = {
    "aang": {"-f"},
    "ca-mtl": {"-m", "-v", "align", "alt", "src"},
    "camels": {
        *("-r", "None", "True", "k", "pretrained_model_name_or_path", "/qa_tuned/distilgpt2/state_dict.pt"),
        *("path/to/CaMeLS_checkpoint.pt", "path/to/val_data.csv"),
    },
    "grad-tag": {"-r"},
    "hyperdecoders": {"-r", "requires_grad", "<predicted_answers.json", "<predicted_answers_test.json"},
}
#: Named there without marks that a pattern could find.
ALSO = {
    "aang": {"soptlr", "aux-lr", "classflr", "resultsSheet", "autoaux_outputs"},
    "ca-mtl": {"percent_of_max_data_size"},
    "camels": {"checkpoints"},
    "grad-tag": set(),
    "hyperdecoders": {"freeze_model", "unfreeze_encoder", "unfreeze_decoder"},
}


def rows(page: str) -> list[tuple[str, str]]:
    """Return (there, here) of each row: its first and its last cell."""
    lines = [line for line in read(page).splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [(line[0], line[-1]) for line in cells if (line[0], line[-1]) != ("there", "here")]


def told(name: str) -> set[str]:
    """Return every name in the first column of a code base's page."""
    return {word for there, _ in rows(f"docs/migration/{name}.md") for word in re.findall(r"[\w.<>{}/-]+", there)}


@pytest.mark.parametrize("name", CODE_BASES)
def test_everything_that_is_documented_has_a_row(name):
    wanted = names_in(reference(name)) | ALSO[name]
    if name in SETTINGS:
        wanted |= settings_keys(reference("settings"))[SETTINGS[name]]
    wanted = {word for each in wanted - NO_INTERFACE[name] for word in _single(each)}
    assert len(wanted) > 20
    assert wanted - told(name) == set()


def _single(name: str) -> list[str]:
    """Take apart ``freeze_model/unfreeze_encoder``, which are settings, but not a path."""
    parts = name.split("/")
    return parts if all(re.fullmatch(r"(un)?freeze_\w+", part) for part in parts) else [name]


@pytest.mark.parametrize("name", CODE_BASES)
def test_the_references_are_read_as_they_are_written(name):
    """Against the extraction finding too little: a flag that is certainly there."""
    known = {
        "aang": "-gpu-list",
        "ca-mtl": "--fp16_opt_level",
        "camels": "reset_base_freq",
        "grad-tag": "--lora_alpha",
        "hyperdecoders": "hypernetwork_bottleneck",
    }
    assert known[name] in names_in(reference(name))


@pytest.mark.parametrize("name", CODE_BASES)
def test_each_row_says_what_it_is_here(name):
    empty = [there for there, here in rows(f"docs/migration/{name}.md") if not here]
    assert empty == []
    for there, here in rows(f"docs/migration/{name}.md"):
        if here.startswith("not offered"):
            assert len(here.split()) > 3, f"{there}: no reason"


@pytest.mark.parametrize("page", ["index", *CODE_BASES])
def test_what_is_named_here_exists(page):
    """Recipe fields, verbs, options, recipes and Python names of the second column."""
    fields = {field.name for field in recipe_fields()}
    sections = {name.partition(".")[0] for name in fields if "." in name}
    group: Any = typer.main.get_command(app)
    for there, here in rows(f"docs/migration/{page}.md"):
        for quoted in re.findall(r"`([^`]+)`", here):
            words = quoted.split()
            if words[0] == "taskloom" and len(words) > 1:
                verb = group.commands[words[1]]
                if hasattr(verb, "commands"):
                    assert words[2] in verb.commands, f"{there}: {quoted}"
                    verb = verb.commands[words[2]]
                options = {option for parameter in verb.params for option in parameter.opts} | {"--help"}
                assert {word for word in words if word.startswith("--")} <= options, f"{there}: {quoted}"
            elif quoted.startswith("taskloom."):
                _resolve(quoted)
            elif re.fullmatch(r"[a-z_]+\.\w+(=.*)?", quoted) and quoted.partition(".")[0] in sections:
                field = quoted.partition("=")[0]
                assert field in fields or field in ("adapter.r", "adapter.lora_alpha"), f"{there}: {quoted}"


def _resolve(dotted: str) -> None:
    value: Any = taskloom
    for name in dotted.split(".")[1:]:
        value = getattr(value, name, None) or importlib.import_module(f"{value.__name__}.{name}")


def test_every_published_configuration_is_a_recipe():
    text = reference("settings")
    names = packaged_recipes()
    folder, checked = "", 0
    for line in text.partition("## Hyperdecoders")[2].partition("## CaMeLS")[0].splitlines():
        if line.startswith("### "):
            folder = line[4:].strip()
        elif match := re.match(r"\| `(\w+)` \|", line):
            assert f"hyperdecoders/{folder}/{match[1]}" in names
            checked += 1
    assert checked == 40
    grids = re.findall(r"^\| `(\w+)` \| \{", text, flags=re.MULTILINE)
    assert len(grids) == 9
    assert {f"auxiliary/{grid}" for grid in grids} <= set(names)
    spaces = text.partition("AANG: named search spaces")[2].partition("(1) as")[0]
    listed = re.findall(r"^\| `([\w.-]+)`.*\| (\d+) \|$", spaces, flags=re.MULTILINE)
    assert len(listed) == 23
    assert {name: len(SearchSpace.named(name)) for name, _ in listed} == {name: int(legal) for name, legal in listed}


def test_no_sentence_is_copied():
    """Twelve words in a row that are an original's own."""

    def runs_of_words(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"[a-z]+", re.sub(r"`[^`]*`", " ", text.lower()))
        return set(zip(*(words[start:] for start in range(12)), strict=False))

    ours = {page: runs_of_words(page.read_text("utf-8")) for page in (HOUSE / "docs").rglob("*.md")}
    for name in CODE_BASES:
        theirs = runs_of_words(reference(name))
        assert [page.name for page, words in ours.items() if words & theirs] == []
