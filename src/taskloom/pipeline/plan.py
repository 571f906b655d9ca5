"""The stages of a pipeline: which there are, what each needs, and the recipe and folder of each.

OUTPUT/
  pipeline.yaml     the resolved recipe
  pipeline.json     the stages: what became of them, and how long they took
  NAME/             a stage's run folder; affinity and groups lie in the folder of the model that they are about
  set-aside/        stages of other settings or data, taken back when these come back
  report.html
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from taskloom.errors import RecipeError, did_you_mean
from taskloom.recipe import Recipe
from taskloom.recipe.messages import recipe_error
from taskloom.recipe.pipeline import PipelineSection, StageKind, StageSettings
from taskloom.recipe.source import RecipeSource
from taskloom.runs import STAGE_FILE

__all__ = ["FOLLOWED", "TRAINED", "Stage", "default_stages", "plan_stages"]

_MODEL = ("seed", "model", "data", "training")
_TASKS = (*_MODEL, "tasks", "only", "adapter", "sampling")
_QUESTIONS = (*_MODEL, "questions")

#: The sections that a stage follows. The others stand at their defaults in its recipe and do not touch its cache.
FOLLOWED: Mapping[StageKind, tuple[str, ...]] = {
    "train": _TASKS,
    "affinity": (*_TASKS, "affinity"),
    "group": (),
    "train-groups": (*_TASKS, "group_against"),
    "auxiliary": (*_TASKS, "auxiliary", "neural_lm"),
    "retrain": (*_TASKS, "auxiliary", "neural_lm"),
    "tune-qa": (*_QUESTIONS, "tune_qa", "answers"),
    "meta-train": (*_QUESTIONS, "weighter", "meta_train"),
    "adapt": (*_QUESTIONS, "weighter", "adapt", "light_tuning", "answers"),
    "evaluate": (),
    "report": (),
}

#: What a stage works on: an earlier stage of this kind.
_WORKS_ON: Mapping[StageKind, StageKind] = {
    "affinity": "train",
    "group": "affinity",
    "train-groups": "group",
    "retrain": "auxiliary",
}
#: What a stage uses if it is there.
_USES: Mapping[StageKind, tuple[StageKind, ...]] = {"meta-train": ("tune-qa",), "adapt": ("tune-qa", "meta-train")}

#: Stages whose result is a trained model of the tasks.
TRAINED: tuple[StageKind, ...] = ("train", "train-groups", "auxiliary", "retrain")

#: Sections that some stages follow and others do not.
_OPTIONAL = {
    *(section for followed in FOLLOWED.values() for section in followed if section not in _TASKS),
    *("sweep", "pipeline"),
} - {"group_against"}

_ONLINE: tuple[StageKind, ...] = ("tune-qa", "meta-train", "adapt")


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: unique in its pipeline.
        settings: what the pipeline says of it.
        recipe: the pipeline's recipe with the stage's own fields, and defaults in the sections that it does not follow.
        folder: the run folder that it writes or adds to.
        owned: the folder that it alone writes; set aside when its settings or its data change. None: it writes a file
            or two, which are made again.
        marker: the file that says what it was made from; None: it is made each time.
        result: the file that it writes last.
        needs: the earlier stages that its result depends on.
    """

    name: str
    settings: StageSettings
    recipe: Recipe
    folder: Path
    owned: Path | None
    marker: Path | None
    result: Path
    needs: tuple["Stage", ...] = ()

    @property
    def kind(self) -> StageKind:
        """What it does."""
        return self.settings.stage

    @property
    def finished(self) -> bool:
        """Whether its result is there."""
        return self.result.is_file()


def default_stages(recipe: Recipe) -> list[StageSettings]:
    """Return the stages that the recipe's sections call for.

    Questions or a stream: tuning, meta-training and adaptation. Auxiliary objectives: their training, and one that
    starts from the weights which that learned. Several tasks: affinity, groups, and a model for each group.
    """
    names: list[StageKind]
    if not recipe.tasks:
        learned = recipe.weighter.kind == "learned" and recipe.weighter.path is None
        asked = recipe.questions != type(recipe.questions)()
        names = [*(("tune-qa",) if asked else ()), *(("meta-train",) if learned else ()), "adapt"]
    elif recipe.auxiliary.space is not None:
        names = ["auxiliary", "retrain", "evaluate"]
    elif _count_tasks(recipe) > 1:
        names = ["train", "affinity", "group", "train-groups", "evaluate"]
    else:
        names = ["train", "evaluate"]
    return [StageSettings(stage=name) for name in (*names, "report")]


def _count_tasks(recipe: Recipe) -> int:
    from taskloom.tasks.presets import resolve_tasks

    folder = recipe.data.dir
    return len(recipe.only or resolve_tasks(recipe.tasks, Path(), folder is not None, folder))


def plan_stages(recipe: Recipe) -> list[Stage]:
    """Return the stages of a recipe's pipeline in their order.

    Raises:
        RecipeError: stages of the same name or folder, one without the stage that it works on, or wrong fields in
            a stage's `set`.
    """
    given = recipe.pipeline.stages
    planned: list[Stage] = []
    for settings in default_stages(recipe) if given is None else given:
        planned.append(_planned(recipe, settings, planned))
    if not planned:
        raise RecipeError("pipeline.stages: names no stage; leave it out for those that the recipe calls for")
    return planned


def _planned(recipe: Recipe, settings: StageSettings, before: list[Stage]) -> Stage:
    kind = settings.stage
    changed = _with_fields(recipe, settings)
    name = settings.name or (f"adapt-{changed.weighter.kind}" if kind == "adapt" else kind)
    needs = [_latest(before, wanted) for wanted in _USES.get(kind, ())]
    if kind in _WORKS_ON:
        needs = [_worked_on(before, name, settings)]
    elif settings.of is not None:
        raise RecipeError(f"pipeline.stages: '{name}' has `of: {settings.of}`, but {kind} works on no other stage")
    if kind == "evaluate":
        needs = [stage for stage in before if stage.kind in TRAINED]
        if not needs:
            raise RecipeError(f"pipeline.stages: '{name}' has nothing to score: no stage before it trains tasks")
    if kind == "report":
        needs = list(before)
    needed = tuple(stage for stage in needs if stage is not None)
    folder, owned, result = _places(recipe.output, name, changed, kind, needed)
    for other in before:
        if other.name == name or (owned is not None and other.owned == owned):
            raise RecipeError(
                f"pipeline.stages: two stages are '{name}': give one another `name`"
                + (", or another weighter.kind" if kind == "adapt" else "")
            )
    marker = owned / STAGE_FILE if owned is not None else None
    if kind == "group":
        marker = result.with_name("groups.stage.json")
    stage_recipe = _stage_recipe(changed, kind, name, folder, needed)
    return Stage(name, settings, stage_recipe, folder, owned, marker, result, needed)


def _worked_on(before: list[Stage], name: str, settings: StageSettings) -> Stage:
    wanted = _WORKS_ON[settings.stage]
    possible = [stage for stage in before if stage.kind == wanted]
    if not possible:
        raise RecipeError(f"pipeline.stages: '{name}' needs the stage {wanted}, and none stands before it")
    if settings.of is None:
        return possible[-1]
    for stage in possible:
        if stage.name == settings.of:
            return stage
    known = [stage.name for stage in possible]
    raise RecipeError(
        f"pipeline.stages: '{name}' is of '{settings.of}', which is no {wanted} stage before it."
        f"{did_you_mean(settings.of, known)}"
    )


def _latest(stages: list[Stage], kind: StageKind) -> Stage | None:
    return next((stage for stage in reversed(stages) if stage.kind == kind), None)


def _places(
    output: Path, name: str, recipe: Recipe, kind: StageKind, needs: tuple[Stage, ...]
) -> tuple[Path, Path | None, Path]:
    """Return the run folder, what the stage alone writes, and the file that it writes last."""
    match kind:
        case "affinity":
            folder = needs[0].folder
            return folder, folder / "affinity", folder / "affinity" / "affinity.json"
        case "group":
            folder = needs[0].folder
            return folder, None, folder / "affinity" / "groups.json"
        case "evaluate":
            return output / name, output / name, output / name / "scores.json"
        case "report":
            return output, None, output / f"{name}.html"
        case "adapt":  # the online verbs name their folders themselves
            name = f"adapt-{recipe.weighter.kind}"
        case "tune-qa" | "meta-train":
            name = kind
    return output / name, output / name, output / name / "finished.json"


def _stage_recipe(recipe: Recipe, kind: StageKind, name: str, folder: Path, needs: tuple[Stage, ...]) -> Recipe:
    if kind == "affinity":  # of the very model that it works on
        return needs[0].recipe.model_copy(update={"affinity": recipe.affinity})
    unused = _OPTIONAL.difference(FOLLOWED[kind])
    update: dict[str, Any] = {section: type(getattr(recipe, section))() for section in unused}
    update |= {"groups": None, "name": f"{recipe.name}/{name}", "description": "", "output": folder}
    if kind == "train-groups":
        update["groups"] = needs[0].folder
    if kind == "retrain":
        update["auxiliary"] = recipe.auxiliary.model_copy(update={"warm_start": needs[0].folder})
    if kind in _ONLINE:
        update |= {"output": folder.parent, "tasks": []}
    return recipe.model_copy(update=update)


def _with_fields(recipe: Recipe, settings: StageSettings) -> Recipe:
    """Return the recipe with the fields that a stage sets."""
    if not settings.set:
        return recipe
    values = recipe.model_copy(update={"pipeline": PipelineSection()}).resolved()
    title = f"pipeline.stages: '{settings.name or settings.stage}': set"
    # An affinity is that of its model, whose training has been settled.
    followed = ("affinity",) if settings.stage == "affinity" else FOLLOWED[settings.stage]
    for field in settings.set:
        if field.partition(".")[0] in Recipe.model_fields and field.partition(".")[0] not in followed:
            follows = f"only {', '.join(followed)}" if followed else "no fields of the recipe"
            raise RecipeError(f"{title}: '{field}' is not what {settings.stage} follows: it follows {follows}")
    for field, value in settings.set.items():
        *sections, key = field.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise RecipeError(f"{title}: there is no field '{field}'.{did_you_mean(field, settings.set)}")
        target[key] = value
    source = RecipeSource(recipe.output, values, overrides={tuple(field.split(".")) for field in settings.set})
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{title}: {recipe_error(error, source)}") from error
