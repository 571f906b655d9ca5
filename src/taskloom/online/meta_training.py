"""Meta-training a weighter, from question sets to the best weighter on disk (CaMeLS, arXiv 2305.15076, section 3.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from pydantic import ValidationError
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from taskloom.errors import RecipeError
from taskloom.online.encode import QACollator
from taskloom.online.meta_batches import LocalityTexts, MetaCollator, MetaRows
from taskloom.online.meta_trainer import MetaTrainer
from taskloom.online.questions import QuestionSet
from taskloom.online.trainings import Precision, begin, run_trainer, training_arguments
from taskloom.processes import barrier, world_size
from taskloom.recipe.online import MetaTrainSection

__all__ = ["WEIGHTER_FOLDER", "MetaTrainResult", "meta_train"]

#: Where a training keeps its best weighter.
WEIGHTER_FOLDER = "weighter"


@dataclass(frozen=True)
class MetaTrainResult:
    """What came of a meta-training.

    Attributes:
        steps: outer steps done.
        best_step: the step of the lowest validation loss.
        history: the validations in order: ``step``, ``loss``, ``nll``, ``nll_gain`` (what the updates gain) and ``kl``.
    """

    steps: int
    best_step: int
    history: list[dict[str, float]]


def meta_train(
    weighter: Any,
    base: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: QuestionSet,
    dev: QuestionSet,
    *,
    folder: Path | None = None,
    web_text: Sequence[str] = (),
    web_text_dev: Sequence[str] | None = None,
    max_document_length: int = 1024,
    long_documents: Literal["split", "truncate"] = "split",
    collator: QACollator | None = None,
    seed: int = 0,
    precision: Precision = "float32",
    resume: bool = False,
    keep_checkpoints: int = 2,
    log_every: int = 10,
    on_validation: Callable[[int], None] | None = None,
    console: Console | None = None,
    settings: MetaTrainSection | None = None,
    **options: Any,
) -> MetaTrainResult:
    """Train a weighter, in place, so that one weighted update a document makes a model answer questions about it.

    Args:
        weighter: a `taskloom.online.LearnedWeighter` for ids of `tokenizer`.
        base: the causal language model that is updated; its parameters are left as they were, and it stays in
            evaluation mode.
        tokenizer: of the base model.
        train: documents with questions.
        dev: documents with questions whose outer loss chooses the best weighter; of other documents than `train`.
        folder: for ``checkpoints/``, ``metrics.jsonl`` and the best weighter, ``weighter/``; None keeps nothing, and
            the weighter ends as the last step left it.
        web_text: unrelated texts on which an update shall change nothing; needed where `kl_weight` is above 0, unless
            `question_locality` gives others.
        web_text_dev: the same for validation; None takes `web_text`.
        max_document_length: longest part of a document, in tokens.
        long_documents: ``"split"`` or ``"truncate"`` longer ones; each part is an update.
        collator: makes the batches of questions; None takes `QACollator(tokenizer)`.
        seed: of the order of documents, locality texts and dropout.
        precision: of all passes through the weighter and the base model: float32, or bf16 by autocast.
        resume: go on from the latest checkpoint in `folder`. With `method` ``"forward"`` or ``"reverse"`` and float32
            on the CPU the result is that of an uninterrupted training, bit for bit.
        keep_checkpoints: the latest so many.
        log_every: outer steps between two entries of the training loss.
        on_validation: called after each validation with the step.
        console: for messages and the progress line; None is silent.
        settings: all that the recipe's section ``meta_train`` says; None takes `options` over the defaults.
        **options: its fields one by one, such as ``inner_lr=5e-4``.

    Raises:
        RecipeError: fp16, whose narrow range would need gradients scaled within the updates; or several processes that
            cannot share the batches of an outer step.
        RunError: `folder` holds a training already and `resume` is off.
        ValueError: a setting is out of range, there is no locality text, or there are no questions.
        KeyboardInterrupt: the training was interrupted; a checkpoint has been written if there is a `folder`.
    """
    settings = _settings(settings, options)
    if precision == "fp16":
        raise RecipeError("training.precision: fp16 is too narrow for the gradients of updates. Use float32 or bf16.")
    if settings.accumulation % world_size():
        raise RecipeError(
            f"meta_train.accumulation: {settings.accumulation} batches an outer step cannot be shared by "
            f"{world_size()} processes. Make it a multiple of their number, or launch fewer"
        )
    collator = collator or QACollator(tokenizer)
    rows = MetaRows(train, tokenizer, max_document_length, long_documents)
    dev_rows = MetaRows(dev, tokenizer, max_document_length, long_documents, settings.validation_documents)
    if settings.kl_weight and not web_text and not settings.question_locality:
        raise ValueError("`web_text` must hold texts where `kl_weight` is above 0; give some, or set kl_weight=0")

    def locality(texts: Sequence[str], questions: QuestionSet) -> LocalityTexts:
        return LocalityTexts(
            texts,
            questions.questions if settings.question_locality else (),
            tokenizer,
            collator,
            settings.locality_batch_size,
            max_document_length,
        )

    beginning = begin(folder, resume, console)
    with TemporaryDirectory() as nowhere:
        trainer = MetaTrainer(
            weighter,
            training_arguments(
                precision,
                output_dir=nowhere if folder is None else str(folder / "checkpoints"),
                seed=seed,
                num_train_epochs=settings.epochs,
                max_steps=settings.max_steps,
                per_device_train_batch_size=settings.documents,
                gradient_accumulation_steps=settings.accumulation // world_size(),
                learning_rate=settings.outer_lr,
                max_grad_norm=settings.max_grad_norm,
                eval_steps=settings.validate_every,
                save_strategy="steps" if folder is not None else "no",
                save_steps=settings.checkpoint_every or settings.validate_every,
                save_total_limit=keep_checkpoints,
                logging_steps=log_every,
                eval_on_start=beginning.checkpoint is None,
                metric_for_best_model="loss",
                greater_is_better=False,
                **_schedule(settings),
            ),
            base,
            rows,
            dev_rows,
            MetaCollator(collator),
            settings,
            locality=locality(web_text, train),
            dev_locality=locality(web_text if web_text_dev is None else web_text_dev, dev),
            best_folder=None if folder is None else folder / WEIGHTER_FOLDER,
            on_validation=on_validation,
            callbacks=beginning.callbacks,
        )
        try:
            state = run_trainer(trainer, beginning)
        finally:
            trainer.reset_base()
        barrier()  # the main process has written the best weighter
    history = [
        {"step": entry["step"]} | {name: entry[f"dev/{name}"] for name in ("loss", "nll", "nll_gain", "kl")}
        for entry in state.log_history
        if "dev/loss" in entry
    ]
    return MetaTrainResult(state.global_step, state.best_global_step or 0, history)


def _settings(settings: MetaTrainSection | None, options: dict[str, Any]) -> MetaTrainSection:
    if settings is not None:
        return settings.model_copy(update=options)
    try:
        return MetaTrainSection(**options)
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        raise ValueError(f"`{'.'.join(map(str, finding['loc']))}`: {finding['msg']}") from None


def _schedule(settings: MetaTrainSection) -> dict[str, Any]:
    if not settings.reduce_on_plateau:
        return {}
    return {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"factor": 0.5**0.5, "patience": 5},
    }
