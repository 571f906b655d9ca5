"""Every code block of the README and of docs/ does what it says: see `pages` for what may stand in front of one."""

import ast
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.commands import INSTALLING, check_line, run, split
from tests.docs.documents import check_json, check_yaml
from tests.docs.pages import PAGES, Block, blocks
from tests.docs.stand_ins import STAND_INS, make_models

WITH_BLOCKS = [page for page in PAGES if blocks(page)]
#: Languages in which nothing is run: what programs print, and the layout of folders.
SHOWN = ("text", "")


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_code_blocks(page, models, tmp_path, monkeypatch):
    """The blocks of a page in order, in one folder and one namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKLOOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", _draw_nothing)  # half of the time; tests/report draws
    for each in models.iterdir():
        shutil.copytree(each, tmp_path / each.name)
    names: dict[str, Any] = {}
    found = blocks(page)
    for block in [*found, *blocks("README.md")]:  # the README's example is every page's; files may stand further below
        _write_file(block, tmp_path)
    if (page, 0) in STAND_INS:
        names |= STAND_INS[page, 0](tmp_path, monkeypatch)
    python = 0
    for block in found:
        assert block.language in ("python", "sh", "yaml", "json", *SHOWN), f"{block.place}: {block.language}?"
        try:
            if block.language == "python" and not block.not_run:
                if python and (page, python) in STAND_INS:
                    names |= STAND_INS[page, python](tmp_path, monkeypatch)
                execute(block, names)
            elif block.is_shell:
                check_shell(block)
            elif block.language == "yaml" and not block.not_run:
                check_yaml(block.code, tmp_path)
            elif block.language == "json" and not block.not_run:
                check_json(block.code)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{block.place}: {type(error).__name__}: {error}") from error
        python += block.language == "python"


def _draw_nothing(figure: Any, file: Any, **_: Any) -> None:
    if hasattr(file, "write"):
        file.write(b"")
    else:
        Path(file).touch()


def _write_file(block: Block, folder: Path) -> None:
    if block.file and not (folder / block.file).exists():
        (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / block.file).write_text(block.code, "utf-8")


def execute(block: Block, names: dict[str, Any]) -> None:
    """Run Python; ``name=...`` in a call stands for the variable of that name."""
    tree = _Ellipses().visit(ast.parse("\n" * (block.line - 1) + block.code, block.place))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(ast.fix_missing_locations(tree), block.page, "exec"), names)


class _Ellipses(ast.NodeTransformer):
    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        self.generic_visit(node)
        if node.arg and isinstance(node.value, ast.Constant) and node.value.value is Ellipsis:
            node.value = ast.copy_location(ast.Name(node.arg, ast.Load()), node.value)
        return node


def check_shell(block: Block) -> None:
    for line in block.commands:
        check_line(line, strict=not block.not_run)
        if "run" in block.marks:
            run(line, block.marks["run"].split())


@pytest.mark.parametrize("page", WITH_BLOCKS)
def test_every_command_is_run_or_has_its_reason(page):
    for each in filter(lambda block: block.is_shell, blocks(page)):
        if not {"run", "not run"} & each.marks.keys():
            programs = {command[0] for line in each.commands for command in split(line)}
            assert programs <= {*INSTALLING}, f"{each.place}: mark the block `run: settings` or `not run: reason`"


@pytest.mark.parametrize(
    "block", [block for page in WITH_BLOCKS for block in blocks(page) if block.not_run], ids=lambda block: block.place
)
def test_blocks_that_are_not_run(block):
    """Listed as skipped, each with its reason."""
    assert len(block.not_run.split()) > 1, "say why"
    pytest.skip(f"{block.place} is not run: {block.not_run}")


# --- the checks themselves can fail


def block(language: str, code: str, **marks: str) -> Block:
    return Block("page.md", 1, language, code, marks)


@pytest.mark.parametrize(
    "line",
    [
        "taskloom trian recipe.yaml",
        "taskloom train multi-task/glue-minilm --epochs 3",
        "taskloom train multi-task/glue-minilm training.epoch=3",
        "taskloom train multi-task/glue-minilm training.epochs=many",
        "taskloom train no-such-recipe",
        "taskloom sweep multi-task/glue-minilm training.learning_rat=1e-5,3e-5",
        "torchrun --nproc-per-node 2 -m taskloom train multi-task/glue-minilm nothing.at=all",
        "python -m benchmarks.nothing",
        "make coffee",
        'pip install "taskloom[everything]"',
        "frobnicate now",
    ],
)
def test_wrong_commands_are_found(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, SystemExit)):
        check_shell(block("sh", line))


@pytest.mark.parametrize(
    "text",
    [
        "training: {epoch: 3}",
        "training: {epochs: many}",
        "name: a\ninputs: [b]\nlables: [c]",
        "tasks: [glue/rtee]",
        "a: 1",
    ],
)
def test_wrong_documents_are_found(text, tmp_path):
    with pytest.raises(Exception):  # noqa: B017, PT011  (which one depends on what is wrong)
        check_yaml(text, tmp_path)


def test_python_is_run_with_the_variables_of_its_page():
    names: dict[str, Any] = {"size": 3}
    execute(block("python", "made = dict(size=...)\n"), names)
    assert names["made"] == {"size": 3}
    with pytest.raises(ZeroDivisionError):
        execute(block("python", "1 / 0\n"), names)


def test_yaml_of_the_pages_is_yaml():
    assert all(
        isinstance(yaml.safe_load(each.code), dict)
        for page in PAGES
        for each in blocks(page)
        if each.language == "yaml"
    )
