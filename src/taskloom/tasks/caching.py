"""Tokenising a split once: in batches, kept as Arrow files under a hash of all that they depend on."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import datasets
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from taskloom.errors import DataError
from taskloom.progress import counted
from taskloom.storage import staged_folder
from taskloom.tasks.encoding import Encoded, encode_batch, storage_types
from taskloom.tasks.examples import Examples
from taskloom.tasks.features import TaskFeatures, token_counts
from taskloom.tasks.kinds import GENERATIVE_KINDS
from taskloom.tasks.task import Task
from taskloom.tasks.windows import NoRoomError, encode_windows

__all__ = ["Tokenising", "build_features", "cached_features", "tokenizer_content"]

logger = logging.getLogger(__name__)

#: Raise this when what is stored changes: older cache entries are then no longer found.
FORMAT_VERSION = 1
BATCH_SIZE = 1000
#: From this many examples on, tokenising shows its progress.
LONG_JOB = 50_000


@dataclass
class Cut:
    """The examples of a split whose input was cut, and those whose answer was."""

    inputs: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Tokenising:
    """How texts become token ids; see `TaskSuite.task_features`."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    on_too_long: Literal["truncate", "error"]
    stride: int
    max_target_length: int = 128
    decoder_only: bool = False


def build_features(task: Task, task_id: int, split: str, examples: Examples, settings: Tokenising) -> TaskFeatures:
    """Tokenise examples in memory."""
    _check_settings(task, settings)
    stored, cut = _tokenise(task, split, examples, settings)
    _report_cut(task, split, examples, cut, settings)
    return TaskFeatures(task, task_id, stored)


def cached_features(
    task: Task, task_id: int, split: str, examples: Examples, settings: Tokenising, folder: Path
) -> TaskFeatures:
    """Return features from their cache entry under `folder`, made first if it is not there or damaged."""
    _check_settings(task, settings)
    entry = folder / f"{task.name}-{split}-{_content_key(task, split, examples, settings)[:24]}"
    cached = _read_entry(entry)
    stored, cut = cached or _tokenise(task, split, examples, settings)
    _report_cut(task, split, examples, cut, settings)
    if cached is None:
        _write_entry(entry, stored, cut)
        stored = datasets.Dataset.load_from_disk(entry)  # memory-mapped, unlike what was written
    return TaskFeatures(task, task_id, stored)


def _check_settings(task: Task, settings: Tokenising) -> None:
    tokenizer, max_length = settings.tokenizer, settings.max_length
    if not tokenizer.is_fast:
        raise ValueError(f"`tokenizer` must be a fast one, found {type(tokenizer).__name__}")
    if max_length > tokenizer.model_max_length:
        raise DataError(
            f"max_length is {max_length}, but the model takes at most {tokenizer.model_max_length} tokens; lower it"
        )
    special = tokenizer.num_special_tokens_to_add(pair=len(task.inputs) > 1 and not task.windows)
    # The question and the context of a span item share what is left, a few tokens each at least.
    fewest = special + (8 if task.kind == "span" else len(task.inputs))
    if max_length < fewest:
        raise DataError(
            f"max_length is {max_length}, but an example of task '{task.name}' needs at least {fewest} tokens, "
            f"{special} of them special; raise it"
        )


def _tokenise(task: Task, split: str, examples: Examples, settings: Tokenising) -> tuple[datasets.Dataset, Cut]:
    """Return the stored form of all items, and which examples were cut."""
    chunks: list[datasets.Dataset] = []
    cut = Cut()
    console = Console(stderr=True) if len(examples) >= LONG_JOB else None
    with counted(console, f"Tokenising {task.name}", len(examples), "examples") as advance:
        for first in range(0, len(examples), BATCH_SIZE):
            batch = slice(first, first + BATCH_SIZE)
            encoded = (
                _encode_windows(task, split, examples, batch, settings)
                if task.windows
                else _encode(task, examples, batch, settings)
            )
            if encoded.empty:
                raise DataError(
                    f"{examples.where(first + encoded.empty[0])}: the target of task '{task.name}' has no tokens; "
                    "give every example a text that the model's tokenizer knows"
                )
            if "example" in encoded.columns:
                encoded.columns["example"] = [first + example for example in encoded.columns["example"]]
            cut.inputs.extend(first + index for index in encoded.too_long)
            cut.answers.extend(first + index for index in encoded.cut_answers)
            types = storage_types(list(encoded.columns))
            chunks.append(datasets.Dataset.from_dict(encoded.columns, features=types))
            advance(min(BATCH_SIZE, len(examples) - first))
    if not sum(map(len, chunks)):
        raise DataError(
            f"{examples.source}: no window of task '{task.name}' holds an answer, and `null_windows: drop` leaves "
            "nothing to train on; check `spans`, or keep the null windows"
        )
    return datasets.concatenate_datasets(chunks), cut


def _encode(task: Task, examples: Examples, batch: slice, settings: Tokenising) -> Encoded:
    return encode_batch(
        task,
        examples.texts[batch],
        None if examples.targets is None else examples.targets[batch],
        settings.tokenizer,
        settings.max_length,
        settings.stride,
        task.max_target_length or settings.max_target_length,
        settings.decoder_only,
    )


def _encode_windows(task: Task, split: str, examples: Examples, batch: slice, settings: Tokenising) -> Encoded:
    try:
        encoded = encode_windows(
            examples.texts[batch],
            None if examples.spans is None else examples.spans[batch],
            settings.tokenizer,
            settings.max_length,
            settings.stride,
            task.max_target_length or settings.max_target_length,
            settings.decoder_only,
            _keeps_null_windows(task, split),
        )
    except NoRoomError as failure:
        raise DataError(
            f"{examples.where(batch.start + failure.example)}: the question of task '{task.name}' takes "
            f"{failure.tokens} tokens, which leaves no room for the context within max_length {settings.max_length}; "
            "raise data.max_length or shorten the question"
        ) from None
    columns = {"input_ids": encoded.input_ids, "example": encoded.examples, "window": encoded.characters}
    if encoded.target_ids is not None:
        columns["target_ids"] = encoded.target_ids
    return Encoded(columns, cut_answers=encoded.too_long, empty=encoded.empty)


def _keeps_null_windows(task: Task, split: str) -> bool:
    """Return whether windows without an answer become items: what is evaluated must show every window."""
    return task.null_windows == "keep" or split != "train"


def _report_cut(task: Task, split: str, examples: Examples, cut: Cut, settings: Tokenising) -> None:
    what, limit = "are", settings.max_length
    if task.kind == "span":
        what, limit = "have a question", settings.max_length // 2
    _report(task, split, examples, cut.inputs, f"{what} longer than {limit} tokens", "max_length", settings)
    longest = task.max_target_length or settings.max_target_length
    if cut.answers and task.known_answers is not None:
        raise DataError(
            f"{examples.where(cut.answers[0])}: the answer has more tokens than max_target_length ({longest}) allows "
            f"task '{task.name}': cut, it is none of the task's answers; raise it"
        )
    what = f"have an answer longer than {longest} tokens"
    _report(task, split, examples, cut.answers, what, "max_target_length", settings)


def _report(
    task: Task, split: str, examples: Examples, indices: list[int], what: str, setting: str, settings: Tokenising
) -> None:
    if not indices:
        return
    found = f"task '{task.name}', {split}: {len(indices):,} of {len(examples):,} examples {what}"
    if settings.on_too_long == "error":
        raise DataError(
            f"{found}, the first at {examples.where(indices[0])}; raise {setting}, shorten them, "
            "or set on_too_long: truncate"
        )
    _warn_once("%s and were cut", found)


@cache
def _warn_once(message: str, found: str) -> None:
    """Log a warning the first time only: features are asked for again by each evaluation."""
    logger.warning(message, found)


def _content_key(task: Task, split: str, examples: Examples, settings: Tokenising) -> str:
    """Return a hash of all that the items depend on."""
    tokenizer = tokenizer_content(settings.tokenizer)
    parts: list[Any] = [FORMAT_VERSION, task.kind, settings.max_length, settings.stride, tokenizer]
    if task.kind in GENERATIVE_KINDS:
        parts += [task.max_target_length or settings.max_target_length, settings.decoder_only]
    if task.windows:
        parts += ["windows", _keeps_null_windows(task, split)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for texts in examples.texts:
        digest.update(json.dumps(texts).encode())
    digest.update(json.dumps(examples.spans if task.windows else examples.targets).encode())
    return digest.hexdigest()


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    backend: Any = tokenizer.backend_tokenizer
    serialized = json.loads(backend.to_str())
    # The state that the last call left behind, not part of what the tokenizer is.
    del serialized["truncation"], serialized["padding"]
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    return [serialized, tokenizer.model_input_names, tokenizer.truncation_side, special]


def _write_entry(entry: Path, stored: datasets.Dataset, cut: Cut) -> None:
    try:
        with staged_folder(entry) as partial, _no_progress_bars():
            stored.save_to_disk(partial)
            summary = {"items": len(stored), "tokens": int(token_counts(stored).sum()), "cut": asdict(cut)}
            (partial / "features.json").write_text(json.dumps(summary), "utf-8")
    except OSError as failure:
        # Another process (a rank of a distributed run) may have put the same entry there meanwhile.
        if _read_entry(entry) is None:
            raise DataError(
                f"cannot write the cache folder {entry.parent} ({failure}); name another one with data.cache "
                "or TASKLOOM_CACHE"
            ) from None


def _read_entry(entry: Path) -> tuple[datasets.Dataset, Cut] | None:
    """Return the stored items and which examples were cut, or None without a sound entry."""
    if not entry.is_dir():
        return None
    try:
        summary = json.loads((entry / "features.json").read_text("utf-8"))
        stored = datasets.Dataset.load_from_disk(entry)
        tokens = int(token_counts(stored).sum())
        if (len(stored), tokens) != (summary["items"], summary["tokens"]):
            raise ValueError(f"{len(stored)} items of {tokens} tokens instead of {summary}")
        return stored, Cut(**summary["cut"])
    except (OSError, ValueError, KeyError, TypeError) as failure:
        logger.warning("the cache entry %s is damaged and is made again (%s)", entry, failure)
        return None


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
