"""What the documentation says of numbers is true (that its code runs, and its recipes are read: tests/docs)."""

import re
from pathlib import Path
from typing import Any

import yaml

from taskloom import load_recipe
from taskloom.auxiliary import ObjectiveWeights, SearchSpace
from taskloom.auxiliary.history import WeightLog
from taskloom.recipe.auxiliary import AuxiliarySection
from taskloom.tasks import list_presets
from taskloom.tasks.presets import resolve_tasks

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_aang(tmp_path):
    names: dict[str, Any] = {}
    (block,) = blocks("methods/aang.md")
    exec(block, names)
    assert names["best"] in [objective.name for objective in names["space"]]
    recipe, space = re.findall(r"```yaml\n(.*?)```", (DOCS / "methods/aang.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)
    (tmp_path / "space.yaml").write_text(space)
    loaded = load_recipe(tmp_path / "recipe.yaml").auxiliary.space
    assert len(SearchSpace.read(loaded, ["stance"])) == 24
    # 2·3·3·3, less next-sentence in the two ordered views and what is done to nothing and sees everything.
    assert len(SearchSpace.load(tmp_path / "space.yaml")) == 54 - 2 * 3 * 2 - 2 * 3


def test_too_little_data(tmp_path, monkeypatch, capsys):
    """The recipes are read, the spaces have as many objectives as the page says, weights of a run are shown."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "auxiliary.md").read_text("utf-8")
    whole, section = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "stance.yaml").write_text(whole)
    recipe = load_recipe(tmp_path / "stance.yaml")
    own = AuxiliarySection.model_validate(yaml.safe_load(section)["auxiliary"])
    assert len(SearchSpace.read(own.space, ["stance"])) == 2 * 3 * 3 * 3
    assert len(SearchSpace.read(recipe.auxiliary.space, ["stance"])) == 16
    sizes = {name: len(SearchSpace.read(name, ["stance"])) for name in ("tapt", "vbasic1", "stance.supervised")}
    assert list(sizes.values()) == [1, 16, 24]
    assert [len(SearchSpace.read(name, ["stance"])) for name in ("stance.all", "full")] == [40, 352]

    (block,) = blocks("auxiliary.md")
    weights = ObjectiveWeights(SearchSpace.named("tapt"), primary_lr=0.1, auxiliary_lr=0.1)
    (tmp_path / "runs/stance/seed-0").mkdir(parents=True)
    WeightLog(tmp_path / "runs/stance/seed-0/objective_weights.csv").append(10, weights)
    exec(block, {})
    assert capsys.readouterr().out.splitlines()[-1] == "balance 0.5 0.5"


def test_a_text_to_text_task_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _, declaration = re.findall(r"```yaml\n(.*?)```", (DOCS / "text-to-text.md").read_text("utf-8"), flags=re.DOTALL)
    (tmp_path / "mood.yaml").write_text(declaration)
    for file, label in (("old/train", "positive"), ("new/train", "negative"), ("dev", "positive")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{file}.jsonl").write_text(f'{{"text": "What a film!", "label": "{label}"}}\n')
    (block,) = blocks("text-to-text.md")
    names: dict[str, Any] = {}
    exec(block, names)
    assert capsys.readouterr().out == "('mood review: What a film!',) good\n"
    assert names["examples"].targets == ["good", "bad"]


def test_the_table_of_text_to_text_presets_is_true():
    rules = {"half_of_dev": "half of dev", "thousand_of_train": "1,000 of train", None: ""}
    page = (DOCS / "text-to-text.md").read_text("utf-8")
    table = page.partition("## Presets")[2].partition("## A task")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    ids = [preset for preset, _ in list_presets() if re.match(r"text2text/(?!squad|mrqa)", preset)]
    tasks = [task for task, _ in resolve_tasks(ids, Path(), has_data_dir=False)]
    assert rows == [
        [
            f"`{preset}`",
            str(task.dataset) + (f" ({task.subset})" if task.subset else ""),
            ", ".join(task.metrics),
            rules[task.hold_out],
        ]
        for preset, task in zip(ids, tasks, strict=True)
    ]
