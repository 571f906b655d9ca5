"""Teaching a language model to answer questions without their documents (CaMeLS, arXiv 2305.15076, section 4).

Both uses of the publication: before anything else, so that the model knows the task (`taskloom online tune-qa`), and
lightly after adaptation to a stream, whose updates may have worn the task away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from rich.console import Console
from transformers import PreTrainedTokenizerBase, TrainingArguments

from taskloom.online.best_models import BestModels, trained_parameters
from taskloom.online.encode import QACollator
from taskloom.online.qa_history import METRICS, BestValue, best_value, deciding_metric
from taskloom.online.qa_trainer import QATrainer, evaluations
from taskloom.online.questions import Question
from taskloom.online.trainings import Precision, begin, run_trainer, training_arguments

__all__ = ["TuneResult", "tune_qa"]

Metric = Literal["nll", "f1", "exact_match"]
_OPTIMIZERS = {"adam": TrainingArguments.default_optim, "sgd": "sgd", "adafactor": "adafactor"}

# Without re-entrance also where the inputs of the first block need no gradient, such as under adapters.
_CHECKPOINTING: dict[str, Any] = {
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
}


@dataclass(frozen=True)
class TuneResult:
    """What came of a tuning.

    Attributes:
        chosen: the metric by which the model was chosen: `stop_on`, or ``"nll"`` if that never changed.
        best: the best value of each metric, and the optimizer step after which it was found.
        history: all evaluations in order: the ``step`` and the metrics of each.
        steps: optimizer steps done.
    """

    chosen: str
    best: dict[str, BestValue]
    history: list[Mapping[str, float]]
    steps: int


def tune_qa(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[Question],
    dev: Sequence[Question],
    *,
    folder: Path | None = None,
    epochs: float = 100.0,
    max_steps: int = -1,
    batch_size: int = 32,
    accumulation: int = 2,
    learning_rate: float = 2.5e-5,
    optimizer: Literal["adam", "sgd", "adafactor"] = "adam",
    max_grad_norm: float = 100.0,
    evaluate_every: int = 512,
    patience: int | None = 10,
    stop_on: Metric = "nll",
    generate: bool = True,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    resume: bool = False,
    seed: int = 0,
    precision: Precision = "float32",
    gradient_checkpointing: bool = False,
    eval_batch_size: int = 32,
    log_every: int = 16,
    collator: QACollator | None = None,
    console: Console | None = None,
) -> TuneResult:
    """Tune a model on questions; it ends with the best parameters that were found.

    The loss is the mean over all answer tokens of an optimizer step (published: the mean of its batches' means). The
    dev questions are scored before the first step, every `evaluate_every` steps and after the last, their answers
    generated greedily.

    Args:
        model: a causal language model of `transformers`, plain or wrapped by PEFT. Only parameters that require
            gradients train; it is changed in place.
        tokenizer: its tokenizer.
        train: questions to train on.
        dev: questions that decide which model is the best, and when to stop.
        folder: for ``checkpoints/``, ``metrics.jsonl`` and the best models ``best-nll``, ``best-f1`` and
            ``best-exact-match``, each of which `AutoModelForCausalLM.from_pretrained` loads. None keeps all in memory.
        epochs: most passes over `train`.
        max_steps: most optimizer steps; -1 leaves it to `epochs`.
        batch_size: questions a batch, of all processes together.
        accumulation: batches an optimizer step.
        learning_rate: a constant one.
        optimizer: its name; Adafactor without its own step sizes, as published. There is no weight decay.
        max_grad_norm: clip the gradient to this norm; 0 never does.
        evaluate_every: optimizer steps from one evaluation to the next.
        patience: stop after so many evaluations without a better `stop_on`; None never does.
        stop_on: the metric that decides, unless it is the same in all evaluations: then the nll does.
        generate: let the model answer the dev questions; without, there is the nll alone.
        checkpoint_every: optimizer steps from one checkpoint to the next; None takes `evaluate_every`.
        keep_checkpoints: the latest so many.
        resume: go on from the latest checkpoint in `folder`, if there is one. On the CPU in float32 the result is that
            of an uninterrupted training, bit for bit.
        seed: of the order of the questions and of dropout.
        precision: of the forward and backward pass.
        gradient_checkpointing: recompute activations instead of keeping them.
        eval_batch_size: dev questions together.
        log_every: optimizer steps from one entry of the training loss to the next.
        collator: makes the batches; None takes `QACollator(tokenizer)`.
        console: for messages and the progress line; None is silent.

    Raises:
        RunError: `folder` holds a tuning already and `resume` is off, or one of another model.
        RecipeError: fp16 without a GPU.
        ValueError: no questions, nothing that trains, or `stop_on` is not among what is evaluated.
        KeyboardInterrupt: the tuning was interrupted; a checkpoint has been written if there is a `folder`.
    """
    metrics = tuple(METRICS) if generate else ("nll",)
    _check(model, train, dev, metrics, stop_on)
    beginning = begin(folder, resume, console)
    was_training = model.training
    with TemporaryDirectory() as nowhere:
        trainer = QATrainer(
            model,
            training_arguments(
                precision,
                output_dir=nowhere if folder is None else str(folder / "checkpoints"),
                seed=seed,
                num_train_epochs=epochs,
                max_steps=max_steps,
                per_device_train_batch_size=batch_size,
                per_device_eval_batch_size=eval_batch_size,
                gradient_accumulation_steps=accumulation,
                optim=_OPTIMIZERS[optimizer],
                learning_rate=learning_rate,
                max_grad_norm=max_grad_norm,
                eval_steps=evaluate_every,
                save_steps=checkpoint_every or evaluate_every,
                save_total_limit=keep_checkpoints,
                logging_steps=log_every,
                eval_on_start=beginning.checkpoint is None,
                **_CHECKPOINTING if gradient_checkpointing else {},
            ),
            train,
            dev,
            tokenizer,
            collator=collator or QACollator(tokenizer),
            best=BestModels(model, tokenizer, folder),
            kept=metrics if folder is not None else tuple(dict.fromkeys(("nll", stop_on))),
            stop_on=stop_on,
            patience=patience,
            generate=generate,
            saves=folder is not None,
            callbacks=beginning.callbacks,
        )
        try:
            state = run_trainer(trainer, beginning)
        finally:
            # Mixed precision has wrapped the model's forward pass.
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            if gradient_checkpointing:
                model.activation_checkpointing_disable()
            model.train(was_training)
    history = evaluations(state)
    found = {metric: best_value(history, metric) for metric in metrics}
    chosen = deciding_metric(history, stop_on)
    trainer.accelerator.wait_for_everyone()
    if found[chosen] is not None:  # without a finite value, nothing was kept
        trainer.best.restore(chosen)
    best = {metric: value for metric, value in found.items() if value is not None}
    return TuneResult(chosen, best, history, state.global_step)


def _check(
    model: Any, train: Sequence[Question], dev: Sequence[Question], metrics: Sequence[str], stop_on: str
) -> None:
    for name, questions in {"train": train, "dev": dev}.items():
        if not questions:
            raise ValueError(f"`{name}` must hold at least one question, found none")
    if stop_on not in metrics:
        raise ValueError(f"`stop_on` must be one of {', '.join(metrics)}, which are evaluated, found '{stop_on}'")
    if not trained_parameters(model):
        raise ValueError("`model` has no parameter that requires a gradient: there is nothing to train")
