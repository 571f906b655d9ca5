"""`taskloom online`: keep a language model current from a stream of documents (CaMeLS)."""

import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from taskloom.cli.arguments import (
    DataOption,
    FieldsCommand,
    OutputOption,
    QuietOption,
    RecipeArgument,
    ResumeOption,
    SeedOption,
    SettingsArgument,
    overridden,
)
from taskloom.cli.completion import complete_recipe
from taskloom.cli.output import JsonOption, print_json
from taskloom.cli.quiet import hush_libraries
from taskloom.cli.token_colours import print_weights
from taskloom.errors import DataError
from taskloom.processes import is_main, launch_command
from taskloom.recipe import load_recipe

__all__ = ["online"]

online = typer.Typer(
    no_args_is_help=True, help="Keep a language model current: learn which tokens of a new document matter."
)


@online.command("tune-qa", cls=FieldsCommand, no_args_is_help=True)
def tune_qa(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    resume: ResumeOption = False,
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach a language model to answer questions without their documents (OUTPUT/tune-qa)."""
    overrides = overridden(settings, output, data_dir, seed)
    checked = load_recipe(recipe, overrides)
    hush_libraries()
    from taskloom.online.stages.tune import tune

    _run("tune-qa", recipe, overrides, as_json, lambda: tune(checked, resume, quiet=quiet or as_json))


@online.command("meta-train", cls=FieldsCommand, no_args_is_help=True)
def meta_train(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    resume: ResumeOption = False,
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a weighter, so that one weighted update a document teaches its answers (OUTPUT/meta-train)."""
    overrides = overridden(settings, output, data_dir, seed)
    checked = load_recipe(recipe, overrides)
    hush_libraries()
    from taskloom.online.stages.meta import meta_train_stage

    _run("meta-train", recipe, overrides, as_json, lambda: meta_train_stage(checked, resume, quiet=quiet or as_json))


@online.command("adapt", cls=FieldsCommand, no_args_is_help=True)
def adapt(
    recipe: RecipeArgument,
    settings: SettingsArgument = None,
    documents: Annotated[
        str | None,
        typer.Option(
            "--documents",
            metavar="PATH",
            help="A folder or file of documents, or - for standard input; else the recipe's questions.stream.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the tokens' weights and change nothing, on disk either.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at a document that cannot be used instead of passing over it.")
    ] = False,
    resume: ResumeOption = False,
    output: OutputOption = None,
    data_dir: DataOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Update a language model on a stream of documents, each token's loss times its weight (OUTPUT/adapt-WEIGHTER)."""
    overrides = overridden(settings, output, data_dir, seed)
    checked = load_recipe(recipe, overrides)
    hush_libraries()
    from taskloom.online.stages.adapt import adapt_stage, dry_run_stage

    if dry_run:
        try:
            _show(dry_run_stage(checked, documents, strict=strict), as_json)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        return
    options = [*(["--documents", documents] if documents else []), *(["--strict"] if strict else [])]
    _run(
        "adapt",
        recipe,
        [*overrides, *options],
        as_json,
        lambda: adapt_stage(checked, documents, strict=strict, resume=resume, quiet=quiet or as_json),
    )


@online.command("show", no_args_is_help=True)
def show(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run of meta-train or adapt, a weighter's folder, or a recipe.",
            autocompletion=complete_recipe,
        ),
    ],
    text: Annotated[str, typer.Option("--text", metavar="FILE", help="A text file, or - for standard input.")],
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page of its own instead of printing.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write a picture instead of printing.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a text's tokens coloured by the weights that a weighter gives them."""
    content = _read_text(text)
    hush_libraries()
    from taskloom.online.stages.show import show as weigh
    from taskloom.report.token_weights import token_weights_html, token_weights_png
    from taskloom.storage import write_atomically

    name = "standard input" if text == "-" else Path(text).name
    documents = weigh(run, [(name, content)])
    if not documents:
        raise DataError(f"{text}: holds no text")
    if html is not None:
        write_atomically(html, token_weights_html(documents, name))
    if png is not None:
        token_weights_png(documents[0], png)
    if as_json or (html is None and png is None):
        _show(documents, as_json)


def _run(verb: str, recipe: str, arguments: list[str], as_json: bool, run: Callable[[], Any]) -> None:
    try:
        done = run()
    except KeyboardInterrupt:
        if is_main():
            command = shlex.join([*launch_command(), "online", verb, recipe, *arguments, "--resume"])
            typer.echo(f"interrupted. Continue with: {command}", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json({"run": str(done.path), **done.read_scores()})


def _show(documents: Iterable[Any], as_json: bool) -> None:
    if not is_main():
        return
    if as_json:
        found = [{"title": each.title, "tokens": each.tokens, "weights": each.weights} for each in documents]
        print_json({"documents": found})
    else:
        print_weights(documents)


def _read_text(source: str) -> str:
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 text (byte {error.start})") from error
