"""Documents as token ids: tokenised once with their sentences and capitals, kept on disk, packed into blocks."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from rich.console import Console
from safetensors import SafetensorError
from safetensors.numpy import load, save
from transformers import PreTrainedTokenizerBase

from taskloom.auxiliary.documents import Document
from taskloom.auxiliary.sentences import split_sentences
from taskloom.auxiliary.targets import holds_capital
from taskloom.errors import DataError
from taskloom.progress import counted
from taskloom.storage import write_atomically
from taskloom.tasks.caching import tokenizer_content

__all__ = ["Corpus", "cached_corpus", "pack_blocks", "tokenise"]

logger = logging.getLogger(__name__)

#: Raise this when what is stored, or how sentences are split, changes: older files are then no longer found.
FORMAT_VERSION = 1
BATCH_SIZE = 1000
#: From this many texts on, tokenising shows its progress.
LONG_JOB = 20_000


@dataclass(frozen=True)
class Corpus:
    """Documents one after the other, without special tokens. Every token belongs to one sentence.

    Attributes:
        tokens: token ids, [tokens].
        capital: whether the token covers an upper-case letter, [tokens].
        begins: where the token begins in its text, in characters, [tokens].
        texts: first token of each text and the number of tokens, [texts + 1]; each document has equally many texts.
        sentences: first token of each sentence and the number of tokens, [sentences + 1].
        documents: first sentence of each document and the number of sentences, [documents + 1].
        groups: documents with the same main (longest) text have the same number here: the same article behind several
            questions, or a repeated example; they do not count as different documents. [documents].
    """

    tokens: np.ndarray
    capital: np.ndarray
    begins: np.ndarray
    texts: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    groups: np.ndarray

    @cached_property
    def document_of_sentence(self) -> np.ndarray:
        """The document of each sentence, [sentences]."""
        return np.repeat(np.arange(len(self.groups)), np.diff(self.documents))

    @cached_property
    def document_of_token(self) -> np.ndarray:
        """The document of each token, [tokens]."""
        return np.repeat(self.document_of_sentence, np.diff(self.sentences))

    @cached_property
    def wordings(self) -> np.ndarray:
        """A number for each sentence, the same for sentences of the same tokens, [sentences]."""
        known: dict[bytes, int] = {}
        bounds = self.sentences.tolist()
        tokens = np.ascontiguousarray(self.tokens)
        words = (tokens[first:last].tobytes() for first, last in pairwise(bounds))
        return np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int64)


def cached_corpus(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, folder: Path) -> Corpus:
    """Return the corpus from its file under `folder`, tokenised first if that is not there or damaged.

    Raises:
        DataError: the folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, tokenizer_content(tokenizer)], sort_keys=True).encode())
    for document in documents:
        digest.update(json.dumps(document).encode())
    path = folder / f"{digest.hexdigest()[:24]}.safetensors"
    if path.is_file():
        try:
            return Corpus(**load(path.read_bytes()))
        except (OSError, SafetensorError, TypeError) as failure:
            logger.warning("the cached text %s is damaged and is tokenised again (%s)", path, failure)
    corpus = tokenise(documents, tokenizer)
    try:
        write_atomically(path, save(vars(corpus)))
    except OSError as failure:
        raise DataError(
            f"cannot write the cache folder {folder} ({failure}); name another one with data.cache or TASKLOOM_CACHE"
        ) from None
    return corpus


def tokenise(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase) -> Corpus:
    """Tokenise documents with a fast tokenizer, each of a document's texts by itself, whatever its length."""
    texts = [text for document in documents for text in document]
    ids, capital, begins, sentences = [], [], [], []
    lengths, counts = [], []
    total = 0
    console = Console(stderr=True) if len(texts) >= LONG_JOB else None
    with counted(console, "Tokenising text", len(texts), "texts") as advance:
        for first in range(0, len(texts), BATCH_SIZE):
            batch = texts[first : first + BATCH_SIZE]
            encoded = tokenizer(
                batch,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,  # texts may be longer than the model takes: blocks are not
            )
            for text, row, offsets in zip(batch, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
                starts = _first_tokens(text, bounds)
                ids.append(np.asarray(row, dtype=np.int32))
                capital.append(holds_capital(text, bounds))
                begins.append(bounds[:, 0].astype(np.int32))
                sentences.append(starts + total)
                lengths.append(len(row))
                counts.append(len(starts))
                total += len(row)
            advance(len(batch))
    document_of = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    per_document = np.bincount(document_of, weights=counts, minlength=len(documents)).astype(np.int64)
    return Corpus(
        tokens=np.concatenate(ids),
        capital=np.concatenate(capital),
        begins=np.concatenate(begins),
        texts=_bounds(np.asarray(lengths)),
        sentences=np.append(np.concatenate(sentences), total),
        documents=_bounds(per_document),
        groups=_groups(documents),
    )


def pack_blocks(corpus: Corpus, room: int) -> np.ndarray:
    """Return the [first, last) tokens of blocks of at most `room` tokens, [blocks, 2]; no token is left out.

    A block is as many consecutive sentences of one document as fit. A sentence that is longer than a block is cut.
    """
    blocks: list[tuple[int, int]] = []
    bounds = corpus.sentences.tolist()
    for start, stop in pairwise(corpus.documents.tolist()):
        first = bounds[start]
        last = first
        for sentence in range(start, stop):
            end = bounds[sentence + 1]
            if end - first > room and last > first:
                blocks.append((first, last))
                first = last
            while end - first > room:
                blocks.append((first, first + room))
                first += room
            last = end
        if last > first:
            blocks.append((first, last))
    return np.array(blocks, dtype=np.int64).reshape(-1, 2)


def _first_tokens(text: str, offsets: np.ndarray) -> np.ndarray:
    """Return the first token of each sentence of a text, [sentences]; sentences without tokens are left out."""
    starts = np.array([start for start, _ in split_sentences(text)], dtype=np.int64)
    # A token may begin with the space before its word, so its last character tells the sentence.
    owner = np.searchsorted(starts, np.maximum(offsets[:, 1], 1) - 1, side="right") - 1
    owner = np.maximum.accumulate(np.maximum(owner, 0))
    return np.flatnonzero(np.diff(owner, prepend=-1))


def _groups(documents: Sequence[Document]) -> np.ndarray:
    known: dict[str, int] = {}
    return np.array([known.setdefault(max(document, key=len), len(known)) for document in documents], dtype=np.int64)


def _bounds(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
