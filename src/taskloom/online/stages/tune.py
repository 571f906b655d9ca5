"""`taskloom online tune-qa`: a language model learns to answer questions, in a run folder."""

from rich.console import Console

from taskloom.online.qa_tuning import tune_qa
from taskloom.online.stages.parts import (
    collator,
    load_model,
    read_role,
    require_length,
    stage_folder,
    stage_recipe,
)
from taskloom.online.trained_parameters import train_only
from taskloom.processes import is_main, on_main
from taskloom.recipe import Recipe
from taskloom.runs import RunFolder

__all__ = ["tune"]


def tune(recipe: Recipe, resume: bool = False, quiet: bool = False) -> RunFolder:
    """Tune the recipe's model on `questions.qa_train` and return the finished run folder.

    Raises:
        UserError: a mistake in the recipe, the data or the run folder.
        KeyboardInterrupt: the run was interrupted; a checkpoint has been written.
    """
    console = Console(quiet=quiet or not is_main(), stderr=True)
    folder, settings = stage_folder(recipe, "tune-qa"), recipe.tune_qa
    on_main(lambda: RunFolder.refuse_unusable(folder, resume))
    train = read_role(recipe, "qa_train", "tune-qa").questions
    dev = read_role(recipe, "qa_dev", "tune-qa").questions
    model, tokenizer = load_model(recipe, recipe.model.path, "model.path")
    require_length(recipe, model, "model.path")
    train_only(model, settings.layers, "tune_qa.layers")
    with RunFolder.create(folder, stage_recipe(recipe, "tune-qa"), resume) as run:
        if run.finished:
            console.print(f"{run.path} is finished: there is nothing to resume.")
            return run
        console.print(f"{len(train):,} questions to train on, {len(dev):,} to validate.")
        result = tune_qa(
            model,
            tokenizer,
            train,
            dev,
            folder=run.path,
            resume=resume,
            seed=recipe.seed,
            precision=recipe.training.precision,
            gradient_checkpointing=recipe.model.gradient_checkpointing,
            keep_checkpoints=recipe.training.keep_checkpoints,
            log_every=recipe.training.log_every,
            eval_batch_size=recipe.answers.batch_size,
            collator=collator(recipe, tokenizer),
            console=console,
            **settings.model_dump(exclude={"layers", "enabled"}),
        )
        best = {metric: {"value": value.value, "step": value.step} for metric, value in result.best.items()}
        run.write_scores(
            {
                "model": f"best-{result.chosen.replace('_', '-')}",
                "chosen_by": result.chosen,
                "steps": result.steps,
                "before": {name: value for name, value in result.history[0].items() if name != "step"},
                "best": best,
            }
        )
        run.mark_finished()
        for metric, found in best.items():
            console.print(f"{metric} {found['value']:.4f} after step {found['step']}")
        console.print(f"Run folder: {run.path}")
    return run
