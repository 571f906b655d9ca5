"""From a recipe to what its online stages are made of: folders, questions, models and weighters."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from taskloom.backbones import find_family, load_language_model, load_tokenizer
from taskloom.errors import RecipeError, RunError, UserError
from taskloom.online.encode import QACollator
from taskloom.online.formats import read_questions
from taskloom.online.meta_training import WEIGHTER_FOLDER
from taskloom.online.presets import role_source
from taskloom.online.questions import QuestionSet
from taskloom.online.texts import read_texts
from taskloom.online.weighters import LearnedWeighter, SalientSpanWeighter, TfIdfWeighter, UniformWeighter
from taskloom.recipe import Recipe
from taskloom.recipe.online import ROLES, TUNED, QuestionSource, WeighterSection
from taskloom.runs import RunFolder

__all__ = [
    "Stage",
    "build_weighter",
    "collator",
    "has_role",
    "load_base",
    "load_base_tokenizer",
    "load_model",
    "new_weighter",
    "read_role",
    "require_length",
    "stage_folder",
    "stage_recipe",
]

Stage = Literal["tune-qa", "meta-train", "adapt"]

#: The sections that each stage follows; others may change between a run and its resumption.
_SECTIONS = {
    "tune-qa": ("tune_qa",),
    "meta-train": ("meta_train", "weighter"),
    "adapt": ("adapt", "weighter", "light_tuning", "answers"),
}
_ALL_SECTIONS = {name for names in _SECTIONS.values() for name in names}
_STAGE_FOLDERS = {
    "tune-qa",
    "meta-train",
    *(f"adapt-{kind}" for kind in get_args(WeighterSection.model_fields["kind"].annotation)),
}


def stage_folder(recipe: Recipe, stage: Stage) -> Path:
    """Return the run folder of a stage."""
    return _project(recipe) / (f"adapt-{recipe.weighter.kind}" if stage == "adapt" else stage)


def _project(recipe: Recipe) -> Path:
    """Return the folder that holds the stages' folders: the recipe's output, or of a stage's run the one above."""
    return recipe.output.parent if recipe.output.name in _STAGE_FOLDERS else recipe.output


def stage_recipe(recipe: Recipe, stage: Stage) -> Recipe:
    """Return the recipe with the defaults in sections that the stage does not follow."""
    others = {name: type(getattr(recipe, name))() for name in _ALL_SECTIONS.difference(_SECTIONS[stage])}
    return recipe.model_copy(update={**others, "output": stage_folder(recipe, stage)})


# Questions


def has_role(recipe: Recipe, role: str) -> bool:
    """Return whether the recipe says where these questions are."""
    return getattr(recipe.questions, role) is not None or recipe.questions.preset is not None


def read_role(recipe: Recipe, role: str, stage: Stage) -> QuestionSet:
    """Read the questions of one use.

    Raises:
        RecipeError: the recipe does not say where they are.
        DataError: a mistake in the file.
    """
    assert role in ROLES
    given, preset = getattr(recipe.questions, role), recipe.questions.preset
    if given is None and preset is None:
        raise RecipeError(
            f"questions.{role}: {stage} needs it: name a file of documents with questions, or set questions.preset"
        )
    values: Any = role_source(preset, role) if given is None and preset is not None else given
    source = QuestionSource(path=Path(values)) if isinstance(values, str) else QuestionSource.model_validate(values)
    path: Path | str = source.path
    if source.format == "squad_hub" and not source.path.is_absolute():
        path = str(source.path)  # a hub id
    elif not source.path.is_absolute():
        if recipe.data.dir is None:
            raise RecipeError(
                f"questions.{role}: {source.path} is looked up in data.dir, which is not set: set data.dir=FOLDER"
            )
        path = recipe.data.dir / source.path
    return read_questions(
        path,
        format=source.format,
        split=source.split,
        rows=None if source.rows is None else (source.rows[0], source.rows[1]),
        groups=None if source.groups is None else (source.groups[0], source.groups[1]),
        full_passage=source.full_passage,
    )


def collator(recipe: Recipe, tokenizer: Any) -> QACollator:
    """Return what makes batches of questions, with the recipe's lengths.

    Raises:
        RecipeError: the tokenizer has no token to end an answer with.
    """
    lengths = recipe.questions.max_question_length, recipe.questions.max_answer_length
    if tokenizer.eos_token_id is None:
        raise RecipeError(
            f"model.path: the tokenizer of '{recipe.model.path}' has no end token, which answers end with: set "
            "eos_token in its tokenizer_config.json"
        )
    return QACollator(tokenizer, *lengths)


# Models


def load_model(recipe: Recipe, path: str, field: str) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Raises:
        UserError: it is not there, or is no decoder-only model.
    """
    settings, source = recipe.model, _source(recipe, path)
    with _naming(field):
        if find_family(path, **source) != "decoder":
            raise RecipeError(f"{field}: '{path}' is no decoder-only language model, which online adaptation updates")
        model = load_language_model(
            path, family="decoder", attention=settings.attention, dtype=settings.dtype, **source
        )
        return model, load_tokenizer(path, **source)


def _source(recipe: Recipe, path: str) -> dict[str, Any]:
    """Return what else says where a model is: for another than the recipe's own, nothing."""
    own = path == recipe.model.path
    return {
        "revision": recipe.model.revision if own else None,
        "gguf_file": recipe.model.gguf_file if own else None,
        "trust_remote_code": recipe.model.trust_remote_code,
    }


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Name the field at fault, where loading names that of the recipe's own model."""
    try:
        yield
    except UserError as error:
        raise type(error)(str(error).replace("model.path:", f"{field}:", 1)) from error


def load_base(recipe: Recipe, given: str, field: str) -> tuple[Any, Any]:
    """Load the model that a stage updates, and its tokenizer: what `tune-qa` made, or another.

    Raises:
        RunError: `tune-qa` of this recipe is not finished.
        UserError: the model cannot be loaded.
    """
    return load_model(recipe, _base_path(recipe, given, field), field)


def load_base_tokenizer(recipe: Recipe, given: str, field: str) -> Any:
    """Load only the tokenizer of the model that a stage updates; what is raised: see `load_base`."""
    path = _base_path(recipe, given, field)
    with _naming(field):
        return load_tokenizer(path, **_source(recipe, path))


def _base_path(recipe: Recipe, given: str, field: str) -> str:
    if given != TUNED:
        return given
    folder = _project(recipe) / "tune-qa"
    if not (folder / "finished.json").is_file():
        raise RunError(
            f"{folder}: there is no tuned model here. Run `taskloom online tune-qa` with this recipe first, or name "
            f"the model to update: {field}=FOLDER (the pretrained one: {field}={recipe.model.path})"
        )
    return str(folder / RunFolder.open(folder).read_scores()["model"])


def require_length(recipe: Recipe, model: Any, field: str) -> None:
    """Refuse documents or questions that are longer than the model can read."""
    positions = getattr(model.config, "max_position_embeddings", None)
    questions = recipe.questions
    asked = questions.max_question_length + max(questions.max_answer_length, recipe.answers.max_new_tokens)
    for name, length in (("max_document_length", questions.max_document_length), ("max_question_length", asked)):
        if positions is not None and length > positions:
            raise RecipeError(
                f"questions.{name}: {length} tokens{' with an answer' if length == asked else ''} are more than the "
                f"model of {field} reads ({positions}). Lower it"
            )


# Weighters


def build_weighter(recipe: Recipe, tokenizer: Any) -> Any:
    """Return the weighter of the recipe, for ids of `tokenizer`.

    Raises:
        RunError: there is no learned weighter.
        UserError: spaCy is not installed, or there are no documents to count words in.
    """
    settings = recipe.weighter
    match settings.kind:
        case "uniform":
            return UniformWeighter(settings.value)
        case "salient":
            return SalientSpanWeighter(tokenizer, ignore=settings.ignore, language=settings.language)
        case "tfidf":
            return TfIdfWeighter(tokenizer, _corpus(recipe), threshold=settings.threshold)
    folder = _project(recipe) / "meta-train" if settings.path is None else settings.path
    if (folder / WEIGHTER_FOLDER).is_dir():
        folder = folder / WEIGHTER_FOLDER
    elif settings.path is None:
        raise RunError(
            f"{folder}: there is no weighter here. Run `taskloom online meta-train` with this recipe first, name one "
            "with weighter.path=FOLDER, or take one that needs no training: weighter.kind=uniform, salient or tfidf"
        )
    return LearnedWeighter.load(folder, for_tokenizer=tokenizer)


def new_weighter(recipe: Recipe, tokenizer: Any) -> LearnedWeighter:
    """Return the weighter that `meta-train` begins with, for ids of `tokenizer`.

    Raises:
        RecipeError: the recipe's weighter is not one that learns.
        UserError: its model cannot be loaded.
    """
    settings = recipe.weighter
    if settings.kind != "learned":
        raise RecipeError(f"weighter.kind: is {settings.kind}, which has nothing to train; meta-train needs learned")
    if settings.path is not None:
        nested = settings.path / WEIGHTER_FOLDER
        return LearnedWeighter.load(nested if nested.is_dir() else settings.path, for_tokenizer=tokenizer)
    own = settings.model is None
    with _naming("weighter.model"):
        return LearnedWeighter.from_backbone(
            recipe.model.path if settings.model is None else settings.model,
            layers=settings.layers,
            revision=recipe.model.revision if own else settings.revision,
            gguf_file=recipe.model.gguf_file if own else settings.gguf_file,
            attention=recipe.model.attention,
            trust_remote_code=recipe.model.trust_remote_code,
            width=settings.width,
            activation=None if settings.activation == "none" else settings.activation,
            beta=settings.beta,
            freeze_base=settings.freeze_base,
            normalize=settings.normalize,
            for_tokenizer=tokenizer,
        )


def _corpus(recipe: Recipe) -> list[str]:
    """Return the texts that words are counted in: those of `weighter.corpus`, or of all questions."""
    if recipe.weighter.corpus is not None:
        return read_texts(recipe.weighter.corpus)
    roles = [role for role in ROLES if has_role(recipe, role)]
    if not roles:
        raise RecipeError("weighter.corpus: tfidf counts words in a text: name one, or documents under `questions`")
    texts = (document.text for role in roles for document in read_role(recipe, role, "adapt").documents)
    return list(dict.fromkeys(texts))
