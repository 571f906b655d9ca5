"""From a recipe to its parts: the suite with its data, the tokenizer, and the model."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from taskloom.adapters.recipes import adapt
from taskloom.backbones import find_family, load_encoder, load_language_model, load_tokenizer
from taskloom.errors import RecipeError, did_you_mean
from taskloom.generation import TextInference
from taskloom.generative import GenerativeModel
from taskloom.inference import Inference
from taskloom.model import MultiTaskModel
from taskloom.recipe import Recipe
from taskloom.recipe.adapter import idle_option
from taskloom.tasks import MultiTaskCollator, Task, TaskSuite

__all__ = ["build_inference", "build_model", "build_suite", "layout", "recipe_tokenizer", "refuse_long_examples"]


def build_suite(recipe: Recipe) -> TaskSuite:
    """Read and validate the data of the recipe's tasks, of those in `only` if it names some.

    Raises:
        DataError: a mistake in a task or its data.
        RecipeError: `only` names a task that is not among the tasks.
    """
    suite = TaskSuite.load(
        recipe.tasks,
        data_dir=recipe.data.dir,
        cache_dir=recipe.data.cache,
        limits=recipe.data.limits,
        seed=recipe.seed,
        split_validation_test=recipe.data.split_validation_test,
    )
    return suite if recipe.only is None else _only(suite, recipe.only)


def _only(suite: TaskSuite, names: Sequence[str]) -> TaskSuite:
    """Return the suite of some tasks, in the order of the whole one."""
    for name in names:
        if name not in suite.names:
            raise RecipeError(f"only: there is no task '{name}' among the tasks.{did_you_mean(name, suite.names)}")
    if not names:
        raise RecipeError("only: names no task; leave it out to use all of them")
    kept = [task for task in suite if task.name in names]
    examples = {(task.name, split): suite.examples(task.name, split) for task in kept for split in task.splits}
    return TaskSuite(kept, examples, suite.cache_dir)


def layout(recipe: Recipe, model: MultiTaskModel | GenerativeModel) -> dict[str, Any]:
    """Return how the suite's examples become items for this model: arguments of `TaskSuite.task_features`."""
    return {
        "max_length": recipe.data.max_length,
        "stride": recipe.data.stride,
        "max_target_length": recipe.data.max_target_length,
        "decoder_only": model.layout == "decoder",
    }


def build_inference(
    recipe: Recipe,
    model: MultiTaskModel | GenerativeModel,
    suite: TaskSuite,
    tokenizer: Any,
    batch_size: int,
    shared: bool = False,
) -> Inference:
    """Return the model with what it takes to feed it and to read its outputs; `shared` as for `Inference`."""
    if isinstance(model, GenerativeModel):
        return TextInference(model, tokenizer, batch_size, recipe.data.max_target_length, shared)
    return Inference(model, MultiTaskCollator(tokenizer, suite), batch_size, shared)


def refuse_long_examples(recipe: Recipe, suite: TaskSuite, model: MultiTaskModel | GenerativeModel) -> None:
    """Raise the `DataError` of the first example that is longer than the recipe allows."""
    tokenizer = recipe_tokenizer(recipe)
    for task in suite:
        for split in task.splits:
            suite.task_features(task.name, split, tokenizer, on_too_long="error", **layout(recipe, model))


def recipe_tokenizer(recipe: Recipe) -> Any:
    """Load the tokenizer of the recipe's backbone."""
    settings = recipe.model
    return load_tokenizer(
        settings.path,
        revision=settings.revision,
        gguf_file=settings.gguf_file,
        trust_remote_code=settings.trust_remote_code,
    )


def build_model(recipe: Recipe, tasks: Sequence[Task]) -> MultiTaskModel | GenerativeModel:
    """Load the backbone and wrap it with the recipe's adapter; an encoder also gets the tasks' heads.

    The seed of the recipe sets every random initial value.

    Raises:
        UserError: the backbone cannot be loaded, or does not fit the tasks or the recipe.
    """
    settings = recipe.model
    family = settings.kind
    if family == "auto":
        family = find_family(
            settings.path,
            revision=settings.revision,
            gguf_file=settings.gguf_file,
            trust_remote_code=settings.trust_remote_code,
        )
    return _encoder_model(recipe, tasks) if family == "encoder" else _generative_model(recipe, tasks, family)


def _generative_model(
    recipe: Recipe, tasks: Sequence[Task], family: Literal["encoder_decoder", "decoder"]
) -> GenerativeModel:
    settings = recipe.model
    for task in tasks:
        if task.needs_head:
            raise RecipeError(
                f"tasks: '{task.name}' is of kind '{task.kind}', which needs a head on an encoder such as BERT; "
                f"'{settings.path}' generates text. Use tasks of kind text2text, or another model."
            )
        if task.kind == "lm" and family == "encoder_decoder":
            raise RecipeError(
                f"tasks: '{task.name}' is of kind 'lm', which needs a decoder-only model; '{settings.path}' has an "
                "encoder too. Use tasks of kind text2text, or another model."
            )
    _check_answer_lengths(recipe, tasks)
    idle = idle_option(recipe.adapter, family)
    if idle is not None:
        kind = "has an encoder" if family == "encoder_decoder" else "is decoder-only"
        raise RecipeError(f"adapter.{idle}: '{settings.path}' {kind} and would ignore it. Leave it out.")
    if recipe.sampling.strategy == "uncertainty":
        raise RecipeError(
            f"sampling.strategy: uncertainty reads the entropy of heads on an encoder; '{settings.path}' generates "
            "text. Use another strategy."
        )
    model = load_language_model(
        settings.path,
        family=family,
        revision=settings.revision,
        attention=settings.attention,
        dtype=settings.dtype,
        gguf_file=settings.gguf_file,
        trust_remote_code=settings.trust_remote_code,
    )
    if family == "decoder":
        trained = recipe.data.max_target_length
        lengths = (max(task.max_target_length or trained, task.max_generated_length or 0) for task in tasks)
        longest = max(lengths, default=0)
        _check_length(recipe, model, longest)
    torch.manual_seed(recipe.seed)
    task_type = "SEQ_2_SEQ_LM" if family == "encoder_decoder" else "CAUSAL_LM"
    adapted = adapt(model, recipe.adapter, len(tasks), recipe.data.max_length, task_type)
    if not any(parameter.requires_grad for parameter in adapted.parameters()):
        raise RecipeError("adapter: nothing trains, for every part is frozen. Unfreeze one of them.")
    if settings.gradient_checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
    return GenerativeModel(adapted, tasks, recipe.training.label_smoothing)


def _check_answer_lengths(recipe: Recipe, tasks: Sequence[Task]) -> None:
    longest = recipe.data.max_target_length
    for task in tasks:
        own = task.max_generated_length or task.max_target_length
        if own is None and task.min_target_length is not None and task.min_target_length > longest:
            raise RecipeError(
                f"data.max_target_length: is {longest}, below the shortest answer of task '{task.name}' "
                f"(min_target_length {task.min_target_length}). Raise it, or give the task a max_generated_length."
            )


def _encoder_model(recipe: Recipe, tasks: Sequence[Task]) -> MultiTaskModel:
    settings = recipe.model
    if settings.gguf_file is not None:
        raise RecipeError(f"model.gguf_file: '{settings.path}' is an encoder; GGUF is read for decoder models only.")
    encoder, missing = load_encoder(
        settings.path,
        revision=settings.revision,
        attention=settings.attention,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
    if recipe.training.label_smoothing:
        raise RecipeError(
            f"training.label_smoothing: is {recipe.training.label_smoothing:g}, which smooths the answers of text2text "
            f"and lm tasks; '{settings.path}' is an encoder with heads. Leave it out."
        )
    for task in tasks:
        if not task.needs_head:
            raise RecipeError(
                f"tasks: '{task.name}' is of kind '{task.kind}', which is generated; '{settings.path}' is an encoder. "
                "Use tasks of kind classification, regression, token or span."
            )
    _check_length(recipe, encoder)
    torch.manual_seed(recipe.seed)
    pooling = None if settings.pooling == "auto" else settings.pooling
    if pooling is None and any("pooler." in name for name in missing):
        pooling = "cls"  # the checkpoint has no pooler: transformers has just made one of random weights
    adapted = adapt(encoder, recipe.adapter, len(tasks), recipe.data.max_length)
    if settings.gradient_checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        return MultiTaskModel(adapted, tasks, pooling, settings.head_dropout)
    except ValueError as error:
        raise RecipeError(f"model.pooling: {error}") from error


def _check_length(recipe: Recipe, encoder: PreTrainedModel, answer: int = 0) -> None:
    positions = getattr(encoder.config, "max_position_embeddings", None)
    if positions is None:
        return
    # RoBERTa and its kin start counting positions after the padding index.
    reserved = (encoder.config.pad_token_id or 0) + 1 if "roberta" in encoder.config.model_type else 0
    allowed = positions - reserved - answer
    if recipe.data.max_length > allowed:
        beside = f" beside an answer of {answer}" if answer else ""
        advice = f"Set data.max_length={allowed} or less." if allowed > 0 else "Lower the longest answer of the tasks."
        raise RecipeError(
            f"data.max_length: {recipe.data.max_length} tokens are more than '{recipe.model.path}' allows{beside} "
            f"({max(allowed, 0)}). {advice}"
        )
    longest = recipe.auxiliary.max_length  # of rows that have no answer
    if longest is not None and longest > positions - reserved:
        raise RecipeError(
            f"auxiliary.max_length: {longest} tokens are more than '{recipe.model.path}' allows "
            f"({positions - reserved}). Lower it, or leave it out for data.max_length."
        )
