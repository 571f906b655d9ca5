"""The sections of a recipe about auxiliary objectives: the search space, its weights, and the text it is fed with.

Defaults are the published ones (the flags and defaults of AANG's search command), but for the batch size.
"""

from typing import Any, Literal

from pydantic import Field, PositiveInt

from taskloom.recipe.base import PathField, Section, Share

__all__ = ["AuxiliarySection", "NeuralLMSection", "SweepSection"]


class AuxiliarySection(Section):
    """Auxiliary objectives beside the tasks (AANG), where `space` names a search space."""

    space: str | dict[str, Any] | None = Field(
        default=None,
        description="search space: tapt, full, ...; a YAML file; or its stages as a mapping; null: no objectives",
    )
    objectives: list[str] | None = Field(
        default=None, description="only these of the space, by name, e.g. [task/mask/bidirectional/denoise]"
    )
    tasks: list[str | dict[str, Any]] = Field(
        default_factory=list, description="labelled tasks whose data the space may use, written like `tasks`"
    )
    in_domain: PathField | list[PathField] | None = Field(
        default=None, description="in-domain text: .txt (a document a line), .jsonl, .csv, a folder of .txt"
    )
    out_domain: PathField | list[PathField] | None = Field(default=None, description="out-of-domain text, likewise")
    batch_size: PositiveInt = Field(default=64, description="rows of all objectives together, an optimizer step")
    max_length: PositiveInt | None = Field(default=None, description="longest row (tokens); null: data.max_length")
    objectives_per_step: PositiveInt = Field(default=3, description="objectives sampled an optimizer step")
    rows: Literal["weights", "even"] = Field(
        default="weights", description="how rows are split among a step's views: by their weights, or evenly"
    )
    primary_lr: float = Field(
        default=0.1, ge=0, description="learning rate of the balance of tasks and objectives (published soptlr)"
    )
    auxiliary_lr: float = Field(
        default=1.0, ge=0, description="learning rate of the objectives' weights (published auxlr); both 0: static"
    )
    update: Literal["additive", "exponentiated"] = Field(default="additive", description="how the weights' logits move")
    step_every: PositiveInt = Field(default=3, description="optimizer steps from one move of the weights to the next")
    factored: bool = Field(default=True, description="a logit a choice of each stage, beside one an objective")
    warm_start: PathField | None = Field(
        default=None, description="run whose learned weights this one starts from (published retrain)"
    )
    probability: float = Field(
        default=0.15, gt=0, le=1, description="share of tokens that are transformed and predicted"
    )
    order_probability: float | None = Field(
        default=None, gt=0, le=1, description="the same for the ordered representations; null: probability"
    )
    pure_transform: bool = Field(
        default=True, description="a transform stands alone, as in the paper's runs; false: it tilts BERT's mixture"
    )
    transform_temperature: float = Field(default=0.5, gt=0, description="temperature of that mixture")
    density: float = Field(
        default=0.6, gt=0, le=1, description="random-factorized: share of the earlier tokens that one sees"
    )
    noise: float = Field(
        default=1.0,
        gt=0,
        description="noisy-embedding: standard deviation (in root mean squares of the embeddings)",
    )
    share_heads: bool = Field(default=True, description="one head an output; false: one an objective")
    head_dropout: Share = Field(default=0.1, description="dropout before the objectives' heads (probability)")
    dev_batch_size: PositiveInt = Field(default=32, description="held-out examples whose gradient is the target")
    dev_split: str | None = Field(default=None, description="split they are drawn from; null: the first dev split")
    dev_head: Literal["fitted", "own"] = Field(
        default="fitted",
        description="head under that gradient: fitted to the step's training features (META-TARTAN), or the tasks' own",
    )
    dev_head_weight_decay: float = Field(default=0.1, gt=0, description="L2 penalty of the fitted head")
    cosine_layers: PositiveInt | None = Field(
        default=None, description="compare gradients of this many top layers only; null: of all that trains"
    )
    max_grad_norm: float = Field(
        default=10.0,
        ge=0,
        description="while weights learn, clip each objective's gradient to this norm; 0: never",
    )
    final_finetuning: bool = Field(default=True, description="train the best model further on the tasks alone")
    final_learning_rate: float = Field(default=1e-6, gt=0, description="learning rate of the final fine-tuning")
    final_epochs: PositiveInt = Field(default=10, description="most epochs of the final fine-tuning")
    final_patience: PositiveInt = Field(default=3, description="its evaluations without a better mean metric")


class NeuralLMSection(Section):
    """Text written by a causal language model, the data `neural-lm` of auxiliary objectives."""

    model: str | None = Field(default=None, description="causal language model: hub id, folder or package:NAME/FOLDER")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    gguf_file: str | None = Field(default=None, description="GGUF file in the folder `model`")
    documents: PositiveInt = Field(default=1000, description="texts generated, once, and cached")
    prompt_tokens: PositiveInt = Field(default=8, description="first tokens of a training text that one starts with")
    new_tokens: PositiveInt = Field(default=64, description="most tokens generated a text")
    temperature: float = Field(default=1.0, gt=0, description="sampling temperature")
    top_p: float = Field(default=0.95, gt=0, le=1, description="nucleus of the sampling (probability)")
    batch_size: PositiveInt = Field(default=16, description="texts generated together")


class SweepSection(Section):
    """Settings to try, for `taskloom sweep`; other commands use the recipe as it stands."""

    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="values to try by dotted field, e.g. {auxiliary.auxiliary_lr: [0.1, 1.0]}"
    )
    recipes: list[str] = Field(
        default_factory=list, description="whole recipes to try, files or packaged names; the grid varies each of them"
    )
    seeds: PositiveInt = Field(default=1, description="runs of each setting, with seeds from `seed` on")
    verb: str = Field(default="train", description='command that trains, e.g. "online adapt"')
    metric: str = Field(default="mean", description="what is compared: a dotted path into scores.json")
    minimize: bool = Field(default=False, description="less of the metric is better")
