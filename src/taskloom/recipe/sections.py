"""The recipe: every setting of a run, typed, with its unit and its default.

A recipe has one section a room of the library (model, data, tasks, adapter, sampling, training). The models
below are the single source of the field table that ``taskloom train --help`` prints, of the checks on a YAML
file and of the resolved ``recipe.yaml`` in a run folder.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError

from taskloom.adapters.ca_mtl.settings import PRESETS
from taskloom.recipe.auxiliary import AuxiliarySection, NeuralLMSection, SweepSection
from taskloom.recipe.base import PathField, Section, Share
from taskloom.recipe.consistency import first_contradiction
from taskloom.recipe.online import (
    AdaptSection,
    AnswersSection,
    LightTuningSection,
    MetaTrainSection,
    QuestionsSection,
    TuneQASection,
    WeighterSection,
)
from taskloom.recipe.pipeline import PipelineSection

__all__ = [
    "AdaptSection",
    "AdapterSection",
    "AffinitySection",
    "AnswersSection",
    "AuxiliarySection",
    "DataSection",
    "LightTuningSection",
    "MetaTrainSection",
    "ModelSection",
    "NeuralLMSection",
    "PipelineSection",
    "QuestionsSection",
    "Recipe",
    "SamplingSection",
    "SweepSection",
    "TrainingSection",
    "TuneQASection",
    "WeighterSection",
]


class ModelSection(Section):
    """The pretrained model and, of an encoder, how its output becomes one vector an example."""

    path: str = Field(description="hub id, folder, or package:DISTRIBUTION/FOLDER (an installed package's files)")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    kind: Literal["auto", "encoder", "encoder_decoder", "decoder"] = Field(
        default="auto",
        description="encoders solve tasks by heads, the others by generating text; auto asks the model's config",
    )
    gguf_file: str | None = Field(default=None, description="GGUF file in the folder `path`; decoder models only")
    pooling: Literal["auto", "pooler", "cls", "mean"] = Field(
        default="auto",
        description="vector of an example; auto takes the pretrained pooler where there is one, else cls",
    )
    attention: Literal["sdpa", "eager"] = Field(
        default="sdpa", description="attention kernel; eager allows double backward"
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="type of the stored weights")
    head_dropout: Share = Field(default=0.1, description="dropout before each task's head (probability)")
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory"
    )
    trust_remote_code: bool = Field(default=False, description="run the Python code that a hub repository brings")


class DataSection(Section):
    """Where the tasks' files are and how text becomes tokens."""

    dir: PathField | None = Field(default=None, description="folder, zip or tar archive that holds the tasks' files")
    max_length: PositiveInt = Field(default=128, description="longest example, special tokens included (tokens)")
    max_target_length: int = Field(
        default=128, ge=2, description="longest text2text answer, end token included; a task may set its own (tokens)"
    )
    stride: int = Field(
        default=128,
        ge=0,
        description="span tasks and tasks with windows: overlap of neighbouring windows, at most half of one (tokens)",
    )
    on_too_long: Literal["truncate", "error"] = Field(
        default="truncate", description="what happens to a longer example"
    )
    pad_to: PositiveInt | None = Field(
        default=None, description="pad every batch to this length (tokens); null: to its longest"
    )
    limits: dict[str, PositiveInt] = Field(
        default_factory=dict, description="most examples a split, a seeded random subset, e.g. {train: 1000}"
    )
    split_validation_test: bool = Field(
        default=False,
        description="tasks with hidden test labels: half of dev, or 1,000 of train, is held out (a task's hold_out)",
    )
    cache: PathField | None = Field(
        default=None, description="folder of tokenised features; null: $TASKLOOM_CACHE or ~/.cache/taskloom"
    )
    workers: int = Field(default=0, ge=0, description="data loader processes; 0 loads in the training process")

    @field_validator("limits")
    @classmethod
    def _limits_name_splits(cls, limits: dict[str, int]) -> dict[str, int]:
        for split in limits:
            if not split.startswith(("train", "dev", "test")):
                raise PydanticCustomError(
                    "refused",
                    "unknown split '{split}': splits are train, and names that start with dev or test",
                    {"split": split},
                )
        return limits


class AdapterSection(BaseModel):
    """How the tasks share parameters. The method's own settings stand beside these, e.g. `r: 8` for lora."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    method: str = Field(
        default="none", description="none, ca_mtl, hyperdecoder, or a PEFT method such as lora", min_length=1
    )
    preset: Literal["ca-mtl-base", "ca-mtl-large"] | None = Field(
        default=None, description="published settings of ca_mtl; settings given beside it win"
    )
    freeze_layers: str | list[int] | None = Field(
        default=None,
        description="layers kept as pretrained: 0-5 (the embeddings too), all or none; null: the preset's, else none",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset_freezes(cls, values: Any) -> Any:
        """Write the preset's frozen layers into the recipe: which weights stay pretrained must be plain to see."""
        preset = values.get("preset") if isinstance(values, dict) else None
        if isinstance(preset, str) and preset in PRESETS and values.get("freeze_layers") is None:
            return {**values, "freeze_layers": PRESETS[preset]["freeze_layers"]}
        return values

    @property
    def options(self) -> dict[str, Any]:
        """The method's own settings: everything given in this section besides the fields above."""
        return dict(self.model_extra or {})


class SamplingSection(Section):
    """Which task or example comes next."""

    strategy: Literal["sequential", "proportional", "temperature", "uniform", "uncertainty"] = Field(
        default="proportional", description="how tasks are drawn; uncertainty is CA-MTL's MT-uncertainty"
    )
    temperature: float = Field(
        default=2.0,
        gt=0,
        description="temperature only: a task of n examples is drawn in proportion to n^(1/temperature)",
    )
    percent_of_max_data_size: float = Field(
        default=1.0,
        gt=0,
        description="uniform and uncertainty: length of an epoch (share of tasks x the largest task)",
    )
    mix: Literal["mixed", "single"] = Field(default="mixed", description="tasks in one batch: any, or one")
    group_by_length: bool = Field(
        default=True, description="put examples of similar length into one batch: less padding"
    )
    candidates_per_task: PositiveInt | None = Field(
        default=None, description="uncertainty only: examples scored a task and step; null: the batch size"
    )
    max_pool: float | None = Field(
        default=None,
        ge=1,
        description="uncertainty only: most examples scored a step (multiple of the batch size); null: all",
    )
    even_share: Share = Field(
        default=0.0,
        description="uncertainty only: share of a batch split evenly among the tasks; 0 as published",
    )


class TrainingSection(Section):
    """Optimisation, evaluation and checkpoints."""

    epochs: float = Field(default=3.0, description="passes over the training data; ignored when max_steps is given")
    max_steps: int = Field(default=-1, description="optimizer steps; -1: as many as the epochs need")
    batch_size: PositiveInt = Field(default=32, description="examples of a batch, of all processes together")
    eval_batch_size: PositiveInt = Field(default=64, description="evaluation batch of a process (examples)")
    gradient_accumulation: PositiveInt = Field(default=1, description="batches an optimizer step")
    learning_rate: float = Field(default=2e-5, gt=0, description="peak learning rate")
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="learning rate of the heads; null: learning_rate"
    )
    optimizer: Literal["adamw", "adafactor"] = Field(
        default="adamw", description="adafactor: at the given rate, without relative steps and parameter scaling"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="weight decay; none on biases and norms")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="linear warm-up (share of all steps)")
    warmup_steps: int | None = Field(
        default=None, ge=0, description="linear warm-up (optimizer steps) instead of warmup; null: warmup"
    )
    schedule: Literal["linear", "cosine", "constant", "polynomial", "inverse_sqrt"] = Field(
        default="linear", description="learning rate after the warm-up"
    )
    max_grad_norm: float = Field(default=1.0, ge=0, description="clip the gradient to this norm; 0: no clipping")
    loss: Literal["tasks", "examples"] = Field(
        default="tasks", description="mean over the tasks present, or over examples"
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="text2text and lm: share of an answer's target spread over all words; in the training loss alone",
    )
    aggregator: str | None = Field(
        default=None,
        description="torchjd aggregator of the tasks' gradients, e.g. UPGrad; null: the plain mean",
    )
    early_stopping: PositiveInt | None = Field(
        default=None, description="stop after this many evaluations without a better mean metric; null: never"
    )
    evaluate_every: PositiveInt | None = Field(
        default=None, description="optimizer steps; null: at the end of each epoch"
    )
    checkpoint_every: PositiveInt | None = Field(default=None, description="optimizer steps; null: at each evaluation")
    keep_checkpoints: PositiveInt = Field(default=2, description="newest checkpoints kept, beside the best one")
    log_every: PositiveInt = Field(default=10, description="optimizer steps between two entries of metrics.jsonl")
    precision: Literal["float32", "bf16", "fp16"] = Field(
        default="float32", description="mixed precision of the computation"
    )
    report_to: list[str] = Field(
        default_factory=list, description="trackers by name, e.g. [tensorboard]; none by default"
    )
    compile: bool = Field(default=False, description="torch.compile the model")
    fsdp: bool = Field(
        default=False,
        description="several processes: shard parameters, gradients and optimizer over them (FSDP2); one process: off",
    )
    deepspeed: PathField | None = Field(
        default=None, description="several processes: a DeepSpeed configuration (JSON), passed on to the Trainer"
    )


class AffinitySection(Section):
    """Which tasks help each other (Grad-TAG): `taskloom affinity` and `taskloom group`. Training ignores it."""

    examples: PositiveInt | None = Field(
        default=1000, description="training examples a task whose gradients are collected; null: all"
    )
    validation_examples: PositiveInt | None = Field(
        default=1000, description="examples a task that estimates are made on, of its first dev split; null: all"
    )
    batch_size: PositiveInt = Field(default=32, description="examples in one pass while collecting")
    dimensions: PositiveInt = Field(default=200, description="width of the projected gradients (the paper's d)")
    distribution: Literal["rademacher", "gaussian"] = Field(
        default="rademacher", description="entries of the projection matrix"
    )
    projection_seed: int = Field(default=0, ge=0, description="seed of the projection matrix")
    factor: PositiveInt | Literal["auto", "none"] = Field(
        default="auto",
        description="sides of weight matrices are compressed to this first; none: dense; auto: 32 above 1M parameters",
    )
    fallback: Literal["none", "autograd"] = Field(
        default="none", description="modules without a gradient rule: refuse, or one backward pass an example"
    )
    C: float = Field(default=0.01, gt=0, description="weight of the losses against half the squared norm of the change")
    balance: Literal["sum", "tasks"] = Field(default="sum", description="every example weighs the same, or every task")
    order: Literal["pairwise", "higher"] = Field(
        default="pairwise", description="affinity from pairs of tasks, or averaged over larger random subsets"
    )
    subset_size: PositiveInt | None = Field(
        default=None, description="higher only: tasks a subset; null: 10, at most half of all"
    )
    subsets: PositiveInt | None = Field(
        default=None, description="higher only: number of subsets; null: each pair about 10 times"
    )
    metric: Literal["loss", "accuracy", "f1", "mcc", "mse", "pearson", "auto"] = Field(
        default="loss", description="what is estimated; auto: accuracy, of regression pearson"
    )
    members: PositiveInt = Field(
        default=1, description="estimates from this many projections of dimensions/members each, averaged (bagging)"
    )
    evaluation: Literal["linearized", "forward"] = Field(
        default="linearized", description="validation by inner products, or by running the model with the new weights"
    )


class Recipe(Section):
    """Everything that defines a run. `load_recipe` reads one from YAML; the constructor checks it alike."""

    name: str = Field(
        description="name of the run",
        json_schema_extra={"default": "the file's name"},
    )
    description: str = Field(default="", description="one line for `taskloom recipes`")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of weights, sampling and dropout")
    output: PathField = Field(
        description="the run folder, relative to the working folder",
        json_schema_extra={"default": "runs/<name>"},
    )
    model: ModelSection
    data: DataSection = Field(default_factory=DataSection)
    tasks: list[str | dict[str, Any]] = Field(
        description="presets such as glue/rte, YAML files of tasks, or mappings; their order counts",
    )
    only: list[str] | None = Field(default=None, description="names of the tasks to use; null: all of them")
    groups: PathField | None = Field(
        default=None, description="train one model a group: a run that `taskloom group` has grouped, or a groups.json"
    )
    group_against: list[Literal["all", "single"]] = Field(
        default_factory=lambda: ["all", "single"],
        description="groups only: also train one model for all tasks, and one a task, to compare with",
    )
    adapter: AdapterSection = Field(default_factory=AdapterSection)
    sampling: SamplingSection = Field(default_factory=SamplingSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    affinity: AffinitySection = Field(default_factory=AffinitySection)
    auxiliary: AuxiliarySection = Field(default_factory=AuxiliarySection)
    neural_lm: NeuralLMSection = Field(default_factory=NeuralLMSection)
    questions: QuestionsSection = Field(default_factory=QuestionsSection)
    weighter: WeighterSection = Field(default_factory=WeighterSection)
    tune_qa: TuneQASection = Field(default_factory=TuneQASection)
    meta_train: MetaTrainSection = Field(default_factory=MetaTrainSection)
    adapt: AdaptSection = Field(default_factory=AdaptSection)
    light_tuning: LightTuningSection = Field(default_factory=LightTuningSection)
    answers: AnswersSection = Field(default_factory=AnswersSection)
    sweep: SweepSection = Field(default_factory=SweepSection)
    pipeline: PipelineSection = Field(default_factory=PipelineSection)

    @model_validator(mode="before")
    @classmethod
    def _questions_need_no_tasks(cls, values: Any) -> Any:
        if isinstance(values, dict) and "tasks" not in values and {"questions", "adapt"} & values.keys():
            return {**values, "tasks": []}
        return values

    @model_validator(mode="before")
    @classmethod
    def _output_follows_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "output" not in values and isinstance(values.get("name"), str):
            return {**values, "output": Path("runs", values["name"])}
        return values

    @field_validator("name")
    @classmethod
    def _name_is_a_path_below_runs(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", name):
            raise PydanticCustomError(
                "refused",
                "found '{name}', expected letters, digits and . _ + -, with / between parts",
                {"name": name},
            )
        return name

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks_as_plain_values(cls, tasks: Any) -> Any:
        """Accept `Task` objects (from Python) beside names and mappings (from YAML)."""
        if not isinstance(tasks, list | tuple):
            return tasks
        return [
            task.model_dump(mode="json", exclude_defaults=True) if isinstance(task, BaseModel) else task
            for task in tasks
        ]

    @model_validator(mode="after")
    def _settings_agree(self) -> "Recipe":
        found = first_contradiction(self)
        if found is not None:
            field, reason = found
            raise PydanticCustomError("contradiction", "{reason}", {"field": field, "reason": reason})
        return self

    def resolved(self) -> dict[str, Any]:
        """Every field as plain YAML values, defaults and absolute paths included.

        ``Recipe.model_validate(recipe.resolved())`` gives an equal recipe.
        """
        return self.model_dump(mode="json")
