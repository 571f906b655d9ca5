"""`taskloom evaluate`: a run's model on a split of its tasks, or predicted answers against a benchmark's gold file."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from taskloom.cli.arguments import QuietOption
from taskloom.cli.completion import complete_scored
from taskloom.cli.output import JsonOption, print_json, print_table
from taskloom.cli.quiet import hush_libraries
from taskloom.errors import UserError
from taskloom.processes import is_main

__all__ = ["evaluate"]

Form = Literal["mrqa", "squad"]
FORMS: dict[str, Form] = {"mrqa": "mrqa", "squad": "squad"}


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN | mrqa | squad",
            help="A run folder, or the form of the two files.",
            autocompletion=complete_scored,
        ),
    ],
    gold: Annotated[
        Path | None,
        typer.Argument(
            metavar="GOLD",
            help="Questions with their answers: MRQA's .jsonl or .jsonl.gz, or a folder of them; SQuAD's .json.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Argument(
            metavar="PREDICTIONS",
            help="JSON with the answer to each question, by its id; or with candidates and their scores, as in a "
            "run's predicted_answers.json.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="RUN: dev (by default), test (where it has labels) or a further split."),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FOLDER", help="RUN: write what the model generated there, as JSONL."),
    ] = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing", help="GOLD: leave out questions without a prediction, which officially count as wrong."
        ),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a run's best model on its tasks' data, or predicted answers against a gold file.

    taskloom evaluate runs/glue --split test

    taskloom evaluate mrqa dev/SQuAD.jsonl.gz runs/mrqa/2000predicted_answers.json

    taskloom evaluate squad dev-v1.1.json predictions.json
    """
    form = FORMS.get(what)
    if form is not None and (gold is not None or not Path(what).is_dir()):
        if gold is None or predictions is None:
            raise UserError(f"evaluate {form} needs two files: taskloom evaluate {form} GOLD PREDICTIONS")
        _refuse({"--split": split, "--save": save}, f"evaluate {form} scores files")
        _evaluate_answers(form, gold, predictions, skip_missing, as_json)
    else:
        if gold is not None:
            raise UserError(
                f"evaluate {what}: one run folder is expected; for files the form comes first: mrqa or squad"
            )
        _refuse({"--skip-missing": skip_missing or None}, "evaluate RUN predicts for every example")
        _evaluate_run(Path(what), split or "dev", save, quiet, as_json)


def _refuse(options: dict[str, object], reason: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{name}: {reason}; leave the option out")


def _evaluate_run(run: Path, split: str, save: Path | None, quiet: bool, as_json: bool) -> None:
    hush_libraries()
    from taskloom import fit

    scores = fit.evaluate(run, split, save)
    if as_json:
        print_json({"run": str(run), "split": split, "scores": scores})
    else:
        rows = [
            (task, "  ".join(f"{metric} {value:.4f}" for metric, value in metrics.items()))
            for task, metrics in scores.items()
        ]
        print_table(("task", split), rows)
    if save is not None and not quiet and is_main():
        typer.echo(f"Generated answers: {save}", err=True)


def _evaluate_answers(form: Form, gold: Path, predictions: Path, skip_missing: bool, as_json: bool) -> None:
    from taskloom.evaluation.mrqa import score_answers

    scores = score_answers(form, gold, predictions, "skip" if skip_missing else "wrong")
    if as_json:
        found = {
            score.dataset: {"em": score.em, "f1": score.f1, "questions": score.questions, "missing": score.missing}
            for score in scores
        }
        print_json({"gold": str(gold), "predictions": str(predictions), "scores": found})
        return
    print_table(
        ("data set", "EM", "F1", "questions", "missing"),
        [
            (score.dataset, f"{score.em:.2f}", f"{score.f1:.2f}", f"{score.questions:,}", f"{score.missing:,}")
            for score in scores
        ],
    )
