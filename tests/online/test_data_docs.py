"""The code of docs/online-data.md runs, and its recipe is read."""

import re
from pathlib import Path

import yaml

from taskloom.online.formats import read_questions
from taskloom.recipe.online import QuestionsSection

PAGE = (Path(__file__).parents[2] / "docs/online-data.md").read_text("utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (records,) = blocks("json")
    (tmp_path / "own.jsonl").write_text(records)
    (tmp_path / "news").mkdir()
    (tmp_path / "news/a.txt").write_text("Rain.")
    (tmp_path / "news/b.png").write_bytes(b"\x89PNG")
    (tmp_path / "web.csv").write_text("raw_text\nUnrelated.\n")
    own, stream, web = blocks("python")
    names = {}
    for block in (own, stream, web):
        exec(block, names)
    assert capsys.readouterr().out.splitlines() == [
        "Harbour | When did Oslo's new harbour open? | May",
        "Harbour | Where did the first ship come from? | Lima",
        "a.txt | Rain.",
        "b.png | unknown kind .png",
    ]
    assert len(names["stream"].documents) == 2
    assert names["web"] == ["Unrelated."]

    (recipe,) = blocks("yaml")
    parts = QuestionsSection.model_validate(yaml.safe_load(recipe)["questions"])
    bounds = [getattr(parts, role)["groups"] for role in ("qa_train", "qa_dev", "meta_train", "meta_dev")]
    assert bounds == [[0, 20], [20, 25], [25, 45], [45, 50]]
    assert read_questions(**{**dict(parts)["qa_train"], "groups": [1, 2]}).documents[0].questions == ()
