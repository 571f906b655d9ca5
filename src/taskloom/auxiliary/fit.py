"""From a recipe to its auxiliary objectives, and a training with them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from taskloom.auxiliary.bodies import Body, DecoderBody, EncoderBody
from taskloom.auxiliary.finetune import record_results
from taskloom.auxiliary.heads import VOCABULARY_OUTPUTS
from taskloom.auxiliary.history import HISTORY_FILE, WeightLog, read_weight_history
from taskloom.auxiliary.leaks import refuse_leaks
from taskloom.auxiliary.ranking import RANKING_FILE, rank_objectives, ranking_table, write_ranking
from taskloom.auxiliary.sources import Source, build_sources, unavailable
from taskloom.auxiliary.space import SearchSpace
from taskloom.auxiliary.step import compared_layer
from taskloom.auxiliary.trainer import WEIGHTS_FILE, AuxiliaryTrainer
from taskloom.auxiliary.transforms import Transforms
from taskloom.auxiliary.vocabulary import VocabularyHead, load_vocabulary_head
from taskloom.auxiliary.weights import ObjectiveWeights
from taskloom.errors import DataError, RecipeError
from taskloom.fit import train
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel
from taskloom.processes import main_first, on_main
from taskloom.recipe import Recipe
from taskloom.report.objectives import objective_curves, stage_curves
from taskloom.runs import RunFolder
from taskloom.tasks import Task, TaskSuite

__all__ = ["AuxiliaryObjectives", "build_objectives"]

Model = MultiTaskModel | GenerativeModel


@dataclass(frozen=True)
class AuxiliaryObjectives:
    """What a training with auxiliary objectives needs besides the tasks; `build_objectives` makes it."""

    weights: ObjectiveWeights
    sources: Mapping[str, Source]
    labelled: tuple[Task, ...]
    vocabulary: VocabularyHead | None
    transforms: Transforms

    def train(
        self, recipe: Recipe, run: RunFolder, suite: TaskSuite, model: Model, tokenizer: Any, console: Console
    ) -> AuxiliaryTrainer:
        """Train the tasks beside the objectives, write what their weights became, then finish on the tasks alone.

        Raises:
            KeyboardInterrupt: the training was interrupted; a checkpoint has been written.
        """
        settings = recipe.auxiliary
        log = WeightLog(run.path / HISTORY_FILE)
        on_main(lambda: log.begin(_step_of(run.latest_checkpoint()), self.weights))
        trainer = train(
            recipe,
            run,
            suite,
            model,
            tokenizer,
            console,
            AuxiliaryTrainer,
            weights=self.weights,
            sources=self.sources,
            vocabulary=self.vocabulary,
            labelled=self.labelled,
            transforms=self.transforms,
            dev_batch_size=settings.dev_batch_size,
            dev_split=settings.dev_split,
            dev_head=settings.dev_head,
            dev_head_weight_decay=settings.dev_head_weight_decay,
            share_heads=settings.share_heads,
            head_dropout=settings.head_dropout,
            history=log,
            step={
                "rows": settings.batch_size,
                "objectives_per_step": settings.objectives_per_step,
                "split": settings.rows,
                "density": settings.density,
                "order_probability": settings.order_probability,
                "noise": settings.noise,
                "max_grad_norm": settings.max_grad_norm,
                "cosine_layers": settings.cosine_layers,
            },
        )
        assert isinstance(trainer, AuxiliaryTrainer)
        on_main(lambda: self._write(run, log, trainer, console))
        del model.objectives  # the objectives' heads have had their time
        record_results(recipe, run, suite, model, tokenizer, console)
        return trainer

    def _write(self, run: RunFolder, log: WeightLog, trainer: AuxiliaryTrainer, console: Console) -> None:
        """Write what became of the weights."""
        log.end(trainer.state.global_step, self.weights)
        self.weights.save(run.path / WEIGHTS_FILE)
        ranked = rank_objectives(self.weights, trainer.tally)
        write_ranking(ranked, run.path / RANKING_FILE)
        history = read_weight_history(log.path)
        stage_curves(history, run.path / "stages.png")
        objective_curves(history, run.path / "objectives.png")
        console.print(ranking_table(ranked))


def build_objectives(
    recipe: Recipe, suite: TaskSuite, model: Model, tokenizer: Any, console: Console
) -> AuxiliaryObjectives:
    """Read the search space, make the sources of its text, and load what its outputs need.

    Objectives that the data cannot serve are dropped, and the console says so. Of several processes the main one comes
    first: it tokenises and generates text, the others find that.

    Raises:
        UserError: a mistake in the space or its data, an objective that was asked for by name and cannot be made, or
            a model that cannot take objectives.
    """
    with main_first():
        return _built(recipe, suite, model, tokenizer, console)


def _built(recipe: Recipe, suite: TaskSuite, model: Model, tokenizer: Any, console: Console) -> AuxiliaryObjectives:
    settings = recipe.auxiliary
    labelled = _labelled_suite(recipe, suite)
    names = [*suite.names, *(labelled.names if labelled is not None else ())]
    assert settings.space is not None
    space = SearchSpace.read(settings.space, names)
    if settings.objectives is not None:
        space = space.restrict([space.find(name) for name in settings.objectives])
    for remark in _unused(recipe, space, labelled):
        console.print(remark, highlight=False)
    body: Body = DecoderBody(model) if isinstance(model, GenerativeModel) else EncoderBody(model)
    sources = build_sources(
        space,
        suite=suite,
        tokenizer=tokenizer,
        max_length=settings.max_length or recipe.data.max_length,
        paths={"in-domain": _paths(settings.in_domain), "out-domain": _paths(settings.out_domain)},
        neural_lm=recipe.neural_lm,
        labelled=labelled,
        stride=recipe.data.stride,
        console=console,
    )
    transforms = Transforms(tokenizer, settings.probability, settings.pure_transform, settings.transform_temperature)
    space = _possible(recipe, space, sources, transforms, console)
    refuse_leaks(body, space.representations)
    _require_body(recipe, model, body)
    weights = ObjectiveWeights(
        space,
        primary_lr=settings.primary_lr,
        auxiliary_lr=settings.auxiliary_lr,
        update=settings.update,
        step_every=settings.step_every,
        factored=settings.factored,
    )
    if settings.warm_start is not None:
        start = settings.warm_start
        weights.load_logits(start if start.is_file() else start / WEIGHTS_FILE)
    own = {task.name: task for task in (*suite, *(labelled or ()))}
    return AuxiliaryObjectives(
        weights,
        sources,
        tuple(own[name] for name in space.outputs if name in own),
        _vocabulary(recipe, space, model, console),
        transforms,
    )


def _unused(recipe: Recipe, space: SearchSpace, labelled: TaskSuite | None) -> Iterator[str]:
    """Say what was written down and has no part in any objective."""
    settings = recipe.auxiliary
    given = {
        "in-domain": ("auxiliary.in_domain", settings.in_domain),
        "out-domain": ("auxiliary.out_domain", settings.out_domain),
        "neural-lm": ("neural_lm.model", recipe.neural_lm.model),
    }
    for name, (field, value) in given.items():
        if value is not None and name not in space.data:
            yield f"{field} is not used: the search space has no {name} text."
    for task in labelled or ():
        if task.name not in (*space.data, *space.outputs):
            yield f"auxiliary.tasks: '{task.name}' is not used: it is neither data nor an output of the search space."
    for stage, words in space.stages.items():
        for word in words:
            if reason := space.why_unused(stage, word):
                yield f"auxiliary.space: the {stage} {word} is not used: {reason}."


def _require_body(recipe: Recipe, model: Model, body: Body) -> None:
    """Refuse a body that objectives could not teach anything, or that has no such layers."""
    ids = torch.zeros(1, 2, dtype=torch.long)
    states = body.hidden(ids, torch.ones_like(ids), ids[:, 0])
    if not (states.requires_grad or body.pool(states, torch.ones_like(ids)).requires_grad):
        raise RecipeError(
            "adapter.freeze_layers: nothing but the tasks' heads trains, and auxiliary objectives teach what is below "
            "them. Freeze fewer layers, or use an adapter."
        )
    if (count := recipe.auxiliary.cosine_layers) is not None:
        try:
            compared_layer(model, count)
        except ValueError as error:
            raise RecipeError(f"auxiliary.cosine_layers: {error}") from error


def _labelled_suite(recipe: Recipe, suite: TaskSuite) -> TaskSuite | None:
    """Read the further labelled tasks."""
    if not recipe.auxiliary.tasks:
        return None
    try:
        labelled = TaskSuite.load(
            recipe.auxiliary.tasks,
            data_dir=recipe.data.dir,
            cache_dir=recipe.data.cache,
            limits=recipe.data.limits,
            seed=recipe.seed,
        )
    except DataError as error:  # which counts tasks as if there were no others
        raise DataError(f"auxiliary.tasks: {error}") from error
    for task in labelled:
        if task.name in suite.names:
            raise RecipeError(f"auxiliary.tasks: '{task.name}' is one of `tasks` already; give it another name")
        if "train" not in task.splits:
            raise DataError(f"auxiliary.tasks: task '{task.name}' has no train split, only {', '.join(task.splits)}")
    return labelled


def _possible(
    recipe: Recipe, space: SearchSpace, sources: Mapping[str, Source], transforms: Transforms, console: Console
) -> SearchSpace:
    """Drop the objectives that cannot be made; refuse if one was asked for by name, or none is left."""
    reasons = unavailable(space, sources, transforms)
    if not reasons:
        return space
    if recipe.auxiliary.objectives is not None:
        objective, reason = next(iter(reasons.items()))
        raise RecipeError(f"auxiliary.objectives: {objective.name} cannot be made ({reason}). Leave it out.")
    counts = {reason: sum(each == reason for each in reasons.values()) for reason in dict.fromkeys(reasons.values())}
    if len(reasons) == len(space):
        raise RecipeError(
            f"auxiliary.space: none of its {len(space)} objectives can be made: "
            + "; ".join(f"{count} for {reason}" for reason, count in counts.items())
        )
    for reason, count in counts.items():
        console.print(f"Dropped {count} objective{'s' * (count > 1)}: {reason}.", highlight=False)
    return space.restrict([objective for objective in space if objective not in reasons])


def _vocabulary(recipe: Recipe, space: SearchSpace, model: Model, console: Console) -> VocabularyHead | None:
    if isinstance(model, GenerativeModel) or not set(space.outputs) & set(VOCABULARY_OUTPUTS):
        return None
    settings = recipe.model
    torch.manual_seed(recipe.seed)  # of what a checkpoint does not hold of the head
    head = load_vocabulary_head(
        settings.path,
        model.encoder,
        revision=settings.revision,
        dtype=settings.dtype,
        trust_remote_code=settings.trust_remote_code,
    )
    if not head.pretrained:
        console.print(f"'{settings.path}' has no pretrained vocabulary head: denoising starts with a fresh one.")
    return head


def _paths(given: Path | list[Path] | None) -> list[Path]:
    return given if isinstance(given, list) else [] if given is None else [given]


def _step_of(checkpoint: Path | None) -> int:
    return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step if checkpoint else 0
