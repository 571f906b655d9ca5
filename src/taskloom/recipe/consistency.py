"""Settings that are valid one by one and contradict each other: refused with a reason instead of ignored."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from taskloom.errors import UserError, did_you_mean
from taskloom.recipe.adapter import OWN_METHODS, ca_mtl_settings, hyperdecoder_settings, wrong_option

if TYPE_CHECKING:
    from taskloom.recipe.sections import Recipe

__all__ = ["first_contradiction"]

#: (dotted field, reason), or None when all is well.
Contradiction = tuple[str, str] | None


def first_contradiction(recipe: "Recipe") -> Contradiction:
    """Return the first contradiction among the recipe's settings as (dotted field, reason), or None."""
    for check in _CHECKS:
        found = check(recipe)
        if found is not None:
            return found
    return None


def _length_of_training(recipe: "Recipe") -> Contradiction:
    training = recipe.training
    if training.max_steps == 0 or training.max_steps < -1:
        return (
            "training.max_steps",
            f"is {training.max_steps}: give a number of steps, or -1 to train for epochs",
        )
    if training.max_steps == -1 and training.epochs <= 0:
        return (
            "training.epochs",
            f"is {training.epochs:g} and training.max_steps is -1: there is nothing to train",
        )
    return None


def _warm_up(recipe: "Recipe") -> Contradiction:
    training = recipe.training
    if training.warmup_steps is not None and training.warmup != type(training).model_fields["warmup"].default:
        return (
            "training.warmup_steps",
            f"is {training.warmup_steps} steps, and training.warmup is {training.warmup:g} of all steps: give one",
        )
    return None


def _evaluations_and_checkpoints(recipe: "Recipe") -> Contradiction:
    every, checkpoint = recipe.training.evaluate_every, recipe.training.checkpoint_every
    if every is not None and checkpoint is not None and checkpoint % every != 0:
        return (
            "training.checkpoint_every",
            f"is {checkpoint}, not a multiple of training.evaluate_every ({every})",
        )
    return None


def _padding(recipe: "Recipe") -> Contradiction:
    data = recipe.data
    if data.pad_to is not None and data.pad_to < data.max_length:
        return (
            "data.pad_to",
            f"is {data.pad_to}, below data.max_length ({data.max_length}): longer examples cannot fit",
        )
    return None


def _adapter(recipe: "Recipe") -> Contradiction:
    adapter = recipe.adapter
    if adapter.preset is not None and adapter.method != "ca_mtl":
        return (
            "adapter.preset",
            f"is {adapter.preset}, a preset of ca_mtl, but adapter.method is {adapter.method}",
        )
    if adapter.method == "none" and adapter.options:
        name = next(iter(adapter.options))
        return f"adapter.{name}", "is a setting of an adapter, but adapter.method is none: name the method"
    if adapter.method == "hyperdecoder" and adapter.freeze_layers is not None:
        return (
            "adapter.freeze_layers",
            "is given, but hyperdecoder has its own settings for that: adapter.freeze and adapter.unfreeze_*",
        )
    if adapter.method in OWN_METHODS:
        wrong = wrong_option(adapter.method, adapter.options)
        if wrong is not None:
            return f"adapter.{wrong[0]}", wrong[1]
        return _ca_mtl(recipe) if adapter.method == "ca_mtl" else _hyperdecoder(recipe)
    if adapter.method != "none" and adapter.freeze_layers is not None:
        return "adapter.freeze_layers", f"is given, but {adapter.method} keeps the whole encoder as pretrained anyway"
    return None


def _ca_mtl(recipe: "Recipe") -> Contradiction:
    try:
        covered = ca_mtl_settings(recipe.adapter, recipe.data.max_length).max_length
    except UserError as error:
        return "adapter", f"is refused: {error}"
    if recipe.data.max_length > covered:
        return (
            "data.max_length",
            f"is {recipe.data.max_length} tokens, but conditional attention covers adapter.max_length={covered}",
        )
    return None


def _hyperdecoder(recipe: "Recipe") -> Contradiction:
    try:
        settings = hyperdecoder_settings(recipe.adapter)
    except UserError as error:
        return "adapter", f"is refused: {error}"
    if settings.encoder == settings.decoder == "none":
        return (
            "adapter.decoder",
            "is none, as is adapter.encoder: there is no adapter. Use adapter.method=none to train the whole model",
        )
    return None


def _sampling(recipe: "Recipe") -> Contradiction:
    sampling = recipe.sampling
    # A setting counts as given when it differs from its default: a resolved recipe holds every field.
    owners = {
        "temperature": ("temperature",),
        "percent_of_max_data_size": ("uniform", "uncertainty"),
        "candidates_per_task": ("uncertainty",),
        "max_pool": ("uncertainty",),
        "even_share": ("uncertainty",),
    }
    for name, strategies in owners.items():
        value, default = getattr(sampling, name), type(sampling).model_fields[name].default
        if value != default and sampling.strategy not in strategies:
            return (
                f"sampling.{name}",
                f"is {value:g}, but it belongs to {' and '.join(strategies)}, not {sampling.strategy} sampling",
            )
    if sampling.strategy == "uncertainty" and sampling.mix == "single":
        return "sampling.mix", "is single, but uncertainty sampling picks the batch across tasks: use mixed"
    return None


def _gradients(recipe: "Recipe") -> Contradiction:
    training = recipe.training
    if training.aggregator is not None and training.loss == "examples":
        return (
            "training.loss",
            f"is examples, but aggregator {training.aggregator} needs one loss a task: use tasks",
        )
    if training.aggregator is not None and recipe.sampling.mix == "single":
        return "training.aggregator", "has nothing to combine: sampling.mix is single, one task a batch"
    sharded = "fsdp" if training.fsdp else "deepspeed" if training.deepspeed is not None else None
    if sharded is not None:
        if training.fsdp and training.deepspeed is not None:
            return "training.deepspeed", "is given with training.fsdp: both shard the parameters; choose one"
        if training.aggregator is not None:
            return (
                "training.aggregator",
                f"needs whole gradients, which training.{sharded} shards: leave one of them out",
            )
        if recipe.auxiliary.space is not None:
            return f"training.{sharded}", "is given, but auxiliary objectives compare whole gradients: leave it out"
    if training.precision == "fp16" and recipe.model.dtype == "bfloat16":
        return "training.precision", "is fp16, but model.dtype is bfloat16: use bf16, or float32 weights"
    return None


def _affinity(recipe: "Recipe") -> Contradiction:
    affinity = recipe.affinity
    for name in ("subset_size", "subsets"):
        if getattr(affinity, name) is not None and affinity.order == "pairwise":
            return f"affinity.{name}", "belongs to affinity.order=higher, but the order is pairwise"
    if affinity.dimensions % affinity.members:
        return (
            "affinity.members",
            f"is {affinity.members}, which does not divide affinity.dimensions ({affinity.dimensions})",
        )
    if affinity.members > 1 and affinity.evaluation == "forward":
        return "affinity.members", "is more than 1, which only evaluation=linearized can average"
    return None


def _auxiliary(recipe: "Recipe") -> Contradiction:
    auxiliary = recipe.auxiliary
    if auxiliary.space is None:
        default = type(auxiliary)()
        for name in type(auxiliary).model_fields:
            if getattr(auxiliary, name) != getattr(default, name):
                return f"auxiliary.{name}", "is given, but auxiliary.space names no search space, such as tapt"
        return None
    if recipe.groups is not None:
        return "auxiliary.space", "is given with `groups`: learn the objectives of one group at a time, with `only`"
    if recipe.sampling.strategy == "uncertainty":
        return "sampling.strategy", "is uncertainty, which auxiliary objectives cannot be combined with"
    if recipe.training.aggregator is not None:
        return (
            "training.aggregator",
            "is given, but auxiliary objectives weigh gradients by a rule of their own",
        )
    learns = auxiliary.primary_lr > 0 or auxiliary.auxiliary_lr > 0
    if not learns and auxiliary.cosine_layers is not None:
        return "auxiliary.cosine_layers", "is given, but nothing is compared: both learning rates of the weights are 0"
    if auxiliary.dev_head == "own" and auxiliary.dev_head_weight_decay != type(auxiliary)().dev_head_weight_decay:
        return "auxiliary.dev_head_weight_decay", "is given, but auxiliary.dev_head is own: no head is fitted"
    return None


def _signal(recipe: "Recipe") -> Contradiction:
    online = any(getattr(recipe, name) != type(getattr(recipe, name))() for name in ("questions", "adapt"))
    if not recipe.tasks and not online:
        return "tasks", "is empty: name at least one task, such as glue/rte (or `questions`, for taskloom online)"
    return None


def _online(recipe: "Recipe") -> Contradiction:
    meta = recipe.meta_train
    if meta.reset_every % meta.documents:
        return (
            "meta_train.reset_every",
            f"is {meta.reset_every} documents, not a multiple of meta_train.documents ({meta.documents})",
        )
    if recipe.adapt.evaluate_every is not None and recipe.adapt.epochs > 1:
        return (
            "adapt.evaluate_every",
            "is given with adapt.epochs above 1: a stream is evaluated on the way in one pass",
        )
    return None


def _sweep(recipe: "Recipe") -> Contradiction:
    for field, values in recipe.sweep.grid.items():
        section, _, name = field.partition(".")
        known = type(recipe).model_fields
        fields = getattr(known[section].annotation, "model_fields", {}) if name and section in known else known
        if (name or section) not in fields and section != "adapter":
            return "sweep.grid", f"names '{field}', which no recipe has.{did_you_mean(name or section, fields)}"
        if not values:
            return "sweep.grid", f"has no values for '{field}'"
    return None


_CHECKS: tuple[Callable[["Recipe"], Contradiction], ...] = (
    _length_of_training,
    _warm_up,
    _evaluations_and_checkpoints,
    _padding,
    _adapter,
    _sampling,
    _gradients,
    _affinity,
    _auxiliary,
    _signal,
    _online,
    _sweep,
)
