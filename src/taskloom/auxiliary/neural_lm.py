"""Text that a causal language model writes, as data of auxiliary objectives (paper, section 3: Neural-LM).

The original takes a file that was generated beforehand. Here the texts are written when they are first asked for: each
goes on from the first tokens of a random training text. They are kept under a hash of all that they depend on, a batch
at a time, so that a killed process loses one batch at most.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from taskloom.auxiliary.template import RowTemplate
from taskloom.backbones import find_family, load_language_model, load_tokenizer
from taskloom.errors import DataError, RecipeError, UserError
from taskloom.locks import FolderLock
from taskloom.progress import counted
from taskloom.recipe.auxiliary import NeuralLMSection

__all__ = ["generated_documents"]

#: Raise this when what is generated changes: older files are then no longer found.
FORMAT_VERSION = 1


def generated_documents(
    settings: NeuralLMSection,
    texts: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    console: Console | None = None,
    device: str | torch.device | None = None,
) -> list[str]:
    """Return texts that begin as some of `texts` do and go on as the language model does.

    Args:
        settings: the model, and how much it writes and how.
        texts: what the prompts are the first tokens of.
        folder: keeps ``documents.jsonl`` (field ``text``) in a folder for each setting.
        seed: chooses prompts and samples.
        console: where the progress is shown; None is quiet.
        device: where the model runs; by default the first GPU, or the CPU without one.

    Raises:
        UserError: the model is not there, or is not a causal language model.
        RecipeError: prompt and new tokens are more than the model takes.
        DataError: the folder cannot be written.
        RunError: another process is writing the same texts.
    """
    prompts = [text for text in texts if text.strip()]
    entry = folder / _content_key(settings, prompts, seed)
    finished = entry / "documents.jsonl"
    if not finished.is_file():
        try:
            entry.mkdir(parents=True, exist_ok=True)
        except OSError as failure:
            raise DataError(
                f"cannot write the cache folder {folder} ({failure}); name another one with data.cache or "
                "TASKLOOM_CACHE"
            ) from None
        lock = FolderLock(entry)
        try:
            if not finished.is_file():
                partial = entry / "documents.partial"
                _write(settings, prompts, partial, seed, console, device)
                partial.replace(finished)
        finally:
            lock.release()
    return [text for text in _lines(finished) if text.strip()]


def _write(
    settings: NeuralLMSection,
    texts: Sequence[str],
    partial: Path,
    seed: int,
    console: Console | None,
    device: str | torch.device | None,
) -> None:
    """Append to `partial` the batches that it lacks; what follows its last whole batch is cut off."""
    kept = _keep_whole_batches(partial, settings.batch_size)
    writer = _Writer(settings, device)
    order: list[int] = _order(len(texts), settings.documents, seed).tolist()
    with (
        partial.open("a", encoding="utf-8") as file,
        counted(console, "Writing neural-lm text", settings.documents, "texts") as advance,
    ):
        advance(kept)
        for first in range(kept, settings.documents, settings.batch_size):
            last = min(first + settings.batch_size, settings.documents)
            chosen = [texts[index] for index in order[first:last]]
            batch = writer(chosen, _batch_seed(seed, first))
            file.write("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in batch))
            file.flush()
            os.fsync(file.fileno())
            advance(last - first)


class _Writer:
    """A causal language model that continues texts."""

    def __init__(self, settings: NeuralLMSection, device: str | torch.device | None) -> None:
        path: Any = settings.model
        self.settings = settings
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        source: dict[str, Any] = {"revision": settings.revision, "gguf_file": settings.gguf_file}
        try:
            # Transformers would let a BERT write, which knows no next word.
            if (family := find_family(path, **source)) != "decoder":
                raise RecipeError(
                    f"neural_lm.model: '{path}' is an {family.replace('_', '-')}, which does not go on with a text; "
                    "name a causal language model such as gpt2"
                )
            self.tokenizer = load_tokenizer(path, **source)
            model: Any = load_language_model(path, family="decoder", **source)
        except UserError as error:  # it names the field of the model that is trained
            raise type(error)(str(error).replace("model.path:", "neural_lm.model:", 1)) from error
        self.model = model.to(self.device).eval()
        most = getattr(model.config, "max_position_embeddings", None)
        template = RowTemplate(self.tokenizer, settings.prompt_tokens)
        self.prefix, self.padding = template.prefix, template.padding
        needed = len(self.prefix) + settings.prompt_tokens + settings.new_tokens
        if most is not None and needed > most:
            raise RecipeError(
                f"neural_lm.new_tokens: a text of {needed} tokens (prompt and new ones) is longer than the {most} that "
                f"{path} takes; lower neural_lm.new_tokens or neural_lm.prompt_tokens"
            )

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], seed: int) -> list[str]:
        """Return the continued texts, the same for the same seed on the same kind of device."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        prompts = [[*self.prefix, *ids[: self.settings.prompt_tokens]] or [self.padding] for ids in encoded]
        width = max(map(len, prompts))
        ids = torch.tensor([[self.padding] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            written = self.model.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                do_sample=True,
                temperature=self.settings.temperature,
                top_p=self.settings.top_p,
                top_k=0,
                max_new_tokens=self.settings.new_tokens,
                pad_token_id=self.padding,
            )
        return [text.strip() for text in self.tokenizer.batch_decode(written.cpu(), skip_special_tokens=True)]


def _batch_seed(seed: int, first: int) -> int:
    return int(np.random.SeedSequence([seed, first]).generate_state(1)[0])


def _order(texts: int, documents: int, seed: int) -> np.ndarray:
    """Return the text that each document begins as: all of them in random order, then all again."""
    generator = np.random.default_rng(seed)
    rounds = [generator.permutation(texts) for _ in range(-(-documents // texts))]
    return np.concatenate(rounds)[:documents]


def _keep_whole_batches(partial: Path, batch_size: int) -> int:
    """Cut a file of texts after its last whole batch, and return how many texts stay."""
    if not partial.is_file():
        return 0
    lines = partial.read_bytes().split(b"\n")[:-1]  # what follows the last line feed is half a line
    kept = len(lines) // batch_size * batch_size
    with partial.open("r+b") as file:
        file.truncate(sum(len(line) + 1 for line in lines[:kept]))
    return kept


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def _content_key(settings: NeuralLMSection, texts: Sequence[str], seed: int) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, settings.model_dump(mode="json"), seed]).encode())
    for text in texts:
        digest.update(json.dumps(text).encode())
    return digest.hexdigest()[:24]
