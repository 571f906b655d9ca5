"""A whole run: from a recipe to a run folder with a trained model, its scores and its predictions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.utils import logging as transformers_logging

from taskloom.build import build_model, build_suite, layout, recipe_tokenizer, refuse_long_examples
from taskloom.callbacks import GracefulStop, MetricsWriter, ProgressLine
from taskloom.errors import DataError, RecipeError
from taskloom.evaluation import majority_baseline
from taskloom.evaluation.generations import GENERATIONS_FOLDER, Generations, predicted_answers_file
from taskloom.generative import GenerativeModel
from taskloom.inference import Scores, dev_splits, mean_score, split_title
from taskloom.model import MultiTaskModel
from taskloom.predictor import load
from taskloom.processes import (
    barrier,
    is_main,
    join,
    lost_processes,
    main_first,
    on_main,
    resume_command,
    together,
    world_size,
)
from taskloom.recipe import Recipe
from taskloom.report import learning_curves, score_markdown, score_table
from taskloom.runs import RunFolder
from taskloom.sampling import Proportional, Sampling, Sequential, Temperature, Uncertainty, Uniform
from taskloom.sharding import layers
from taskloom.tasks import Task, TaskSuite
from taskloom.training import SCORES_FILE, MultiTaskTrainer

if TYPE_CHECKING:
    from taskloom.auxiliary.fit import AuxiliaryObjectives

__all__ = ["evaluate", "fit", "train"]

Model = MultiTaskModel | GenerativeModel


def fit(recipe: Recipe, resume: bool = False, quiet: bool = False) -> RunFolder:
    """Train as the recipe says and return the finished run folder.

    Args:
        recipe: all settings.
        resume: continue an interrupted run in the same folder from its latest checkpoint. On the CPU in float32 the
            final weights are those of an uninterrupted run, bit for bit.
        quiet: print nothing.

    Raises:
        UserError: a mistake in the recipe, the data or the run folder. Nothing is written outside the folder.
        KeyboardInterrupt: the run was interrupted; a checkpoint has been written.
    """
    if recipe.groups is not None:
        from taskloom.grouped import fit_groups

        return fit_groups(recipe, resume, quiet)
    console = Console(quiet=quiet or not is_main(), stderr=True)
    transformers_logging.disable_progress_bar()  # one line of progress is enough, and it is ours
    # The folder is looked at first, for a quick refusal, and begun last: a mistake in the data must not leave a run.
    on_main(lambda: RunFolder.refuse_unusable(recipe.output, resume))
    with main_first():  # who comes later reads the first one's caches
        suite = build_suite(recipe)
        _require_splits(suite)
    with together():
        model = build_model(recipe, list(suite))
        tokenizer = recipe_tokenizer(recipe)
        _require_vocabulary(recipe, tokenizer, model)
        if recipe.data.on_too_long == "error":
            refuse_long_examples(recipe, suite, model)
    objectives = _objectives(recipe, suite, model, tokenizer, console)
    with RunFolder.create(recipe.output, recipe, resume) as run:
        if run.finished:
            console.print(f"{run.path} is finished: there is nothing to resume.")
            return run
        if objectives is None:
            trainer = train(recipe, run, suite, model, tokenizer, console)
        else:
            trainer = objectives.train(recipe, run, suite, model, tokenizer, console)
        _conclude(recipe, run, suite, trainer.best_step, console)
    return run


def _objectives(
    recipe: Recipe, suite: TaskSuite, model: Model, tokenizer: Any, console: Console
) -> "AuxiliaryObjectives | None":
    """Make the auxiliary objectives that the recipe names, if it names any."""
    if recipe.auxiliary.space is None:
        return None
    from taskloom.auxiliary.fit import build_objectives

    return build_objectives(recipe, suite, model, tokenizer, console)


def _require_splits(suite: TaskSuite) -> None:
    """Refuse a task that cannot be trained, or by which the best model could not be chosen."""
    for task in suite:
        for split, found in {"train": "train" in task.splits, "dev": bool(task.dev_splits)}.items():
            if not found:
                raise DataError(
                    f"task '{task.name}' has no {split} split, only {', '.join(task.splits)}: training needs train and "
                    "dev; name their files under `splits`, or give one file as `path` and `divide` it"
                )


def _require_vocabulary(recipe: Recipe, tokenizer: Any, model: Model) -> None:
    """Refuse a tokenizer that writes ids for which the model has no embedding."""
    backbone: Any = model.backbone if isinstance(model, GenerativeModel) else model.encoder
    rows = backbone.get_input_embeddings().num_embeddings
    # Tokens that were added later may be more than the model knows, as long as no text holds them.
    size = max(tokenizer.vocab_size, 1 + (tokenizer.pad_token_id or 0))
    if size > rows:
        raise RecipeError(
            f"model.path: the tokenizer of '{recipe.model.path}' has {size:,} tokens, its model embeds {rows:,}. "
            "They do not belong together: put the model's own tokenizer.json into the folder."
        )


def train(
    recipe: Recipe,
    run: RunFolder,
    suite: TaskSuite,
    model: Model,
    tokenizer: Any,
    console: Console,
    trainer_class: type[MultiTaskTrainer] = MultiTaskTrainer,
    **further: Any,
) -> MultiTaskTrainer:
    """Train, or go on from the latest checkpoint, and return the trainer in its last state.

    Args:
        recipe: all settings.
        run: where checkpoints, metrics and the best model go.
        suite: the tasks and their data.
        model: the model.
        tokenizer: its tokenizer.
        console: for messages and the progress line.
        trainer_class: the trainer.
        further: arguments of the trainer that the recipe's common sections do not give.

    Raises:
        KeyboardInterrupt: the training was interrupted; a checkpoint has been written.
    """
    settings = recipe.training
    join()
    stop, progress = GracefulStop(console), ProgressLine(console)
    trainer = trainer_class(
        model,
        _training_arguments(recipe, run, model),
        suite,
        tokenizer,
        batch_size=settings.batch_size,
        sampling=_sampling(recipe),
        max_length=recipe.data.max_length,
        max_target_length=recipe.data.max_target_length,
        on_too_long=recipe.data.on_too_long,
        mixed=recipe.sampling.mix == "mixed",
        group_by_length=recipe.sampling.group_by_length,
        loss=settings.loss,
        aggregator=settings.aggregator,
        head_learning_rate=settings.head_learning_rate,
        patience=settings.early_stopping,
        evaluate_every=settings.evaluate_every,
        checkpoint_every=settings.checkpoint_every,
        best_folder=run.model_folder,
        answers_folder=run.path,
        stride=recipe.data.stride,
        pad_to=recipe.data.pad_to,
        callbacks=[MetricsWriter(run.append_metrics), stop, progress],
        **further,
    )
    if settings.fsdp and world_size() > 1 and not trainer.is_fsdp_enabled:
        raise RecipeError("training.fsdp: accelerate shards parameters on GPUs only, and there is none. Leave it out.")
    trained, total = model.trainable_parameters()
    console.print(
        f"{len(suite)} task{'s' * (len(suite) > 1)}, {sum(trainer.batch_sampler.sizes):,} training examples; "
        f"{trained:,} of {total:,} parameters train ({trained / total:.1%})."
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = run.latest_checkpoint()
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)) if checkpoint else TrainerState()
    if checkpoint:
        console.print(f"Resuming after step {state.global_step}.")
    run.truncate_metrics(state.global_step)
    if checkpoint and trainer.is_over(state):
        trainer.restore(checkpoint, state)
    else:
        try:
            with lost_processes(f"The run can go on from its last checkpoint: {resume_command(run.path)}"):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            progress.stop()
            stop.restore()
        if stop.requested:
            raise KeyboardInterrupt
    if is_main():
        tokenizer.save_pretrained(str(run.model_folder / model.backbone_folder))
    barrier()
    return trainer


def _conclude(recipe: Recipe, run: RunFolder, suite: TaskSuite, step: int, console: Console) -> None:
    """Write the scores of the best model, its predictions for the test splits, the summary and the curves."""
    scores: Scores = json.loads((run.model_folder / SCORES_FILE).read_text("utf-8"))
    baselines = _baselines(suite)
    run.write_scores({"mean": mean_score(suite, scores), "dev": scores, "majority": baselines})
    predictor = load(run.path)
    inference = predictor.inference(recipe.training.eval_batch_size, shared=True)
    generations = Generations()
    for task in suite:
        for split in task.test_splits:
            items = suite.task_features(task.name, split, predictor.tokenizer, **layout(recipe, predictor.model))
            examples, title = suite.examples(task.name, split), split_title(task.name, split)
            predictions, outputs = inference.predict(task, items, examples)
            generations.add(title, task, items, examples, predictions, outputs.candidates)
            file_name = task.submission.get(split) or f"{title.replace('/', '-')}.tsv"
            run.write_submission(file_name, _submitted(task, predictions))
    if is_main():
        generations.write_into(run.path / GENERATIONS_FOLDER)
        generations.write_predicted_answers(run.path / predicted_answers_file(step, test=True))
        learning_curves({recipe.name: run.metrics_file}, run.path / "curves.png")
    run.write_summary(score_markdown(list(suite), {recipe.name: scores}, baselines))
    run.mark_finished()
    console.print(score_table(list(suite), {recipe.name: scores}, baselines))
    console.print(f"Run folder: {run.path}")


def evaluate(run: str | Path, split: str = "dev", save: str | Path | None = None) -> Scores:
    """Score the best model of a run on a split of its tasks' data.

    Args:
        run: the run folder.
        split: ``"dev"``, ``"test"`` (where it has targets) or the name of a further split.
        save: a folder for what a generative model answered; see `taskloom.evaluation.generations`.

    Returns:
        The metrics of each task that has this split.

    Raises:
        UserError: no such run, its data is gone, no task has such a split with targets, or there is nothing that
            could be saved.
    """
    predictor = load(run)
    suite = build_suite(predictor.recipe)
    scored = {}
    for task in suite:
        if split in task.splits and (task.kind == "lm" or suite.examples(task.name, split).targets is not None):
            settings = layout(predictor.recipe, predictor.model)
            scored[task.name, split] = suite.task_features(task.name, split, predictor.tokenizer, **settings)
    if not scored:
        held = ", ".join(dict.fromkeys(split for task in suite for split in task.splits))
        raise DataError(
            f"{run}: no task has a split '{split}' with targets; there are {held}. For a test split where the targets "
            "are hidden, train with data.split_validation_test=true"
        )
    if save is not None:
        _require_savable(Path(save), [suite[name] for name, _ in scored])
    generations = Generations()
    inference = predictor.inference(predictor.recipe.training.eval_batch_size, shared=True)
    scores, _ = inference.score(suite, scored, generations)
    if save is not None and is_main():
        generations.write_into(Path(save))
        generations.write_predicted_answers(Path(save) / "predicted_answers.json")
    return scores


def _require_savable(folder: Path, tasks: list[Task]) -> None:
    """Refuse before the work, not after it."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file, expected a folder for the generated answers")
    if all(task.kind != "text2text" for task in tasks):
        names = ", ".join(task.name for task in tasks)
        raise DataError(f"{folder}: there are no generated answers to save: text2text tasks have them, found {names}")


def _submitted(task: Task, predictions: list[Any]) -> list[str]:
    """Spell predictions as benchmark servers want them."""
    labels: tuple[str, ...] = task.labels or ()
    match task.kind:
        case "classification":
            spelled = task.submission_labels or labels
            return [str(spelled[index]) for index in predictions]
        case "regression":
            return [f"{value:.3f}" for value in predictions]
        case "token":
            return [" ".join(str(labels[tag]) for tag in sentence) for sentence in predictions]
        case "text2text":
            return [" ".join(answer.split()) for answer in predictions]
        case "lm":
            return [f"{loss:.4f}" for loss in predictions]
        case _:
            return [" ".join(answer.text.split()) for answer in predictions]


def _baselines(suite: TaskSuite) -> Scores:
    return {
        split_title(task.name, split): majority_baseline(
            task, suite.examples(task.name, "train").targets or [], suite.examples(task.name, split).targets or []
        )
        for task, split in dev_splits(suite)
    }


def _training_arguments(recipe: Recipe, run: RunFolder, model: Model) -> TrainingArguments:
    settings = recipe.training
    on_cpu = not torch.accelerator.is_available()
    if settings.precision == "fp16" and on_cpu:
        raise RecipeError("training.precision: fp16 needs a GPU, and there is none. Use float32 or bf16.")
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints),
        seed=recipe.seed,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        per_device_eval_batch_size=settings.eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        # The fused form of AdamW is the Trainer's own choice for recent versions of torch.
        optim="adafactor" if settings.optimizer == "adafactor" else TrainingArguments.default_optim,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup if settings.warmup_steps is None else settings.warmup_steps,
        # The Trainer's own "constant" would leave the warm-up out.
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        save_total_limit=settings.keep_checkpoints,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=on_cpu,
        report_to=settings.report_to or "none",
        torch_compile=settings.compile,
        dataloader_num_workers=recipe.data.workers,
        restore_callback_states_from_checkpoint=True,
        disable_tqdm=True,
        **_sharding(recipe, model),
    )
    # One process trains on one device: several take a launcher.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _sharding(recipe: Recipe, model: Model) -> dict[str, Any]:
    """Return the Trainer's settings for the batch and for parameters in shards; one process has none of these."""
    settings = recipe.training
    if settings.deepspeed is not None and world_size() > 1:
        # DeepSpeed wants to know the share of a process.
        share = -(-settings.batch_size // world_size())
        return {"deepspeed": str(settings.deepspeed), "per_device_train_batch_size": share}
    # Of all processes together: the Trainer reports it, and compares it with that of a run that is resumed.
    batch = {"per_device_train_batch_size": settings.batch_size}
    if settings.fsdp and world_size() > 1:
        backbone = model.backbone if isinstance(model, GenerativeModel) else model.encoder
        return {**batch, "fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": layers(backbone)}}
    return batch


def _sampling(recipe: Recipe) -> Sampling:
    settings = recipe.sampling
    match settings.strategy:
        case "sequential":
            return Sequential()
        case "proportional":
            return Proportional()
        case "temperature":
            return Temperature(settings.temperature)
        case "uniform":
            return Uniform(settings.percent_of_max_data_size)
        case "uncertainty":
            return Uncertainty(
                settings.percent_of_max_data_size, settings.candidates_per_task, settings.max_pool, settings.even_share
            )
