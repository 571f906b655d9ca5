"""A stream of documents applied to a model, in a folder from which it can go on after a kill.

FOLDER/
  documents.jsonl     one entry a document of the stream: what it did, or why it was passed over
  checkpoints/        stream-N: parameters, optimizer and how many entries of documents.jsonl they stand for

Entries are written as documents come; those after the checkpoint are dropped when the stream is taken up again, and
their documents applied again, to the model as it was before them. Documents are told apart by their text, so a stream
may be given again from its beginning (a folder, a file) or from where it stopped (standard input).

Of several processes the main one reads the stream, tells the others each document, and writes; all make the same
updates, so that they can share what comes between these, such as the answers to questions.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import load_file, save_file

from taskloom.errors import DataError, RunError
from taskloom.interrupts import Interrupts
from taskloom.metrics_log import MetricsLog
from taskloom.online.adaptation import Adaptation, Update
from taskloom.online.stream import StreamItem
from taskloom.processes import any_of, is_main, on_main, world_size
from taskloom.storage import remove_partial, staged_folder

__all__ = ["DivergedError", "StreamCounts", "StreamRun"]

STATE_FILE = "state.safetensors"
POSITION_FILE = "position.json"
#: Documents in a row whose loss or gradient is not finite: then the model is lost, not the document.
MOST_FAILURES = 5


class DivergedError(RunError):
    """The loss of several documents in a row is not finite."""


@dataclass
class StreamCounts:
    """How many documents of a stream were applied, and how many were passed over and why."""

    applied: int = 0
    duplicates: int = 0
    skipped: int = 0
    tokens: int = 0

    def __str__(self) -> str:
        parts = [f"{self.applied:,} documents applied ({self.tokens:,} tokens)"]
        parts += [f"{self.duplicates:,} duplicates passed over"] if self.duplicates else []
        parts += [f"{self.skipped:,} skipped"] if self.skipped else []
        return ", ".join(parts)


class StreamRun:
    """Applies documents to a model and keeps count.

    Args:
        adaptation: what updates the model.
        encode: a text's parts, as `taskloom.online.encode.encode_documents` makes them.
        folder: see above; None keeps nothing.
        resume: go on from the folder's latest checkpoint.
        checkpoint_every: documents between two checkpoints.
        deduplicate: pass over a document whose text was there before.
        console: for a message when an interrupt is put off.

    Raises:
        RunError: the checkpoint is of another model.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        encode: Callable[[str], list[dict[str, Any]]],
        folder: Path | None = None,
        *,
        resume: bool = False,
        checkpoint_every: int = 200,
        deduplicate: bool = True,
        console: Console | None = None,
    ) -> None:
        self.adaptation = adaptation
        self.encode = encode
        self.checkpoint_every = checkpoint_every
        self.deduplicate = deduplicate
        self.console = console or Console(quiet=True)
        self.counts = StreamCounts()
        self.checkpoints = None if folder is None else folder / "checkpoints"
        self.log = None if folder is None else MetricsLog(folder / "documents.jsonl")
        self._handled: Counter[str] = Counter()
        self._applied: set[str] = set()
        self._entries = 0
        self._failures = 0
        self._under_way = False
        if folder is not None:
            self._take_up(folder, resume)

    def _take_up(self, folder: Path, resume: bool) -> None:
        assert self.log is not None
        log = self.log

        def made_ready() -> tuple[Path | None, int, list[dict[str, Any]]]:
            folder.mkdir(parents=True, exist_ok=True)
            remove_partial(folder)
            checkpoint = _latest(folder / "checkpoints") if resume else None
            position = (
                {"entries": 0} if checkpoint is None else json.loads((checkpoint / POSITION_FILE).read_text("utf-8"))
            )
            log.truncate(int(position["entries"]))
            return checkpoint, int(position["entries"]), log.read()

        checkpoint, entries, handled = on_main(made_ready)
        if checkpoint is not None:
            try:
                self.adaptation.load_state_dict(load_file(checkpoint / STATE_FILE))
            except ValueError as error:
                raise RunError(f"{checkpoint}: {error}. Choose another folder with output=FOLDER") from error
        for entry in handled:
            self._count(entry)
        if self._entries != entries:
            raise RunError(
                f"{self.log.path}: holds {self._entries} documents, but the checkpoint is of {entries}: the file was "
                "changed, and what was applied can no longer be told. Choose another folder with output=FOLDER"
            )

    # Documents

    def __call__(
        self, items: Iterable[StreamItem], on_document: Callable[["StreamRun"], None] | None = None, epoch: int = 0
    ) -> StreamCounts:
        """Apply the documents of a stream that were not handled before, and save where it ends.

        Args:
            items: the stream.
            on_document: called after each document that was applied.
            epoch: the pass over the stream; documents of another pass are no duplicates.

        Raises:
            DivergedError: the loss is no longer finite.
        """
        seen: Counter[str] = Counter()
        saved = self._entries
        stream = iter(items)
        message = "Stopping after this document. Interrupt again to stop at once."
        # A launcher passes on the interrupt that the terminal sent to its processes as well.
        interrupts = Interrupts(lambda: self.console.print(message), 5.0 if world_size() > 1 else 0.0)
        interrupts.watch()
        try:
            while not any_of(interrupts.requested):
                with interrupts.waiting():  # standard input may keep us waiting
                    item = on_main(lambda: _next(stream))
                if not isinstance(item, StreamItem):
                    break
                key = f"{epoch}:{item.digest or f'{item.name} {item.reason}'}"
                seen[key] += 1
                if seen[key] <= self._handled[key]:
                    continue  # before the stream was taken up again
                self._under_way = True
                status = self._handle(item, key)
                if on_document is not None and status == "applied":
                    on_document(self)
                self._under_way = False
                if self._entries - saved >= self.checkpoint_every:
                    self.save()
                    saved = self._entries
            else:
                raise KeyboardInterrupt
        except (KeyboardInterrupt, DataError):  # the latter of a stream that is read strictly
            if self._entries and not self._under_way:
                self.save()
            raise
        finally:
            interrupts.restore()
        self.adaptation.step()
        self.save()
        return self.counts

    def _handle(self, item: StreamItem, key: str) -> str:
        """Apply a document or pass over it, and return its status."""
        entry: dict[str, Any] = {"name": item.name, "key": key}
        if item.text is None:
            entry |= {"status": "skipped", "reason": item.reason}
        elif self.deduplicate and key in self._applied:
            entry |= {"status": "duplicate", "reason": "its text was there before"}
        else:
            entry |= self._apply(item.text)
        self._count(entry)
        if self.log is not None and is_main():
            self.log.append({"step": self._entries, **entry})
        if self._failures >= MOST_FAILURES:
            raise DivergedError(
                f"{item.name}: the loss of {MOST_FAILURES} documents in a row is not finite: the model has diverged. "
                "Lower adapt.learning_rate, or clip more (adapt.max_grad_norm)"
            )
        return entry["status"]

    def _apply(self, text: str) -> dict[str, Any]:
        parts = [part for part in self.encode(text) if part["input_ids"].shape[1] > 1]
        if not parts:
            return {"status": "skipped", "reason": "too short: fewer than two tokens"}
        updates = [self.adaptation.update(part) for part in parts]
        self._failures = 0 if any(update.applied for update in updates) else self._failures + 1
        finite = [update for update in updates if update.applied]
        if not finite:
            return {"status": "skipped", "reason": "its loss or gradient is not finite"}
        return {"status": "applied", **_summary(finite)}

    def _count(self, entry: dict[str, Any]) -> None:
        self._entries += 1
        self._handled[entry["key"]] += 1
        match entry["status"]:
            case "applied":
                self._applied.add(entry["key"])
                self.counts.applied += 1
                self.counts.tokens += entry["tokens"]
            case "duplicate":
                self.counts.duplicates += 1
            case _:
                self.counts.skipped += 1

    # Checkpoints

    def save(self) -> None:
        """Write a checkpoint, and only then remove the one before it."""
        if self.checkpoints is None or not is_main():
            return
        final = self.checkpoints / f"stream-{self._entries}"
        if not final.exists():
            with staged_folder(final) as folder:
                save_file(self.adaptation.state_dict(), folder / STATE_FILE)
                (folder / POSITION_FILE).write_text(
                    json.dumps({"entries": self._entries, **asdict(self.counts)}), "utf-8"
                )
        for outdated in self.checkpoints.glob("stream-*"):
            if outdated != final:
                shutil.rmtree(outdated, ignore_errors=True)


def _summary(updates: list[Update]) -> dict[str, Any]:
    tokens = sum(update.tokens for update in updates)
    norms = [update.grad_norm for update in updates if update.grad_norm is not None]
    return {
        "parts": len(updates),
        "tokens": tokens,
        "loss": sum(update.loss * update.tokens for update in updates) / tokens,
        "mean_weight": sum(update.mean_weight * update.tokens for update in updates) / tokens,
        "grad_norm": norms[-1] if norms else None,
    }


def _next(stream: Iterator[StreamItem]) -> StreamItem | None:
    return next(stream, None)


def _latest(checkpoints: Path) -> Path | None:
    numbered = ((re.fullmatch(r"stream-(\d+)", path.name), path) for path in checkpoints.glob("stream-*"))
    found = {int(match.group(1)): path for match, path in numbered if match}
    return found[max(found)] if found else None
