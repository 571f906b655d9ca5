import pytest

from taskloom.errors import RecipeError
from taskloom.pipeline import plan_stages
from taskloom.recipe import load_recipe

TASKS = "model: {path: m}\ntasks: [glue/rte, glue/mrpc]\n"
ONE = "model: {path: m}\ntasks: [glue/rte]\n"
QUESTIONS = "model: {path: m}\nquestions: {stream: s.json, qa_train: t.json}\n"


def recipe(tmp_path, text, *settings):
    (tmp_path / "r.yaml").write_text(text)
    return load_recipe(tmp_path / "r.yaml", [*settings, f"output={tmp_path}/out"])


def names(tmp_path, text, *settings):
    return [stage.name for stage in plan_stages(recipe(tmp_path, text, *settings))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TASKS, ["train", "affinity", "group", "train-groups", "evaluate", "report"]),
        (TASKS + "only: [rte]\n", ["train", "evaluate", "report"]),
        (ONE, ["train", "evaluate", "report"]),
        (ONE + "auxiliary: {space: tapt}\n", ["auxiliary", "retrain", "evaluate", "report"]),
        (QUESTIONS, ["tune-qa", "meta-train", "adapt-learned", "report"]),
        (QUESTIONS + "weighter: {kind: uniform}\n", ["tune-qa", "adapt-uniform", "report"]),
    ],
)
def test_the_recipe_says_which_stages_there_are(tmp_path, text, expected):
    assert names(tmp_path, text) == expected


def test_a_file_of_several_tasks_counts_as_several(tmp_path):
    (tmp_path / "tasks.yaml").write_text(
        "tasks:\n"
        + "".join(f"  - {{name: {name}, inputs: [t], labels: [x, y], path: {name}}}\n" for name in ("a", "b"))
    )
    assert "affinity" in names(tmp_path, "model: {path: m}\ntasks: [tasks.yaml]\n")


def test_stages_of_ones_own(tmp_path):
    stages = plan_stages(
        recipe(
            tmp_path,
            TASKS
            + """
pipeline:
  stages:
    - train
    - {stage: train, name: slow, set: {training.learning_rate: 1.0e-6, adapter.method: lora}}
    - {stage: affinity, of: train, set: {affinity.examples: 7}}
    - {stage: group, k: 2}
""",
        )
    )
    train, slow, affinity, group = stages
    assert (train.recipe.training.learning_rate, slow.recipe.training.learning_rate) == (2e-5, 1e-6)
    assert slow.recipe.adapter.method == "lora"
    assert affinity.folder == group.folder == train.folder == tmp_path / "out" / "train"
    assert affinity.recipe.affinity.examples == 7
    assert affinity.needs == (train,)
    assert group.settings.k == 2


def test_a_stage_does_not_follow_the_sections_of_others(tmp_path):
    text = ONE + "auxiliary: {space: tapt}\npipeline: {stages: [train, auxiliary, retrain]}\n"
    train, auxiliary, retrain = plan_stages(recipe(tmp_path, text))
    assert train.recipe.auxiliary.space is None
    assert auxiliary.recipe.auxiliary.space == "tapt"
    assert retrain.recipe.auxiliary.warm_start == auxiliary.folder
    for stage in (train, auxiliary, retrain):
        assert type(stage.recipe).model_validate(stage.recipe.resolved()) == stage.recipe


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ("[group]", "'group' needs the stage affinity, and none stands before it"),
        ("[train, train]", "two stages are 'train': give one another `name`"),
        ("[report]\n  x: 1", "unknown key 'pipeline.x'"),
        ("[trian]", "pipeline.stages.0.stage: found 'trian' (text), expected"),
        ("[{stage: train, nam: x}]", "unknown key 'pipeline.stages.0.nam'. Did you mean 'pipeline.stages.0.name'?"),
        ("[{stage: train, name: a/b}]", "pipeline.stages.0.name"),
        ("[]", "names no stage"),
        ("[evaluate]", "'evaluate' has nothing to score"),
        (
            "[train, {stage: affinity, of: trian}]",
            "is of 'trian', which is no train stage before it. Did you mean 'train'?",
        ),
        ("[{stage: train, of: train}]", "train works on no other stage"),
        (
            "[{stage: train, set: {training.learning_rat: 1}}]",
            "'train': set: unknown key 'training.learning_rat'. Did you mean 'training.learning_rate'?",
        ),
        ("[{stage: train, set: {training.batch_size: much}}]", "training.batch_size: found 'much' (text)"),
        (
            "[train, {stage: affinity, set: {training.epochs: 2.0}}]",
            "'training.epochs' is not what affinity follows: it follows only affinity",
        ),
        ("[train, {stage: evaluate, set: {seed: 1}}]", "evaluate follows: it follows no fields of the recipe"),
        ("[{stage: train, set: {seed.x: 1}}]", "there is no field 'seed.x'"),
    ],
)
def test_wrong_stages_are_told(tmp_path, stages, told):
    with pytest.raises(RecipeError) as caught:
        plan_stages(recipe(tmp_path, TASKS + f"pipeline:\n  stages: {stages}\n"))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
