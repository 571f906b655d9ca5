"""The data stage (paper, section 3): what each of its values draws rows from, tokenised once."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.corpus import cached_corpus
from taskloom.auxiliary.documents import read_documents, suite_documents
from taskloom.auxiliary.labelled_source import LabelledSource
from taskloom.auxiliary.space import Objective
from taskloom.auxiliary.text_source import TextSource
from taskloom.auxiliary.transforms import Transforms
from taskloom.errors import RecipeError, did_you_mean
from taskloom.recipe.auxiliary import NeuralLMSection
from taskloom.tasks import TaskSuite

__all__ = ["Source", "build_sources", "unavailable"]

#: Sources that are read from files, with the recipe's field that names them.
FILE_FIELDS = {"in-domain": "auxiliary.in_domain", "out-domain": "auxiliary.out_domain"}


class Source(Protocol):
    """One value of the data stage."""

    name: str

    def supports(self, output: str) -> str | None:
        """Return None if there can be rows for an output, or why not."""
        ...

    def draw(self, rows: str, n: int, generator: np.random.Generator) -> RowBatch:
        """Draw `n` rows at random, without replacement while there are enough.

        Args:
            rows: ``"blocks"`` (`taskloom.auxiliary.batch.BLOCKS`), or the name of a sentence-level output.
            n: how many; of quick-thoughts an even number, and fewer come if there are not so many pairs.
            generator: what the rows depend on, and nothing else.
        """
        ...


def build_sources(
    space: Iterable[Objective],
    *,
    suite: TaskSuite,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    paths: Mapping[str, Sequence[Path]],
    neural_lm: NeuralLMSection | None = None,
    labelled: TaskSuite | None = None,
    stride: int = 128,
    console: Console | None = None,
) -> dict[str, Source]:
    """Return the sources that the legal objectives of a space take their rows from.

    Args:
        space: the objectives.
        suite: the primary tasks; its cache folder keeps the tokenised text.
        tokenizer: the backbone's, a fast one.
        max_length: the most tokens of a row.
        paths: files and folders of ``in-domain`` and ``out-domain`` text.
        neural_lm: settings of the text that a language model writes.
        labelled: further tasks with labels.
        stride: tokens by which windows of labelled span tasks overlap.
        console: where generation shows its progress; None is quiet.

    Raises:
        RecipeError: the recipe does not say where a source's data is; the message names the field.
        DataError: data is missing or malformed.
        RunError: another process is generating the same text.
    """
    objectives = list(space)
    sources: dict[str, Source] = {}
    for name in dict.fromkeys(objective.data for objective in objectives):
        if name == "task":
            documents, tasks = suite_documents(suite)
        elif name in FILE_FIELDS:
            documents, tasks = read_documents(_required(name, paths)), None
        elif name == "neural-lm":
            from taskloom.auxiliary.neural_lm import generated_documents

            written, _ = suite_documents(suite)
            prompts = [" ".join(document) for document in written]
            folder = suite.cache_dir / "neural-lm"
            texts = generated_documents(_required_model(neural_lm), prompts, folder, console=console)
            documents, tasks = [(text,) for text in texts], None
        else:
            owner = _suite_of(name, suite, labelled)
            task_id = suite.index(name) if owner is suite else 0
            sources[name] = LabelledSource(owner, name, task_id, tokenizer, max_length, stride)
            continue
        corpus = cached_corpus(documents, tokenizer, suite.cache_dir / "corpora")
        sources[name] = TextSource(name, corpus, tokenizer, max_length, tasks)
    return sources


def unavailable(
    space: Iterable[Objective], sources: Mapping[str, Source], transforms: Transforms
) -> dict[Objective, str]:
    """Return the objectives that cannot be made from these sources with these transforms, and why.

    The reasons name the choice that is at fault, so that objectives of the same reason can be told of at once.
    """
    reasons: dict[Objective, str] = {}
    for objective in space:
        if transforms.mask_token_id is None and transforms.needs_mask_token(objective.transform):
            reasons[objective] = f"transform {objective.transform}: the model's tokenizer has no mask token"
        elif reason := sources[objective.data].supports(objective.output):
            reasons[objective] = f"output {objective.output} of {objective.data}: {reason}"
    return reasons


def _required(name: str, paths: Mapping[str, Sequence[Path]]) -> Sequence[Path]:
    if not paths.get(name):
        raise RecipeError(
            f"{FILE_FIELDS[name]}: the search space has {name} text, but the recipe names none; give a .txt file "
            f"(a document a line), .jsonl, .csv or a folder of .txt files, or leave {name} out of the space"
        )
    return paths[name]


def _required_model(neural_lm: NeuralLMSection | None) -> NeuralLMSection:
    if neural_lm is None or neural_lm.model is None:
        raise RecipeError(
            "neural_lm.model: the search space has neural-lm text, but the recipe names no language model to write it; "
            "give a causal one, or leave neural-lm out of the space"
        )
    return neural_lm


def _suite_of(name: str, suite: TaskSuite, labelled: TaskSuite | None) -> TaskSuite:
    for known in (suite, labelled):
        if known is not None and name in known.names:
            return known
    tasks = [*suite.names, *(labelled.names if labelled is not None else ())]
    raise RecipeError(
        f"auxiliary.tasks: the search space has the labelled data '{name}', but no task is named so."
        f"{did_you_mean(name, tasks)}"
    )
