"""Rows of plain text: blocks with token-level targets, and sentences with what stands beside them."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from taskloom.auxiliary.batch import BLOCKS, RowBatch
from taskloom.auxiliary.corpus import Corpus, pack_blocks
from taskloom.auxiliary.pairs import Neighbours, SentenceRows, without_replacement
from taskloom.auxiliary.stages import SENTENCE_OUTPUTS, TOKEN_OUTPUTS
from taskloom.auxiliary.targets import frequency_classes, weighed_frequencies
from taskloom.auxiliary.template import NOWHERE, Layout, RowTemplate
from taskloom.errors import DataError
from taskloom.tasks.encoding import IGNORED

__all__ = ["TextSource"]


class TextSource:
    """A corpus that rows are drawn from.

    Args:
        name: its name in the data stage.
        corpus: its text.
        tokenizer: what the corpus was tokenised with.
        max_length: the most tokens of a row.
        tasks: the task id of each document; 0 if not given.

    Raises:
        DataError: the text has no tokens, or `max_length` has no room for them.
    """

    def __init__(
        self,
        name: str,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        tasks: Sequence[int] | None = None,
    ) -> None:
        self.name = name
        self.corpus = corpus
        self.template = RowTemplate(tokenizer, max_length)
        if not len(corpus.tokens):
            raise DataError(f"the {name} text has no tokens that the model's tokenizer knows")
        if self.template.room(pair=True) < 2:
            raise DataError(
                f"auxiliary.max_length (by default data.max_length) is {max_length}, which leaves no room for two "
                "sentences; raise it"
            )
        self._tasks = np.zeros(len(corpus.groups), dtype=np.int64) if tasks is None else np.asarray(tasks)
        self._neighbours = Neighbours(corpus)

    def supports(self, output: str) -> str | None:
        """Return None if there can be rows for an output, or why not."""
        if output in TOKEN_OUTPUTS:
            return None
        if output in SENTENCE_OUTPUTS:
            return self._neighbours.supports(output)
        return f"labels of '{output}' are those of its own examples"

    def draw(self, rows: str, n: int, generator: np.random.Generator) -> RowBatch:
        """Draw `n` rows; see `taskloom.auxiliary.sources.Source`."""
        if rows == BLOCKS:
            blocks = self._blocks[without_replacement(len(self._blocks), n, generator)]
            layout = self.template.rows(self.corpus.tokens, blocks)
            tasks = self._tasks[self.corpus.document_of_token[blocks[:, 0]]]
            return _batch(layout, tasks, self.token_targets(layout.place))
        drawn = self._neighbours.draw(rows, n, generator)
        second = None if drawn.second is None else self._bounds(drawn.second)
        layout = self.template.rows(self.corpus.tokens, self._bounds(drawn.first), second)
        tasks = self._tasks[self.corpus.document_of_sentence[drawn.first]]
        return _batch(layout, tasks, self._sentence_targets(rows, drawn))

    def token_targets(self, place: np.ndarray) -> dict[str, Tensor]:
        """Return the token-level targets of rows.

        Args:
            place: the token of the corpus that stands in each cell, -1 for none, [rows, tokens].
        """
        nowhere = place == NOWHERE
        return {
            "tf": torch.from_numpy(np.where(nowhere, IGNORED, self._frequency_classes[place])),
            "tfidf": torch.from_numpy(np.where(nowhere, np.float32(0), self._weighed_frequencies[place])),
            "cap": torch.from_numpy(np.where(nowhere, IGNORED, self.corpus.capital[place].astype(np.int64))),
        }

    def _sentence_targets(self, output: str, drawn: SentenceRows) -> dict[str, Tensor]:
        if drawn.classes is not None:
            return {output: torch.from_numpy(drawn.classes)}
        if drawn.around is None:
            return {}
        room = self.template.room()
        words = []
        for around in drawn.around.tolist():
            bounds = [self.corpus.sentences[sentence : sentence + 2] for sentence in around if sentence >= 0]
            words.append(np.concatenate([self.corpus.tokens[first:last][:room] for first, last in bounds]))
        targets = np.full((len(words), max(map(len, words))), IGNORED, dtype=np.int64)
        for row, tokens in enumerate(words):
            targets[row, : len(tokens)] = tokens
        return {output: torch.from_numpy(targets)}

    def _bounds(self, sentences: np.ndarray) -> np.ndarray:
        """Return the [first, last) tokens of sentences, [sentences, 2]."""
        return np.stack([self.corpus.sentences[sentences], self.corpus.sentences[sentences + 1]], axis=1)

    @cached_property
    def _blocks(self) -> np.ndarray:
        return pack_blocks(self.corpus, self.template.room())

    @cached_property
    def _frequency_classes(self) -> np.ndarray:
        return frequency_classes(self.corpus.tokens)

    @cached_property
    def _weighed_frequencies(self) -> np.ndarray:
        return weighed_frequencies(self.corpus.tokens, self.corpus.document_of_token)


def _batch(layout: Layout, tasks: np.ndarray, targets: dict[str, Tensor]) -> RowBatch:
    types = layout.token_type_ids
    return RowBatch(
        input_ids=torch.from_numpy(layout.input_ids),
        attention_mask=torch.from_numpy(layout.attention_mask),
        special=torch.from_numpy(layout.place == NOWHERE),
        task=torch.from_numpy(tasks),
        token_type_ids=None if types is None else torch.from_numpy(types),
        targets=targets,
    )
