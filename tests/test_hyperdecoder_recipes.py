"""The recipes of the published Hyperdecoders configurations: made from one table, true to the published facts."""

import json
import re

import pytest
from safetensors.torch import load_file
from scripts.hyperdecoder_parameters import INTRODUCTION, PAGE, build_on_meta, line
from scripts.hyperdecoder_recipes import configurations, recipe_text, recipes_folder

from taskloom.build import build_model, build_suite
from taskloom.errors import RecipeError
from taskloom.fit import evaluate, fit
from taskloom.predictor import load
from taskloom.recipe import Recipe, load_recipe
from tests.support import real_data
from tests.tiny import tiny_encoder
from tests.tiny_language import save_tiny

ROWS = configurations()
NAMES = [row["recipe"] for row in ROWS]


def published(name: str) -> Recipe:
    return load_recipe(f"hyperdecoders/{name}")


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_each_recipe_is_the_table_s_and_builds_with_the_stated_parameters(row):
    file = recipes_folder() / f"{row['recipe']}.yaml"
    rewrite = "run python -m scripts.hyperdecoder_recipes and python -m scripts.hyperdecoder_parameters"
    assert file.read_text(encoding="utf-8") == recipe_text(row), rewrite
    assert line(row) in PAGE.read_text(encoding="utf-8"), rewrite


def test_there_is_nothing_beside_the_table():
    files = sorted(
        path.relative_to(recipes_folder()).with_suffix("").as_posix() for path in recipes_folder().rglob("*.yaml")
    )
    assert files == sorted([*NAMES, "ablations", "smollm2"])
    lines = PAGE.read_text(encoding="utf-8").removeprefix(INTRODUCTION).splitlines()
    assert [text.split("`")[1] for text in lines] == NAMES


def test_the_main_model_trains_three_percent():
    model = build_on_meta(published("glue_ablations/glue_manual_generated"))
    hidden, layers, width, bottleneck = 1024, 24, 64, 128
    shared = layers * (2 * hidden * width + hidden + width)
    into = (hidden + 10) * bottleneck + bottleneck + layers * 10
    out = (bottleneck + 1) * (2 * hidden * width + hidden + width)
    process = 2 * (hidden * hidden + hidden)
    base = 783_150_080  # T5 v1.1 large
    assert model.trainable_parameters() == (shared + into + out + process, base + shared + into + out + process)
    assert round(model.trainable_parameters()[0] / base, 2) == 0.03


@pytest.mark.parametrize(("name", "whole", "frozen"), [
    ("glue_generated_none", "decoder", "encoder"), ("glue_none_task", "encoder", "decoder"),
])  # fmt: skip
def test_a_side_without_adapters_is_trained_whole(name, whole, frozen):
    model = build_on_meta(published(f"glue_ablations/{name}"))
    base = [
        (parameter_name, parameter.requires_grad)
        for parameter_name, parameter in model.backbone.named_parameters()
        if "hyperdecoder" not in parameter_name
    ]
    assert {trained for parameter_name, trained in base if f".{whole}." in parameter_name} == {True}
    assert {trained for parameter_name, trained in base if f".{frozen}." in parameter_name} == {False}
    assert not any(
        trained for parameter_name, trained in base if "shared" in parameter_name or "lm_head" in parameter_name
    )


# --- against the published facts


KINDS = {
    "none": "none", "manual": "shared", "manual_specific": "per_task", "task": "task_generated",
    "generated": "instance_generated",
}  # fmt: skip
FORMER_NAMES = {"alphanli": "art", "wiki_lingua": "wiki_lingua_english_en"}
MODELS = {"t5-base": "google-t5/t5-base"}


def facts() -> dict[str, dict[str, str]]:
    """Read the list of published settings: a common line and a table a folder."""
    text = real_data("..", "references", "settings.md").read_text(encoding="utf-8")
    found = {}
    for folder, section in re.findall(
        r"^### (experiments|glue_ablations|mrqa_experiments|xsum_nli)$(.*?)(?=^#|^Adap)", text, re.M | re.S
    ):
        common = dict(pair.strip().split(" ", 1) for pair in re.search(r"Common: (.*)", section)[1].split(","))
        header, *rows = [
            [cell.strip() for cell in row.strip("|").split("|")]
            for row in re.findall(r"^\|.*\|$", section, re.M)
            if not set(row) <= set("|-")
        ]
        for name, *cells in rows:
            own = {key: cell for key, cell in zip(header[1:], cells, strict=True) if key and cell != "-"}
            found[f"{folder}/{name.strip('`')}"] = common | own
    return found


@pytest.mark.real_data
def test_the_recipes_say_what_was_published():
    everything = facts()
    assert sorted(everything) == sorted(NAMES)
    for name, fact in everything.items():
        recipe = published(name)
        training, data, options = recipe.training, recipe.data, recipe.adapter.options
        assert recipe.model.path == MODELS.get(fact["model_name_or_path"], fact["model_name_or_path"]), name
        tasks = [FORMER_NAMES.get(task, task) for task in fact["tasks"].split()]
        assert (
            list(dict.fromkeys(re.sub("^mrqa-.*", "mrqa", task.removeprefix("text2text/")) for task in recipe.tasks))
            == tasks
        )
        sides = {side: KINDS[fact[f"{side}_adapter"]] for side in ("encoder", "decoder")}
        if fact["freeze_model"] == "False":
            assert (recipe.adapter.method, set(sides.values())) == ("none", {"none"}), name
        else:
            assert {side: options[side] for side in sides} == sides, name
            widths = {side: fact.get(f"{side}_adapter_dim", fact.get("adapter_dim")) for side in sides}
            shared = options.get("adapter_dim")
            assert {side: str(options.get(f"{side}_adapter_dim", shared)) for side in sides} == widths, name
            for key in ("adapter_norm_input", "unfreeze_layer_norms", "unfreeze_encoder", "unfreeze_decoder"):
                assert options.get(key, False) is (fact.get(key, "False") == "True"), (name, key)
            if any("generated" in kind for kind in sides.values()):
                assert str(options["bottleneck"]) == fact["hypernetwork_bottleneck"], name
            if "instance_generated" in sides.values():
                assert str(options.get("process_encoder_output", True)) == fact.get("process_encoder_output", "True"), (
                    name
                )
            for side, kind in sides.items():
                # What the recipe leaves out has no effect: adapters that there are not.
                assert fact[f"unfreeze_{side}_adapters"] == "True" or kind == "none", name
        assert data.split_validation_test is (fact["split_validation_test"] == "True"), name
        assert data.limits == ({"dev": int(fact["n_val"])} if "n_val" in fact else {}), name
        if tasks != ["mrqa"]:
            assert (recipe.sampling.strategy, recipe.sampling.temperature) == (
                "temperature",
                float(fact["temperature"]),
            )
        assert (training.epochs if training.max_steps == -1 else training.max_steps) == float(
            fact.get("max_steps", fact["num_train_epochs"])
        )
        pairs = {
            "max_source_length": data.max_length, "max_target_length": data.max_target_length,
            "per_device_train_batch_size": training.batch_size, "per_device_eval_batch_size": training.eval_batch_size,
            "gradient_accumulation_steps": training.gradient_accumulation, "learning_rate": training.learning_rate,
            "label_smoothing": training.label_smoothing, "warmup_steps": training.warmup_steps,
        }  # fmt: skip
        assert {key: float(fact[key]) for key in pairs} == pairs, name
        assert training.schedule == fact.get("lr_scheduler", "linear"), name
        assert training.weight_decay == 0


# --- whole runs


def tiny_recipe(folder, family: str, **adapter) -> Recipe:
    rows = [{"text": "the film was good ?", "label": "yes"}, {"text": "a meal", "label": "no"}] * 2
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = dict.fromkeys(("train", "dev"), str(folder / "rows.jsonl"))
    tasks = [{"name": name, "kind": "text2text", "inputs": ["{text}"], "splits": splits} for name in ("one", "two")]
    return Recipe.model_validate(
        {
            "name": "tiny",
            "output": folder / "run",
            "model": {"path": str(folder / "model")},
            "data": {"cache": folder / "cache", "max_length": 16, "max_target_length": 4},
            "tasks": tasks,
            "adapter": {"method": "hyperdecoder", "adapter_dim": 8, "bottleneck": 4, **adapter},
            "training": {"max_steps": 40, "batch_size": 4, "learning_rate": 3e-2, "evaluate_every": 20},
        }
    )


@pytest.mark.parametrize(
    ("family", "adapter", "part"),
    [
        ("t5", {"encoder": "none", "decoder": "task_generated", "unfreeze_encoder": True}, "encoder.block.0.layer.0"),
        ("llama", {"decoder": "instance_generated", "unfreeze_decoder": True}, "hyperdecoder_generator"),
    ],
)
def test_a_run_is_loaded_as_it_was_trained(tmp_path, family, adapter, part):
    save_tiny(family, tmp_path / "model")
    run = fit(tiny_recipe(tmp_path, family, **adapter), quiet=True)
    scores = run.read_scores()["dev"]
    assert scores == {"one": {"exact_match": 1.0}, "two": {"exact_match": 1.0}}
    assert evaluate(run.path) == scores
    saved = load_file(run.model_folder / "language_model" / "adapter_model.safetensors")
    assert any(part in name for name in saved)
    predictor = load(run.path, device="cpu")
    assert predictor.predict("two", ["a meal"]) == [{"answer": "no"}]
    # The number of tasks comes from the suite.
    assert predictor.model.backbone.peft_config["default"].num_tasks == 2


def test_an_encoder_with_heads_is_refused(tmp_path):
    tiny_encoder(tmp_path / "model")
    recipe = tiny_recipe(tmp_path, "bert")
    task = {**recipe.tasks[0], "kind": "classification", "inputs": ["text"]}
    recipe = recipe.model_copy(update={"tasks": [task]})
    with pytest.raises(
        RecipeError, match=r"adapter\.method: hyperdecoder adapts models that generate text .* encoder with"
    ):
        build_model(recipe, list(build_suite(recipe)))
