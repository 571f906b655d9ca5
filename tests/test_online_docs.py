"""The pages about online adaptation are true: their code runs, their commands and recipes are read, flags and links."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from taskloom import load_recipe
from taskloom.cli.app import app
from taskloom.cli.arguments import overridden
from taskloom.online import read_questions
from taskloom.online.presets import role_source
from taskloom.recipe import recipe_fields
from tests.online.small_tokenizers import small_tokenizer

HOUSE = Path(__file__).parents[1]
ONLINE, CAMELS, RECIPES = "docs/online.md", "docs/methods/camels.md", "recipes/online/README.md"
FLAGS = "docs/migration/camels.md"


def page(name: str) -> str:
    return (HOUSE / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page(name), flags=re.DOTALL)


def pretrained(folder: Path, kind: str) -> None:
    """A tiny model in the place of one on the hub, whose id is a folder here."""
    tokenizer = small_tokenizer(kind)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))


def test_keep_a_model_current(tmp_path, monkeypatch, capsys):
    """All of the page's Python, in one go as it stands there."""
    monkeypatch.chdir(tmp_path)
    (records,) = blocks(ONLINE, "json")
    (tmp_path / "own.jsonl").write_text(records)
    (tmp_path / "news").mkdir()
    (tmp_path / "news/a.txt").write_text("Rain.")
    (tmp_path / "news/b.png").write_bytes(b"\x89PNG")
    (tmp_path / "web.csv").write_text("raw_text\nUnrelated.\n")
    pretrained(tmp_path / "HuggingFaceTB/SmolLM2-135M", "byte_level")
    pretrained(tmp_path / "Qwen/Qwen2.5-0.5B", "sentencepiece")

    names: dict[str, Any] = {}
    data, adapting = blocks(ONLINE, "python")[:3], blocks(ONLINE, "python")[3:]
    for block in data:
        exec(block, names)
    assert capsys.readouterr().out.splitlines() == [
        "Harbour | When did Oslo's new harbour open? | May",
        "Harbour | Where did the first ship come from? | Lima",
        "a.txt | Rain.",
        "b.png | unknown kind .png",
    ]
    assert len(names["stream"].documents) == 2
    assert names["web"] == ["Unrelated."]

    for block in adapting:
        exec(block, names)
    assert names["after"].nll != names["before"].nll
    assert len(names["result"].history) > 0
    assert len(names["weighter"].body.layers) == 6
    assert names["weighter"].for_tokenizer is names["other"]
    assert "harbour" in (tmp_path / "harbour.html").read_text("utf-8")


def test_the_recipe_of_the_page(tmp_path):
    (records,) = blocks(ONLINE, "json")
    (tmp_path / "own.jsonl").write_text(records)
    (recipe,) = blocks(ONLINE, "yaml")
    (tmp_path / "harbour.yaml").write_text(recipe)
    parts: Any = load_recipe(tmp_path / "harbour.yaml").questions
    bounds = [getattr(parts, role)["groups"] for role in ("qa_train", "qa_dev", "meta_train", "meta_dev")]
    assert bounds == [[0, 20], [20, 25], [25, 45], [45, 50]]
    assert read_questions(**{**parts.qa_train, "groups": [1, 2]}).documents[0].questions == ()


def commands(name: str) -> list[list[str]]:
    text = "\n".join(blocks(name, "sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[2:] for words in lines if words[:2] == ["taskloom", "online"]]


@pytest.mark.parametrize("name", [ONLINE, RECIPES])
def test_every_command_is_understood(name, tmp_path, monkeypatch):
    """Options are known, recipes are there, and fields take their values."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "harbour.yaml").write_text(blocks(ONLINE, "yaml")[0])
    (tmp_path / "runs/monday/adapt-uniform/model").mkdir(parents=True)
    group: Any = typer.main.get_command(app)
    online = group.commands["online"]
    found = commands(name)
    assert len(found) >= 8
    for verb, *arguments in found:
        given = online.commands[verb].make_context(verb, list(arguments)).params
        if verb != "show":
            recipe = load_recipe(given["recipe"], overridden(given["settings"], given["output"], given["data_dir"]))
            assert recipe.questions != type(recipe.questions)() or given["documents"]


def test_the_baselines_of_the_recipes_are_understood():
    table = page(RECIPES).partition("| baseline |")[2].partition("\n\n")[0]
    cells = [line.split("|")[2] for line in table.splitlines()[2:]]
    kinds = []
    for cell in cells:
        settings = re.search(r"`(weighter[^`]*)`", cell)
        assert settings
        recipe = load_recipe("online/squad-gpt2-xl", ["data.dir=.", *shlex.split(settings[1])])
        kinds.append((recipe.weighter.kind, recipe.light_tuning.enabled))
    assert kinds == [("uniform", False), ("uniform", True), ("salient", False), ("tfidf", False)]


# --- published settings

SECTIONS = {
    "Tuning on questions": "squad",
    "Data": "squad",
    "Meta-training": "squad",
    "Adaptation": "squad-gpt2-xl",
}


def flags(section: str) -> list[tuple[str, str, str]]:
    text = re.split(rf"### {section}.*\n", page(FLAGS))[1]
    text = re.split(r"\n##", text)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [(flag, value, here) for flag, value, here in rows[2:]]


@pytest.mark.parametrize("section", SECTIONS)
def test_flags_name_fields_that_exist_and_the_recipes_hold_the_published_values(section):
    known = {field.name for field in recipe_fields()}
    resolved = load_recipe(f"online/{SECTIONS[section]}", ["data.dir=."]).resolved()
    compared = 0
    for flag, value, here in flags(section):
        named = re.findall(r"`([a-z_]+\.[a-z_]+)[^`]*`", here)
        assert [field for field in named if field not in known and field != "metrics.jsonl"] == [], flag
        published = yaml.safe_load(value) if value else None
        whole = re.fullmatch(r"`([a-z_]+)\.([a-z_]+)`", here)
        if whole and isinstance(published, int | float | bool | str) and " " not in str(published):
            ours = resolved[whole[1]][whole[2]]
            if not isinstance(ours, str):  # words are the recipe's own
                assert float(published) == float(ours), flag
                compared += 1
    assert compared >= {"Tuning on questions": 5, "Data": 0, "Meta-training": 15, "Adaptation": 10}[section]


PUBLISHED_FLAGS = """
    wandb_log wandb_project weight_model task dataset seed resume debug early_stop base_model tokenizer_name
    base_model_state_dict data_dir train_path val_path test_path lt_train_path lt_val_path full_passage test_split
    test_start_idx test_end_idx qa_lt_split qa_lt_start_idx qa_lt_end_idx qa_lt_val_split qa_lt_val_start_idx
    qa_lt_val_end_idx train_split train_start_idx train_end_idx val_split val_start_idx val_end_idx model
    wandb_run_name val_steps lt_batch_size grad_acc_steps train_steps lr grad_clip_thresh notes qa_eos
    load_state_dict_path save_path grad_checkpointing stop_k optimizer hydra weight_model_path log_dir n_epochs
    bm_learned_layers batch_size generation_batch_size qa_lt_final lt_lr lt_epochs lt_steps lt_val_steps
    lt_grad_acc_steps lt_stopping_metric lt_patience downsample_to lt_early_stop delete_checkpoints eval_init
    eval_every_k unrelated_qa_eval eval num_beams num_beam_groups diversity_penalty subdir val val_em save_steps
    outer_lr reduce_lr_on_plateau sample_weights sample_steps update_batch_size sequential_update reset_base_freq
    loc_batch_size qa_loc web_text_loc web_text_csv web_text_val_csv c_kl c_norm norm norm_from_one
    log_stepwise_metrics inner_lr load_checkpoint_path model_type pretrained_model freeze_base non_linearity
    num_inner_steps normalize streamingqa_data_path archivalqa_data_path squad_splits min_threshold init_scalar
"""


def test_every_published_flag_is_in_a_table():
    told = {name for section in SECTIONS for flag, _, _ in flags(section) for name in re.findall(r"`(\w+)`", flag)}
    assert set(PUBLISHED_FLAGS.split()) - told == set()


@pytest.mark.parametrize("name", ["squad", "streamingqa", "archivalqa"])
def test_published_recipes_come_in_pairs_that_agree(name):
    small, large = (load_recipe(f"online/{name}{end}", ["data.dir=."]) for end in ("", "-gpt2-xl"))
    assert small.questions == large.questions
    assert small.questions.preset == name
    assert role_source(name, "stream")["path"].startswith(f"{name}/")
    assert small.tune_qa == large.tune_qa.model_copy(update={"stop_on": "nll"})
    assert small.adapt.loss_length == large.adapt.loss_length == small.meta_train.loss_length == 1023
    assert large.adapt.learning_rate == [1e-4, 2.5e-5, 6.25e-6, 1.5625e-6]


def test_the_parts_of_the_cpu_recipe_share_no_article():
    parts = load_recipe("online/squad-smollm2", ["data.dir=."]).questions
    bounds = [getattr(parts, role)["groups"] for role in ("qa_train", "qa_dev", "meta_train", "meta_dev")]
    assert [end for _, end in bounds[:-1]] == [start for start, _ in bounds[1:]]
    assert (bounds[0][0], bounds[-1][1]) == (0, 44)


# --- links and files


PAGES = sorted({path for pattern in ("*.md", "docs/**/*.md", "recipes/**/*.md") for path in HOUSE.glob(pattern)})


@pytest.mark.parametrize("name", [str(path.relative_to(HOUSE)) for path in PAGES])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if not target.startswith(("http", "#")):
            assert ((HOUSE / name).parent / target.partition("#")[0]).exists(), target


def test_the_files_of_the_equations_exist():
    table = page(CAMELS).partition("## From equation to file")[2].partition("\n## ")[0]
    folder = HOUSE / "src/taskloom"
    for line in [line for line in table.splitlines() if line.startswith("|")][2:]:
        files = re.findall(r"`([\w/]+\.(?:py|yaml))`", line.split("|")[3])
        assert files
        home = Path(files[0]).parent
        for file in files:
            assert any((root / file).is_file() for root in (folder / "online", folder, folder / "online" / home)), file
