"""What a task is: which columns are read, what is predicted, how it is measured, where its splits lie.

A `Task` is a declaration only. Reading and checking the data is `taskloom.tasks.suite`; this module needs neither
torch nor `datasets`, so that recipes are validated and help is printed at once.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from taskloom.errors import DataError, did_you_mean
from taskloom.tasks.checks import check_task
from taskloom.tasks.kinds import DEFAULT_METRICS, DEFAULT_TARGETS, GENERATIVE_KINDS, LABELLED_KINDS, Kind

__all__ = ["Task", "spell", "task_from_mapping"]


def spell(value: object) -> str:
    """Return a label as text: JSON's and YAML's booleans as "true" and "false", anything else as `str` writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Task(BaseModel):
    """One thing to learn, declared. All fields can be written in YAML.

    Example:
        >>> Task(name="stance", inputs=("target", "text"), labels=("against", "favor", "none"), path="stance")
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Unique name within a suite; also names the task's files in a run folder.")
    kind: Kind = Field(default="classification", description="What is predicted from the inputs.")
    description: str = Field(default="", description="One line about the task.")

    inputs: tuple[str, ...] = Field(
        description="The texts of an example, in order: column names, dotted paths into nested columns "
        "(`target.span1_text`; a number picks from a list) or templates with columns in braces "
        '(`"{word}: {sentence1}"`). One or two texts; span tasks: question and context.'
    )
    target: str | None = Field(
        default="label",
        description='Column of what is predicted ("answers" by default for span, none for lm).',
    )
    labels: tuple[str, ...] | None = Field(
        default=None,
        description="Label names in the order of the class indices; from the train split if not given.",
    )
    label_values: tuple[str, ...] | None = Field(
        default=None,
        description="How the files spell the labels, in the same order; as `labels` if not given.",
    )
    metrics: tuple[str, ...] = Field(default=(), description="Metrics of the dev splits; by kind if not given.")

    instruction: str = Field(default="", description="Text that stands before the first input of every example.")
    template: str | None = Field(
        default=None,
        description="Jinja template of a row, `prompt ||| answer` as promptsource writes it, in place of `inputs`. "
        "Classification tasks use the prompt alone.",
    )
    answer_choices: str | None = Field(
        default=None, description="Jinja template of the choices that `template` may use, separated by |||."
    )
    answers: dict[str, str] | None = Field(
        default=None, description="Text of text2text tasks for each label (or value) of the target column."
    )
    choices: str | tuple[str, ...] | None = Field(
        default=None,
        description="All answers that a text2text task has, or the column that lists them for each example.",
    )
    round_to: PositiveFloat | None = Field(
        default=None,
        description="Of a text2text task whose target is a number: the text is the nearest multiple of this, with as "
        'many decimals (0.2 makes "3.4" of 3.45).',
    )
    decoding: Literal["auto", "generate", "rank"] = Field(
        default="auto",
        description="How a text2text task is answered: by generation, or by the likeliest of the choices; "
        "auto ranks where there are choices.",
    )
    max_target_length: int | None = Field(
        default=None,
        ge=2,
        description="Longest answer (tokens, the end token is one of them); as `data.max_target_length` if not given.",
    )
    max_generated_length: PositiveInt | None = Field(
        default=None,
        description="Longest generated answer (tokens); if not given, the longest of the task's known answers, else "
        "the longest answer that is trained on.",
    )
    min_target_length: PositiveInt | None = Field(default=None, description="Shortest generated answer (tokens).")
    num_beams: PositiveInt | None = Field(default=None, description="Beams of generation; greedy if not given.")

    windows: bool = Field(
        default=False,
        description="Whether a text2text task has two inputs, what stands before the context and the context, over "
        "which a window slides: question answering over long texts.",
    )
    null_windows: Literal["keep", "drop"] = Field(
        default="keep", description="Whether windows without an answer are trained on; they are always evaluated."
    )
    spans: str | None = Field(
        default=None,
        description="Column of where a windowed task's answers stand (MRQA's detected_answers); the target column, "
        "in SQuAD's form, if not given.",
    )
    id: str | None = Field(
        default=None,
        description="Column that names the examples of a question answering task in files of predictions.",
    )

    splits: dict[str, str] = Field(
        default_factory=dict,
        description="Split name (train, dev, test, further ones that start with dev or test) to file, or to the "
        "data set's split name if `dataset` is given; several joined by + are read as one.",
    )
    optional_splits: tuple[str, ...] = Field(default=(), description="Splits that may be missing (with a warning).")
    hold_out: Literal["half_of_dev", "thousand_of_train"] | None = Field(
        default=None,
        description="What `data.split_validation_test` does where no test labels are public: half of dev becomes "
        "test, or 1,000 of train become dev and the old dev becomes test.",
    )
    path: str | None = Field(
        default=None,
        description="Folder that the files of `splits` are in; without `splits`, one that holds train, dev and test "
        "files of any known format.",
    )
    divide: dict[str, float] | None = Field(
        default=None,
        description="Shares of the splits, for example {train: 0.8, dev: 0.1, test: 0.1}: `path` is then one file, "
        "whose rows are divided at random.",
    )
    divide_seed: int = Field(default=0, description="Chooses the rows of each split of `divide`.")
    dataset: str | None = Field(
        default=None, description="Hugging Face data set id, or a local folder laid out like one."
    )
    subset: str | None = Field(default=None, description="Configuration of `dataset`.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of `dataset`.")

    columns: dict[str, str] | tuple[str, ...] | None = Field(
        default=None,
        description="New names of columns (column or dotted path in the file: name used here), or the list of "
        "column names of files without a header line.",
    )
    headerless: tuple[str, ...] | None = Field(
        default=None,
        description="Splits without a header line when `columns` is a list; all of them if not given.",
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="Field separator of CSV (comma) and TSV (tab) files.",
    )
    quoting: bool = Field(default=True, description='Whether CSV and TSV fields may be quoted with ".')
    malformed_rows: Literal["error", "skip"] = Field(
        default="error", description="What to do with CSV and TSV rows that have a wrong number of fields."
    )
    unlabelled_rows: Literal["error", "skip"] = Field(
        default="error",
        description='What to do with rows whose target is null, -1, "" or "-" in a split where others have one.',
    )
    records: str | None = Field(
        default=None,
        description="Key of the list that holds the examples of a JSON file which is not that list itself.",
    )
    where: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Column to the values that the task's rows hold in it, {subset: [SQuAD]}; others are left out.",
    )
    explode: tuple[str, ...] = Field(
        default=(),
        description="Dotted paths of nested lists to unroll, outermost first: one row for each element, "
        "which takes the list's place.",
    )

    submission: dict[str, str] = Field(
        default_factory=dict, description="Test split to the file name that the benchmark's server wants."
    )
    submission_labels: tuple[str, ...] | None = Field(
        default=None,
        description="How the benchmark's server wants the labels spelled; as `labels` if not given.",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_by_kind(cls, fields: Any) -> Any:
        """Defaults that depend on the kind, and a lone column name for a list of one."""
        if not isinstance(fields, Mapping):
            return fields
        fields = dict(fields)
        kind = fields.get("kind", "classification")
        if not fields.get("metrics"):
            fields["metrics"] = DEFAULT_METRICS.get(kind, ())
        if kind in DEFAULT_TARGETS:
            fields.setdefault("target", DEFAULT_TARGETS[kind])
        if fields.get("template") is not None:
            fields.setdefault("inputs", ())
        for name in ("inputs", "metrics", "explode", "optional_splits"):
            if isinstance(fields.get(name), str):
                fields[name] = (fields[name],)
        return fields

    @field_validator("where", mode="before")
    @classmethod
    def _lone_values(cls, where: Any) -> Any:
        if not isinstance(where, Mapping):
            return where
        return {
            column: [spell(value) for value in (values if isinstance(values, (list, tuple)) else [values])]
            for column, values in where.items()
        }

    @field_validator("labels", "label_values", "submission_labels", mode="before")
    @classmethod
    def _spell_labels(cls, labels: Any) -> Any:
        return tuple(spell(label) for label in labels) if isinstance(labels, (list, tuple)) else labels

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_task(self)
        return self

    @property
    def num_outputs(self) -> int:
        """Numbers that the head gives for an example (span: a token), 0 for generative kinds.

        Raises:
            ValueError: The labels are not known before `TaskSuite.load` has read them from the train split.
        """
        if self.kind in LABELLED_KINDS:
            if self.labels is None:
                raise ValueError(f"the `labels` of task '{self.name}' are not known before its data is read")
            return len(self.labels)
        return {"regression": 1, "span": 2}.get(self.kind, 0)

    @property
    def needs_head(self) -> bool:
        """Whether the task is solved by a head on an encoder; generative kinds use the language model's own."""
        return self.kind not in GENERATIVE_KINDS

    @property
    def known_answers(self) -> tuple[str, ...] | None:
        """All answers of a text2text task, those of labels in the labels' order; None if they vary or are unknown."""
        if self.answers is not None:
            return tuple(self.answers[label] for label in self.labels) if self.labels else tuple(self.answers.values())
        return self.choices if isinstance(self.choices, tuple) else None

    @property
    def has_choices(self) -> bool:
        """Whether it is known which answers an example of a text2text task may have."""
        return any(known is not None for known in (self.choices, self.answers, self.answer_choices))

    @property
    def ranks(self) -> bool:
        """Whether the answer is the likeliest of the choices, not generated."""
        return self.kind == "text2text" and self.decoding != "generate" and self.has_choices

    @property
    def keeps_candidates(self) -> bool:
        """Whether its answers, one or more an example, are kept with their likelihoods: question answering."""
        return self.kind == "text2text" and (self.windows or self.id is not None) and not self.ranks

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Names of the splits to evaluate on while training, in the declared order."""
        return tuple(split for split in self.splits if split.startswith("dev"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Names of the splits to predict for at the end, in the declared order."""
        return tuple(split for split in self.splits if split.startswith("test"))


def task_from_mapping(fields: Mapping[str, Any], where: str) -> Task:
    """Return the task that `fields` declares, or raise one `DataError` that lists what is wrong with them.

    `where` names the place of the declaration in messages, such as "task 3" or a file.
    """
    try:
        return Task.model_validate(fields)
    except ValidationError as failure:
        name = fields.get("name")
        place = f"{where} ('{name}')" if name else where
        raise DataError(f"{place}: {'; '.join(_complaint(error) for error in failure.errors())}") from None


def _complaint(error: Any) -> str:
    field = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown field '{field}'.{did_you_mean(field, Task.model_fields)}"
    if error["type"] == "missing":
        return f"the field '{field}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{field}: {message}, found {error['input']!r}" if field else message
