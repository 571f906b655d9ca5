"""`taskloom online adapt`: a language model takes in a stream of documents, in a run folder."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console

from taskloom.errors import RecipeError
from taskloom.online.adaptation import Adaptation
from taskloom.online.encode import encode_documents
from taskloom.online.qa_scores import score_questions
from taskloom.online.qa_tuning import tune_qa
from taskloom.online.questions import Question, QuestionSet
from taskloom.online.stages.meta import adaptable, weighed
from taskloom.online.stages.parts import (
    build_weighter,
    collator,
    has_role,
    load_base,
    load_base_tokenizer,
    read_role,
    require_length,
    stage_folder,
    stage_recipe,
)
from taskloom.online.stages.sweep import choose_rate
from taskloom.online.stream import STDIN, StreamItem, digest, read_stream
from taskloom.online.stream_run import DivergedError, StreamCounts, StreamRun
from taskloom.online.trained_parameters import train_only
from taskloom.plain_json import to_json
from taskloom.processes import is_main, main_first, on_main
from taskloom.progress import counted
from taskloom.recipe import Recipe
from taskloom.report.token_weights import TokenWeights, write_token_weights
from taskloom.runs import RunFolder
from taskloom.storage import staged_folder, write_atomically

__all__ = ["AdaptStage", "adapt_stage", "dry_run_stage"]

_logger = logging.getLogger(__name__)


def adapt_stage(
    recipe: Recipe,
    documents: str | None = None,
    *,
    strict: bool = False,
    resume: bool = False,
    quiet: bool = False,
) -> RunFolder:
    """Adapt the recipe's model to a stream and return the finished run folder.

    Args:
        recipe: all settings.
        documents: a folder, a file, or ``"-"`` for standard input; None takes `questions.stream`, whose questions are
            answered before and after.
        strict: stop at a document that cannot be used, instead of passing over it.
        resume: go on where the run in the folder stopped; no document is applied twice.
        quiet: print nothing.

    Raises:
        UserError: a mistake in the recipe, the data or the run folder.
        KeyboardInterrupt: the run was interrupted; a checkpoint has been written.
    """
    console = Console(quiet=quiet or not is_main(), stderr=True)
    folder = stage_folder(recipe, "adapt")
    on_main(lambda: RunFolder.refuse_unusable(folder, resume))
    with main_first():
        stage = AdaptStage(recipe, documents, strict, console)
    with RunFolder.create(folder, stage_recipe(recipe, "adapt"), resume) as run:
        if run.finished:
            console.print(f"{run.path} is finished: there is nothing to resume.")
        else:
            try:
                stage.run(run)
            except DivergedError:
                # Then nothing is worth keeping, and lower rates can be tried in the same folder.
                if not resume and is_main():
                    shutil.rmtree(run.checkpoints, ignore_errors=True)
                raise
    return run


def dry_run_stage(recipe: Recipe, documents: str | None = None, *, strict: bool = False) -> Iterator[TokenWeights]:
    """Yield the documents of a stream with the weights of their tokens, and change nothing.

    No model is loaded but the weighter's. Arguments and what is raised: see `adapt_stage`.
    """
    tokenizer = load_base_tokenizer(recipe, recipe.adapt.base, "adapt.base")
    weighter = build_weighter(recipe, tokenizer)
    stream = _stream(recipe) if documents is None else QuestionSet(())
    for item in _items(recipe, documents, strict, stream):
        if item.text is None:
            _logger.warning("%s: skipped: %s", item.name, item.reason)
        else:
            length = recipe.questions.max_document_length
            yield from weighed(item.name, item.text, weighter, tokenizer, length)


def _stream(recipe: Recipe, role: str = "stream") -> QuestionSet:
    return read_role(recipe, role, "adapt").stream(recipe.questions.downsample_to, recipe.seed)


def _items(recipe: Recipe, documents: str | None, strict: bool, stream: QuestionSet) -> Iterable[StreamItem]:
    """Return documents: those of a folder, file or standard input, or those of a question set."""
    if documents is not None:
        return read_stream(documents, strict=strict, max_characters=recipe.adapt.max_characters)
    return (StreamItem(each.name, each.text, None, digest(each.text)) for each in stream.documents)


class AdaptStage:
    """A recipe's model, weighter and stream, and what happens to them.

    Args:
        recipe, documents, strict: see `adapt_stage`.
        console: for messages and progress.

    Raises:
        UserError: a mistake in the recipe or the data.
    """

    def __init__(self, recipe: Recipe, documents: str | None, strict: bool, console: Console) -> None:
        self.recipe, self.settings, self.console = recipe, recipe.adapt, console
        rates = self.settings.learning_rate
        self.rates: list[float] = rates if isinstance(rates, list) else [rates]
        self.documents, self.strict = documents, strict
        self._check()
        self.stream = _stream(recipe) if documents is None else QuestionSet(())
        self.validation = _stream(recipe, "meta_dev") if len(self.rates) > 1 else QuestionSet(())
        unrelated = self.settings.unrelated_questions or recipe.light_tuning.enabled
        self.unrelated = read_role(recipe, "qa_dev", "adapt").questions if unrelated else []
        base, self.tokenizer = load_base(recipe, self.settings.base, "adapt.base")
        require_length(recipe, base, "adapt.base")
        self.weighter = build_weighter(recipe, self.tokenizer)
        self.model = adaptable(recipe, base, self.settings.layers, "adapt.layers")
        if recipe.model.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.trainable = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if recipe.light_tuning.enabled:
            self._train(recipe.light_tuning.layers, "light_tuning.layers")
        self._train(self.settings.layers, "adapt.layers")
        self.collator = collator(recipe, self.tokenizer)

    def _check(self) -> None:
        settings, answers = self.settings, self.recipe.answers
        if self.documents == STDIN and settings.epochs > 1:
            raise RecipeError(f"adapt.epochs: is {settings.epochs}, but standard input can be read once: give a file")
        if len(self.rates) > 1 and settings.choose_on != "nll" and not answers.generate:
            raise RecipeError(
                f"adapt.choose_on: is {settings.choose_on}, but answers.generate is false: there is the nll alone"
            )
        if len(self.rates) > 1 and not has_role(self.recipe, "meta_dev"):
            raise RecipeError(
                "questions.meta_dev: a list of adapt.learning_rate is decided on it: name a file of documents with "
                "questions, or give one learning rate"
            )

    def run(self, run: RunFolder) -> None:
        """Choose the learning rate, adapt, answer questions before and after, and save the model."""
        rate = self.rates[0]
        start = self._snapshot()
        if len(self.rates) > 1:
            rate = choose_rate(self.rates, self.settings.choose_on, self._trial(start), run.path)
            self._restore(start)
            self.console.print(f"Learning rate {rate:g}: the best {self.settings.choose_on} on meta_dev.")
        del start
        before = self._answered(run.path, "before", self.console) if self.settings.evaluate_before else {}
        counts = self._adapted(rate, run.path, self.documents, self.stream, self._on_the_way(run.path), draw=True)
        self.console.print(f"{counts}.")
        if self.recipe.light_tuning.enabled:
            self._light_tuning(run.path)
        after = self._answered(run.path, "after", self.console)
        if any(metrics["nll"] is None for metrics in after.values()):  # as what is not finite is written
            raise DivergedError(
                f"{run.path}: the adapted model's nll is not finite: it has diverged. Lower adapt.learning_rate, and "
                "choose another folder with output=FOLDER"
            )
        on_main(lambda: self._save(run.model_folder))
        run.write_scores({"learning_rate": rate, "documents": vars(counts), "before": before, "after": after})
        run.mark_finished()
        self._report(before, after)
        self.console.print(f"Run folder: {run.path}")

    def _save(self, model_folder: Path) -> None:
        with staged_folder(model_folder) as folder:
            merged: Any = self.model.merge_and_unload() if isinstance(self.model, PeftModel) else self.model
            merged.save_pretrained(folder)
            self.tokenizer.save_pretrained(str(folder))

    # The stream

    def _adapted(
        self,
        rate: float,
        folder: Path,
        documents: str | None,
        stream: QuestionSet,
        on_document: Callable[[StreamRun], None] | None = None,
        draw: bool = False,
    ) -> StreamCounts:
        settings = self.settings
        adaptation = Adaptation(
            self.model,
            self.weighter,
            learning_rate=rate,
            optimizer=settings.optimizer,
            documents_per_update=settings.documents_per_update,
            max_grad_norm=settings.max_grad_norm,
            layers=settings.layers,
            loss_length=settings.loss_length,
        )
        length, long = self.recipe.questions.max_document_length, self.recipe.questions.long_documents
        stream_run = StreamRun(
            adaptation,
            lambda text: encode_documents([text], self.tokenizer, length, long)[0],
            folder,
            resume=True,
            checkpoint_every=settings.checkpoint_every,
            deduplicate=settings.deduplicate,
            console=self.console,
        )
        if stream_run.counts.applied:
            self.console.print(f"Resuming after {stream_run.counts}.")
        total = len(stream.documents) * settings.epochs if documents is None else None
        with counted(self.console, "adapt", total, "documents") as advance:
            advance(stream_run.counts.applied)

            def note(current: StreamRun) -> None:
                advance(1)
                if on_document is not None:
                    on_document(current)

            for epoch in range(settings.epochs):
                items = _items(self.recipe, documents, self.strict, stream)
                stream_run(self._drawn(items, folder / "weights") if draw and not epoch else items, note, epoch)
        return stream_run.counts

    def _drawn(self, items: Iterable[StreamItem], folder: Path) -> Iterator[StreamItem]:
        """Yield documents, and write the weights of the first ones' tokens into a folder."""
        most, length = self.settings.pictures, self.recipe.questions.max_document_length
        found: list[TokenWeights] = []
        for item in items:
            if item.text is not None and len(found) < most:
                parts = weighed(item.name, item.text, self.weighter, self.tokenizer, length)
                found.extend(islice(parts, most - len(found)))
                if found:
                    title = f"{self.recipe.name}: the first documents' weights"
                    write_token_weights(found, folder / "documents.json", title)
            yield item

    def _on_the_way(self, folder: Path) -> Callable[[StreamRun], None] | None:
        every = self.settings.evaluate_every
        if every is None:
            return None

        def evaluate(current: StreamRun) -> None:
            if current.counts.applied % every == 0:
                self._answered(folder, f"after-{current.counts.applied}", console=None)

        return evaluate

    def _snapshot(self) -> dict[str, Any]:
        if len(self.rates) == 1:
            return {}
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def _restore(self, start: dict[str, Any]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(start[name])

    def _trial(self, start: dict[str, Any]) -> Callable[[float, Path], dict[str, Any]]:
        def trial(rate: float, folder: Path) -> dict[str, Any]:
            self._restore(start)
            self.console.print(f"Trying learning rate {rate:g}.")
            counts = self._adapted(rate, folder, None, self.validation)
            scores = self._score(self.validation.questions, folder / "answers.csv", self.console)
            return {"documents": counts.applied, **scores}

        return trial

    # Questions

    def _answered(self, folder: Path, name: str, console: Console | None) -> dict[str, Any]:
        """Answer the stream's questions and others, unless that was done before the run was taken up again."""
        found = {}
        for kind, questions in (("stream", self.stream.questions), ("unrelated", self._asked_unrelated())):
            if not questions:
                continue
            path = folder / "answers" / f"{name}{'' if kind == 'stream' else '-unrelated'}.csv"
            scores = path.with_suffix(".json")
            if not on_main(scores.is_file):
                text = to_json(self._score(questions, path, console), indent=2) + "\n"
                on_main(partial(write_atomically, scores, text))
            found[kind] = on_main(lambda scores=scores: json.loads(scores.read_text("utf-8")))
        return found

    def _asked_unrelated(self) -> list[Question]:
        return self.unrelated if self.settings.unrelated_questions else []

    def _score(self, questions: list[Question], path: Path, console: Console | None) -> dict[str, float]:
        answers = self.recipe.answers
        scores = score_questions(
            self.model,
            self.tokenizer,
            questions,
            generate=answers.generate,
            batch_size=answers.batch_size,
            collator=self.collator,
            console=console,
            shared=True,
            beams=answers.beams,
            groups=answers.groups,
            diversity=answers.diversity,
            top_k=answers.top_k,
            max_new_tokens=answers.max_new_tokens,
        )
        on_main(partial(scores.write_csv, path))
        return scores.metrics()

    def _train(self, layers: int | None, field: str) -> None:
        """Let those parameters train that updates change, or light tuning, which may have others."""
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.trainable)
        train_only(self.model, layers, field)

    def _light_tuning(self, folder: Path) -> None:
        settings = self.recipe.light_tuning
        self._train(settings.layers, "light_tuning.layers")
        tune_qa(
            self.model,
            self.tokenizer,
            read_role(self.recipe, "qa_train", "adapt").questions,
            self.unrelated,
            folder=folder / "light-tuning",
            resume=True,
            seed=self.recipe.seed,
            precision=self.recipe.training.precision,
            collator=self.collator,
            console=self.console,
            eval_batch_size=self.recipe.answers.batch_size,
            **settings.model_dump(exclude={"layers", "enabled"}),
        )

    def _report(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        for kind, metrics in after.items():
            for name in metrics:
                if name in before.get(kind, {}):
                    self.console.print(f"{kind} {name}: {before[kind][name]:.4f} -> {metrics[name]:.4f}")
                else:
                    self.console.print(f"{kind} {name}: {metrics[name]:.4f}")
