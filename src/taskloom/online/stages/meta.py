"""`taskloom online meta-train`: a weighter learns which tokens to update on, in a run folder."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from taskloom.adapters.recipes import adapt as wrapped
from taskloom.errors import RecipeError, RunError
from taskloom.online.encode import encode_documents
from taskloom.online.meta_training import WEIGHTER_FOLDER, meta_train
from taskloom.online.questions import QuestionSet
from taskloom.online.stages.parts import (
    collator,
    load_base,
    new_weighter,
    read_role,
    require_length,
    stage_folder,
    stage_recipe,
)
from taskloom.online.texts import read_texts
from taskloom.online.trained_parameters import trained_parameters
from taskloom.processes import is_main, on_main
from taskloom.recipe import Recipe
from taskloom.report.token_weights import TokenWeights, write_token_weights
from taskloom.runs import RunFolder

__all__ = ["adaptable", "meta_train_stage", "weighed"]


def meta_train_stage(recipe: Recipe, resume: bool = False, quiet: bool = False) -> RunFolder:
    """Train the recipe's weighter on `questions.meta_train` and return the finished run folder.

    Raises:
        UserError: a mistake in the recipe, the data or the run folder.
        KeyboardInterrupt: the run was interrupted; a checkpoint has been written.
    """
    console = Console(quiet=quiet or not is_main(), stderr=True)
    folder, settings = stage_folder(recipe, "meta-train"), recipe.meta_train
    on_main(lambda: RunFolder.refuse_unusable(folder, resume))
    train = read_role(recipe, "meta_train", "meta-train")
    dev = read_role(recipe, "meta_dev", "meta-train")
    web, web_dev = _web_text(recipe)
    base, tokenizer = load_base(recipe, settings.base, "meta_train.base")
    require_length(recipe, base, "meta_train.base")
    base = adaptable(recipe, base, settings.layers, "meta_train.layers")
    torch.manual_seed(recipe.seed)  # the new head's initial weights
    weighter = new_weighter(recipe, tokenizer)
    questions = recipe.questions
    with RunFolder.create(folder, stage_recipe(recipe, "meta-train"), resume) as run:
        if run.finished:
            console.print(f"{run.path} is finished: there is nothing to resume.")
            return run
        console.print(
            f"{len(train.rows):,} questions about {len(train.documents):,} documents to train on, "
            f"{len(dev.rows):,} to validate."
        )
        result = meta_train(
            weighter,
            base,
            tokenizer,
            train,
            dev,
            folder=run.path,
            web_text=web,
            web_text_dev=web_dev,
            max_document_length=questions.max_document_length,
            long_documents=questions.long_documents,
            collator=collator(recipe, tokenizer),
            seed=recipe.seed,
            precision=recipe.training.precision,
            resume=resume,
            keep_checkpoints=recipe.training.keep_checkpoints,
            log_every=recipe.training.log_every,
            on_validation=_pictures(recipe, run.path / "weights", weighter, dev, tokenizer),
            console=console,
            settings=settings,
        )
        if not (run.path / WEIGHTER_FOLDER).is_dir():
            raise RunError(
                f"{run.path}: the validation loss was not finite at any step, so there is no best weighter. Lower "
                "meta_train.inner_lr, and choose another folder with output=FOLDER or remove this one"
            )
        best = next(entry for entry in result.history if entry["step"] == result.best_step)
        run.write_scores({"steps": result.steps, "before": result.history[0], "best": best})
        run.mark_finished()
        before = result.history[0]
        console.print(
            f"Validation loss {before['loss']:.4f} before, {best['loss']:.4f} after step {result.best_step}; an update "
            f"lowers the questions' nll by {best['nll_gain']:.4f} (before: {before['nll_gain']:.4f})."
        )
        console.print(f"Run folder: {run.path}")
    return run


def adaptable(recipe: Recipe, model: Any, layers: int | None, field: str) -> Any:
    """Return the model as its updates shall see it: with the recipe's adapter, or with some blocks that change.

    Raises:
        RecipeError: an adapter that cannot be merged back, or no such blocks.
    """
    if recipe.adapter.method in ("ca_mtl", "hyperdecoder"):
        raise RecipeError(
            f"adapter.method: {recipe.adapter.method} belongs to training on tasks; updates on documents take none, or "
            "a method of PEFT that can be merged, such as lora"
        )
    torch.manual_seed(recipe.seed)  # an adapter's initial parameters: a resumed run begins with the same
    adapted: Any = wrapped(model, recipe.adapter, 1, recipe.questions.max_document_length, "CAUSAL_LM")
    if recipe.adapter.method != "none" and not hasattr(adapted, "merge_and_unload"):
        raise RecipeError(f"adapter.method: {recipe.adapter.method} cannot be merged into the model; use lora")
    try:
        trained_parameters(adapted, layers)
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from error
    return adapted


def _web_text(recipe: Recipe) -> tuple[list[str], list[str] | None]:
    settings, questions = recipe.meta_train, recipe.questions
    if settings.kl_weight == 0:
        return [], None
    if questions.web_text is None and not settings.question_locality:
        raise RecipeError(
            f"questions.web_text: meta_train.kl_weight is {settings.kl_weight:g}, which weighs the change on unrelated "
            "text: name a file of it, or set meta_train.kl_weight=0"
        )
    web = [] if questions.web_text is None else read_texts(questions.web_text)
    return web, None if questions.web_text_dev is None else read_texts(questions.web_text_dev)


# Pictures


def weighed(title: str, text: str, weighter: Any, tokenizer: Any, max_length: int) -> Iterator[TokenWeights]:
    """Yield a document's parts with the weights of their tokens."""
    device = next(weighter.parameters(), torch.zeros(())).device
    parts = encode_documents([text], tokenizer, max_length)[0]
    for number, part in enumerate(parts, start=1):
        with torch.no_grad():
            weights = weighter(part["input_ids"].to(device), part["attention_mask"].to(device))[0].tolist()
        name = title if len(parts) == 1 else f"{title} ({number} of {len(parts)})"
        yield TokenWeights.from_ids(name, part["input_ids"][0].tolist(), weights, tokenizer)


def _pictures(recipe: Recipe, folder: Path, weighter: Any, dev: QuestionSet, tokenizer: Any) -> Callable[[int], None]:
    """Return what draws the weights of some validation documents, as a page and the first as a picture."""
    texts = list(dict.fromkeys(document.text for document, _ in dev.rows))[: recipe.meta_train.pictures]
    names = {document.text: document.group or document.name for document in dev.documents}

    def draw(step: int) -> None:
        training = weighter.training
        weighter.eval()
        length = recipe.questions.max_document_length
        documents = [part for text in texts for part in weighed(names[text], text, weighter, tokenizer, length)]
        weighter.train(training)
        title = f"{recipe.name}: weights after step {step}"
        write_token_weights(documents, folder / f"step-{step:06d}.json", title)

    return draw
