"""Rows of a labelled task: its own examples as the task encodes them, with its labels and the targets of their text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taskloom.auxiliary.batch import BLOCKS, RowBatch
from taskloom.auxiliary.corpus import BATCH_SIZE, cached_corpus
from taskloom.auxiliary.documents import task_documents
from taskloom.auxiliary.pairs import without_replacement
from taskloom.auxiliary.template import NOWHERE
from taskloom.auxiliary.text_source import TextSource
from taskloom.errors import RecipeError
from taskloom.tasks import TaskFeatures, TaskSuite
from taskloom.tasks.encoding import IGNORED

__all__ = ["LabelledSource"]


class LabelledSource:
    """The training examples of a task that has a head.

    Args:
        suite: holds the task.
        name: the task.
        task_id: the id that conditional adapters are given for its rows.
        tokenizer: a fast tokenizer.
        max_length: the most tokens of a row.
        stride: tokens by which windows of a span task overlap.

    Raises:
        RecipeError: the task is a generative one, which has no labels.
        DataError: the task has no train split.
    """

    def __init__(
        self,
        suite: TaskSuite,
        name: str,
        task_id: int,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int = 128,
    ) -> None:
        task = suite[name]
        if not task.needs_head:
            raise RecipeError(
                f"auxiliary.space: the {task.kind} task '{name}' has no labels for a head; only classification, "
                "regression, token and span tasks can be labelled data. Leave it out of the space"
            )
        self.name = name
        self._task_id = task_id
        documents = task_documents(task, suite)
        corpus = cached_corpus(documents, tokenizer, suite.cache_dir / "corpora")
        self._text = TextSource(name, corpus, tokenizer, max_length, [task_id] * len(documents))
        self._texts_per_row = len(documents[0])
        self._special_ids = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
        features = suite.task_features(name, "train", tokenizer, max_length, stride=stride)
        self._bounds = np.concatenate([[0], np.cumsum(features.lengths)])
        self._items = self._read(features)

    def __len__(self) -> int:
        return len(self._items.label)

    def supports(self, output: str) -> str | None:
        """Return None if there can be rows for an output, or why not."""
        return None if output == self.name else self._text.supports(output)

    def draw(self, rows: str, n: int, generator: np.random.Generator) -> RowBatch:
        """Draw `n` rows; see `taskloom.auxiliary.sources.Source`. Blocks are examples."""
        if rows != BLOCKS:
            return self._text.draw(rows, n, generator)
        items = without_replacement(len(self), n, generator)
        starts, lengths = self._bounds[items], np.diff(self._bounds)[items]
        columns = np.arange(lengths.max())
        filled = columns < lengths[:, None]
        cells = np.where(filled, starts[:, None] + columns, 0)

        def padded(flat: np.ndarray, value: int) -> np.ndarray:
            return np.where(filled, flat[cells], value)

        kept, template = self._items, self._text.template
        types = None if kept.types is None else torch.from_numpy(padded(kept.types, template.padding_type))
        labels: dict[str, Tensor] = {"labels": torch.from_numpy(kept.label[items])}
        if kept.token_labels is not None:
            labels["token_labels"] = torch.from_numpy(padded(kept.token_labels, IGNORED))
        if kept.span_labels is not None:
            labels["span_labels"] = torch.from_numpy(kept.span_labels[items])
        return RowBatch(
            input_ids=torch.from_numpy(padded(kept.ids, template.padding)),
            attention_mask=torch.from_numpy(filled.astype(np.int64)),
            special=torch.from_numpy(np.where(filled, kept.special[cells], True)),
            task=torch.full((n,), self._task_id),
            token_type_ids=types,
            targets={**self._text.token_targets(padded(kept.place, NOWHERE)), self.name: labels},
        )

    def _read(self, features: TaskFeatures) -> "_Items":
        """Read all items once: picking rows from Arrow files takes several times as long as all the rest of a draw."""
        place = np.full(self._bounds[-1], NOWHERE, dtype=np.int64)
        special = np.zeros(self._bounds[-1], dtype=bool)
        columns: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(features), BATCH_SIZE):
            numbers = np.arange(start, min(start + BATCH_SIZE, len(features)))
            items = features.__getitems__(numbers.tolist())
            rows = [np.asarray(item["input_ids"]) for item in items]
            layout = self._text.template.rows(self._text.corpus.tokens, *self._pieces(features, numbers, rows))
            for row, (number, ids) in enumerate(zip(numbers, rows, strict=True)):
                cells = slice(self._bounds[number], self._bounds[number + 1])
                if layout.attention_mask[row].sum() == len(ids):
                    traced = layout.place[row, : len(ids)]
                    special[cells] = traced == NOWHERE
                    place[cells] = np.where(layout.input_ids[row, : len(ids)] == ids, traced, NOWHERE)
                else:  # a tokenizer that writes a text otherwise beside another one: its targets are not known
                    special[cells] = np.isin(ids, self._special_ids)
            for name in items[0].keys() - {"task"}:
                columns.setdefault(name, []).append(_flat([item[name] for item in items]))
        return _Items.of(
            {name: np.concatenate(parts) for name, parts in columns.items()}, len(features), place, special
        )

    def _pieces(self, features: TaskFeatures, items: np.ndarray, rows: list[np.ndarray]) -> list[np.ndarray]:
        """Return for each text of the items its [first, last) tokens in the corpus, each [items, 2]."""
        corpus = self._text.corpus
        texts = features.examples[items][:, None] * self._texts_per_row + np.arange(self._texts_per_row)
        starts, ends = corpus.texts[texts], corpus.texts[texts + 1]
        if features.windows is not None:
            # The whole question, or its beginning, and the window of the context.
            specials = self._text.template.max_length - self._text.template.room(pair=True)
            for row, item in enumerate(items):
                offsets = features.windows.offsets(item)
                inside = np.flatnonzero(offsets[:, 0] >= 0)
                context = corpus.begins[starts[row, 1] : ends[row, 1]]
                ends[row, 0] = min(ends[row, 0], starts[row, 0] + len(rows[row]) - len(inside) - specials)
                if len(inside):
                    starts[row, 1] += np.searchsorted(context, offsets[inside[0], 0])
                ends[row, 1] = starts[row, 1] + len(inside)
        return [np.stack([starts[:, text], ends[:, text]], axis=1) for text in range(self._texts_per_row)]


@dataclass(frozen=True)
class _Items:
    """All items of a task. Tokens of all items stand behind each other, [tokens].

    Attributes:
        ids: token ids.
        types: token types, if the tokenizer makes them.
        place: the token of the corpus that each is, -1 for special tokens.
        special: whether each is a special token.
        label: class index or number, 0 for token and span tasks, [items].
        token_labels: of token tasks, -100 where there is none, [tokens].
        span_labels: of span tasks, first and last token, [items, 2].
    """

    ids: np.ndarray
    types: np.ndarray | None
    place: np.ndarray
    special: np.ndarray
    label: np.ndarray
    token_labels: np.ndarray | None
    span_labels: np.ndarray | None

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray], number: int, place: np.ndarray, special: np.ndarray) -> "_Items":
        spans = columns.get("span_labels")
        return cls(
            ids=columns["input_ids"],
            types=columns.get("token_type_ids"),
            place=place,
            special=special,
            label=columns.get("label", np.zeros(number)).astype(np.float32),
            token_labels=columns.get("token_labels"),
            span_labels=None if spans is None else spans.reshape(-1, 2),
        )


def _flat(values: list) -> np.ndarray:
    return (
        np.concatenate([np.asarray(value) for value in values]) if isinstance(values[0], list) else np.asarray(values)
    )
