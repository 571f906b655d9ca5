"""The sections of a recipe about online adaptation: questions, token weights, and what the three verbs do with them.

Defaults are the published ones (the configuration files of CaMeLS), which the field descriptions name where ours
differ in name.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from taskloom.recipe.base import PathField, Section

__all__ = [
    "ROLES",
    "TUNED",
    "AdaptSection",
    "AnswersSection",
    "LightTuningSection",
    "MetaTrainSection",
    "QuestionSource",
    "QuestionsSection",
    "TuneQASection",
    "WeighterSection",
]

#: What questions are used for: to teach the task, to train the weighter, and the stream to adapt to.
ROLES = ("qa_train", "qa_dev", "meta_train", "meta_dev", "stream")

#: The model that `taskloom online tune-qa` of the same recipe has made.
TUNED = "tuned"

Range = Annotated[list[int], Field(min_length=2, max_length=2)]
Rate = Annotated[float, Field(gt=0)]


class QuestionSource(Section):
    """A file of documents with questions, or a part of it."""

    path: PathField
    format: Literal["auto", "squad", "squad_hub", "streamingqa", "archivalqa", "jsonl"] = "auto"
    split: str | None = None
    rows: Range | None = None
    groups: Range | None = None
    full_passage: bool = False


class QuestionsSection(Section):
    """Documents with questions for `taskloom online`: where each part is, and how text becomes tokens."""

    preset: Literal["squad", "streamingqa", "archivalqa"] | None = Field(
        default=None, description="published splits, whose files are below data.dir; a part given here wins"
    )
    qa_train: str | dict[str, Any] | None = Field(
        default=None,
        description="questions for tune-qa: a file, or {path, format, split, rows: [0, 1000], groups, full_passage}",
    )
    qa_dev: str | dict[str, Any] | None = Field(default=None, description="its validation, likewise")
    meta_train: str | dict[str, Any] | None = Field(default=None, description="questions for meta-train, likewise")
    meta_dev: str | dict[str, Any] | None = Field(
        default=None, description="its validation, and where `adapt` tries learning rates, likewise"
    )
    stream: str | dict[str, Any] | None = Field(default=None, description="documents that `adapt` reads, likewise")
    downsample_to: PositiveInt | None = Field(default=None, description="documents of a stream; null: all")
    web_text: PathField | None = Field(
        default=None, description="text on which updates shall change nothing (locality): .txt, .csv, .jsonl, a folder"
    )
    web_text_dev: PathField | None = Field(default=None, description="the same for validation; null: web_text")
    max_document_length: int = Field(default=1024, ge=2, description="longest part of a document (tokens)")
    long_documents: Literal["split", "truncate"] = Field(
        default="split", description="a longer document: into parts, or cut (published)"
    )
    max_question_length: PositiveInt = Field(default=128, description="longest question (tokens)")
    max_answer_length: int = Field(default=24, ge=2, description="longest answer, end token included (tokens)")

    @field_validator(*ROLES)
    @classmethod
    def _sources_are_sources(cls, source: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(source, dict):
            try:
                QuestionSource.model_validate(source)
            except ValidationError as error:
                finding = error.errors(include_url=False)[0]
                known = ", ".join(QuestionSource.model_fields)
                raise PydanticCustomError(
                    "refused",
                    "{problem}; its fields are {known}",
                    {"problem": f"{'.'.join(map(str, finding['loc']))}: {finding['msg']}", "known": known},
                ) from None
        return source


class WeighterSection(Section):
    """What gives the tokens of a document their weights (CaMeLS and its baselines)."""

    kind: Literal["learned", "uniform", "salient", "tfidf"] = Field(
        default="learned", description="by meta-training; all alike; tokens of named entities; TF-IDF of words"
    )
    path: PathField | None = Field(
        default=None, description="learned: its folder or meta-train run; null: what `meta-train` of this recipe made"
    )
    model: str | None = Field(
        default=None, description="learned: pretrained model of its body; null: model.path, as it was before tune-qa"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    gguf_file: str | None = Field(default=None, description="GGUF file in the folder `model`")
    layers: PositiveInt | None = Field(default=None, description="learned: only the body's first layers; null: all")
    width: PositiveInt = Field(default=128, description="learned: width of the head's hidden layer")
    activation: Literal["softplus", "sigmoid", "exp", "gelu", "none"] = Field(
        default="softplus", description="learned: what makes weights of the head's output (published non_linearity)"
    )
    beta: float = Field(default=3.0, gt=0, description="learned: softplus is log(1 + exp(beta x)) / beta")
    freeze_base: bool = Field(default=False, description="learned: train the head alone")
    normalize: bool = Field(default=False, description="learned: scale a document's weights to a mean of 1")
    value: float = Field(default=1.0, description="uniform: the weight of every token (published init_scalar)")
    ignore: list[str] = Field(
        default=["TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL"],
        description="salient: types of entities that count nothing",
    )
    language: str = Field(default="en_core_web_sm", description="salient: spaCy pipeline")
    threshold: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="tfidf: values up to this quantile count nothing (published min_threshold)",
    )
    corpus: PathField | None = Field(
        default=None, description="tfidf: text to count words in; null: the documents of all `questions`"
    )


class TuneQASection(Section):
    """`taskloom online tune-qa`: teach a language model to answer questions without their documents."""

    epochs: float = Field(default=100.0, gt=0, description="most passes over the questions")
    max_steps: int = Field(default=-1, description="most optimizer steps; -1: as many as the epochs need")
    batch_size: PositiveInt = Field(default=32, description="questions a batch")
    accumulation: PositiveInt = Field(default=2, description="batches an optimizer step (published grad_acc_steps)")
    learning_rate: float = Field(default=2.5e-5, gt=0, description="learning rate, constant")
    optimizer: Literal["adam", "sgd", "adafactor"] = Field(default="adam", description="optimizer")
    max_grad_norm: float = Field(default=100.0, ge=0, description="clip the gradient to this norm; 0: never")
    layers: PositiveInt | None = Field(default=None, description="train the last blocks and the head only; null: all")
    evaluate_every: PositiveInt = Field(default=512, description="optimizer steps (published val_steps)")
    checkpoint_every: PositiveInt | None = Field(default=None, description="optimizer steps; null: evaluate_every")
    patience: PositiveInt | None = Field(
        default=10, description="stop after this many evaluations without a better `stop_on`; null: never"
    )
    stop_on: Literal["nll", "f1", "exact_match"] = Field(
        default="nll", description="metric of stopping and of the model that later verbs use; the best of each is kept"
    )
    generate: bool = Field(
        default=True, description="generate answers to validate f1 and exact_match; false: nll alone"
    )

    @model_validator(mode="after")
    def _metric_is_measured(self) -> "TuneQASection":
        if not self.generate and self.stop_on != "nll":
            raise PydanticCustomError(
                "refused",
                "stop_on is {metric}, but generate is false: there is the nll alone",
                {"metric": self.stop_on},
            )
        return self


class LightTuningSection(TuneQASection):
    """Light tuning after adaptation: teach the task again, which updates may have worn away (published qa_lt_final)."""

    enabled: bool = Field(default=False, description="tune the adapted model on qa_train before it is evaluated")
    batch_size: PositiveInt = Field(default=16, description="questions a batch")
    accumulation: PositiveInt = Field(default=4, description="batches an optimizer step")
    evaluate_every: PositiveInt = Field(default=16, description="optimizer steps")
    patience: PositiveInt | None = Field(default=3, description="evaluations without a better `stop_on`; null: never")
    stop_on: Literal["nll", "f1", "exact_match"] = Field(default="f1", description="metric of stopping")


class AnswersSection(Section):
    """How questions are answered when a model is evaluated."""

    generate: bool = Field(default=True, description="generate answers (f1, exact_match) beside the nll")
    beams: PositiveInt = Field(default=12, description="beams a question, in `groups`")
    groups: PositiveInt = Field(default=4, description="groups of beams that keep apart from one another")
    diversity: float = Field(default=10.0, ge=0, description="how strongly (penalty on earlier groups' tokens)")
    top_k: PositiveInt = Field(default=1, description="answers a question; the best of them counts, too")
    max_new_tokens: PositiveInt = Field(default=16, description="longest generated answer (tokens)")
    batch_size: PositiveInt = Field(default=16, description="questions together")

    @model_validator(mode="after")
    def _beams_divide(self) -> "AnswersSection":
        if self.beams % self.groups:
            raise PydanticCustomError(
                "refused",
                "{beams} beams do not divide into {groups} groups",
                {"beams": self.beams, "groups": self.groups},
            )
        if self.top_k > self.beams:
            raise PydanticCustomError(
                "refused", "top_k is {top_k}, more than {beams} beams", {"top_k": self.top_k, "beams": self.beams}
            )
        return self


class MetaTrainSection(Section):
    """`taskloom online meta-train`: train the weighter, so that one weighted update a document teaches its answers."""

    base: str = Field(
        default=TUNED, description="model that is updated: tuned (what `tune-qa` made), hub id, folder or package: path"
    )
    layers: PositiveInt | None = Field(
        default=None, description="update the last blocks and the head only; null: all (published bm_learned_layers)"
    )
    documents: PositiveInt = Field(default=6, description="documents a batch (published update_batch_size)")
    sequential: bool = Field(
        default=True, description="one update a document, in turn; false: one on all of a batch (sequential_update)"
    )
    accumulation: PositiveInt = Field(default=4, description="batches an outer step (published grad_acc_steps)")
    reset_every: PositiveInt = Field(
        default=24, description="documents after which the base model starts anew (published reset_base_freq)"
    )
    inner_lr: float = Field(default=5e-4, gt=0, description="learning rate of the updates")
    inner_optimizer: Literal["sgd", "adam"] = Field(default="sgd", description="optimizer of the updates")
    inner_steps: PositiveInt = Field(default=1, description="updates a document (published num_inner_steps)")
    outer_lr: float = Field(default=1e-5, gt=0, description="learning rate of the weighter (Adam)")
    max_grad_norm: float = Field(default=0.0, ge=0, description="clip the weighter's gradient; 0: never")
    kl_weight: float = Field(
        default=0.1, ge=0, description="weight of the change on locality text (published c_kl); 0: none"
    )
    locality_batch_size: PositiveInt = Field(default=1, description="locality texts a batch (published loc_batch_size)")
    question_locality: bool = Field(
        default=False, description="other questions of meta_train are locality text, too (published qa_loc)"
    )
    norm_weight: float = Field(default=0.0, ge=0, description="weight of the weights' norm (published c_norm)")
    norm: float = Field(default=2.0, ge=1, description="which norm")
    norm_from_one: bool = Field(default=True, description="of the weights less 1")
    epochs: float = Field(default=50.0, gt=0, description="passes over the questions of meta_train")
    max_steps: int = Field(default=-1, description="most outer steps; -1: as many as the epochs need")
    validate_every: PositiveInt = Field(default=100, description="outer steps (published val_steps)")
    validation_documents: PositiveInt | None = Field(
        default=None, description="questions of meta_dev in a validation; null: all"
    )
    patience: PositiveInt | None = Field(
        default=None, description="stop after this many validations without a lower loss; null: never"
    )
    reduce_on_plateau: bool = Field(
        default=False, description="outer_lr times 0.7071 after 5 validations without a lower loss"
    )
    checkpoint_every: PositiveInt | None = Field(default=None, description="outer steps; null: validate_every")
    pictures: PositiveInt = Field(default=4, description="documents of meta_dev whose weights are drawn at validations")
    loss_length: PositiveInt | None = Field(
        default=None, description="divide a document's loss by this, not by its tokens (published: 1023, the padding)"
    )
    first_order: bool = Field(default=False, description="leave out how one update changes the next one's gradient")
    method: Literal["auto", "forward", "reverse"] = Field(
        default="reverse",
        description="a double backward pass, forward over reverse, or auto: the faster (results then vary in rounding)",
    )
    checkpoints: Literal["all", "sqrt"] | PositiveInt = Field(
        default="all", description="updates before which parameters are kept: all, about a square root, or every n-th"
    )


class AdaptSection(Section):
    """`taskloom online adapt`: update a model on a stream of documents, each token's loss times its weight."""

    base: str = Field(
        default=TUNED, description="model that is updated: tuned (what `tune-qa` made), hub id, folder or package: path"
    )
    layers: PositiveInt | None = Field(default=None, description="update the last blocks and the head only; null: all")
    learning_rate: Rate | list[Rate] = Field(
        default=2.5e-5, description="of the updates; a list: the best on meta_dev is taken"
    )
    optimizer: Literal["adam", "sgd", "adafactor"] = Field(default="adam", description="optimizer of the updates")
    documents_per_update: PositiveInt = Field(
        default=1, description="documents a step, the mean of their losses (published batch_size x grad_acc_steps)"
    )
    epochs: PositiveInt = Field(default=1, description="passes over the stream")
    max_grad_norm: float = Field(default=750.0, ge=0, description="clip the gradient to this norm; 0: never")
    choose_on: Literal["nll", "f1", "exact_match"] = Field(
        default="f1", description="metric by which a list of learning rates is decided"
    )
    loss_length: PositiveInt | None = Field(
        default=None, description="divide a document's loss by this, not by its tokens (published: 1023, the padding)"
    )
    deduplicate: bool = Field(default=True, description="a document that was there before is not read again")
    max_characters: PositiveInt = Field(default=1_000_000, description="longer documents are skipped")
    evaluate_before: bool = Field(default=True, description="answer the stream's questions before it, too (eval_init)")
    evaluate_every: PositiveInt | None = Field(
        default=None, description="also after every so many documents (published eval_every_k)"
    )
    unrelated_questions: bool = Field(
        default=False, description="also answer qa_dev: what is forgotten (published unrelated_qa_eval)"
    )
    checkpoint_every: PositiveInt = Field(default=200, description="documents between two checkpoints")
    pictures: NonNegativeInt = Field(default=4, description="first documents of the stream whose weights are drawn")
