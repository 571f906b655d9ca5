"""What each kind of stage does: the verbs of the command line, one after the other."""

import json

from rich.console import Console

from taskloom.pipeline.plan import Stage
from taskloom.processes import is_main, on_main
from taskloom.storage import write_atomically

__all__ = ["run_stage"]


def run_stage(stage: Stage, resume: bool, quiet: bool) -> None:
    """Do a stage's work, or go on with it where it stopped.

    Raises:
        UserError: a mistake in the recipe, the data or the stage's folder.
        KeyboardInterrupt: the stage was interrupted; what it needs to go on is written.
    """
    # Each verb brings libraries of its own, which only it needs.
    match stage.kind:
        case "train" | "train-groups" | "auxiliary" | "retrain":
            from taskloom.fit import fit

            fit(stage.recipe, resume=resume, quiet=quiet)
        case "affinity":
            from taskloom.affinity.run import estimate_affinity

            estimate_affinity(stage.recipe, quiet=quiet)
        case "group":
            _group(stage, quiet)
        case "tune-qa":
            from taskloom.online.stages.tune import tune

            tune(stage.recipe, resume, quiet)
        case "meta-train":
            from taskloom.online.stages.meta import meta_train_stage

            meta_train_stage(stage.recipe, resume, quiet)
        case "adapt":
            from taskloom.online.stages.adapt import adapt_stage

            adapt_stage(stage.recipe, resume=resume, quiet=quiet)
        case "evaluate":
            _evaluate(stage, quiet)
        case "report":
            from taskloom.report.html import write_report

            on_main(lambda: write_report([stage.folder], stage.result))


def _group(stage: Stage, quiet: bool) -> None:
    from taskloom.affinity.run import group_tasks

    settings = stage.settings

    def grouped() -> list[list[str]]:
        return group_tasks(stage.folder, settings.k, settings.method, settings.transform).groups

    for number, names in enumerate(on_main(grouped), 1):
        Console(quiet=quiet or not is_main(), stderr=True).print(f"group {number}: {', '.join(names)}", markup=False)


def _evaluate(stage: Stage, quiet: bool) -> None:
    """Score the models of the earlier stages on one split, side by side."""
    from taskloom.build import build_suite
    from taskloom.evaluation import majority_baseline
    from taskloom.fit import evaluate
    from taskloom.inference import mean_score, split_title
    from taskloom.report import score_markdown, score_table

    split = stage.settings.split
    scores = {}
    for trained in stage.needs:
        folders = sorted(trained.folder.glob("group-*")) if trained.kind == "train-groups" else [trained.folder]
        scores[trained.name] = {
            title: metrics for folder in folders for title, metrics in evaluate(folder, split).items()
        }
    suite = build_suite(stage.needs[0].recipe)
    titles = {split_title(task.name, split): task for task in suite}
    baselines = {
        title: majority_baseline(
            task, suite.examples(task.name, "train").targets or [], suite.examples(task.name, split).targets or []
        )
        for title, task in titles.items()
        if all(title in each for each in scores.values())
    }
    means = {name: mean_score(suite, each) for name, each in scores.items()}
    content = {"split": split, "mean": means, "scores": scores, "majority": baselines}
    tasks = [task for title, task in titles.items() if title in baselines]
    if is_main():
        write_atomically(stage.folder / "summary.md", score_markdown(tasks, scores, baselines))
        write_atomically(stage.result, json.dumps(content, indent=2) + "\n")
        Console(quiet=quiet, stderr=True).print(score_table(tasks, scores, baselines))
