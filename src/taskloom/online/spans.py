"""Where each token of a document stands in its text: token identifiers to character spans, exactly.

Weights come from words and entities (CaMeLS, section 5.1: salient spans; TF-IDF), or from a model with another
tokenizer, and go to the tokens of the language model that learns. Character spans are what all of them share.
"""

import codecs
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["token_spans"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_REPLACEMENT = "\ufffd"


def token_spans(ids: Sequence[int], tokenizer: Any) -> tuple[str, np.ndarray]:
    """Decode a document and say which characters each of its tokens stands for.

    The time taken grows in proportion to the number of tokens.

    Args:
        ids: token identifiers, without padding.
        tokenizer: a fast tokenizer of transformers.

    Returns:
        The text (what `tokenizer.decode` gives without special tokens and without cleaning up spaces), and an
        array[tokens, 2] of the start and end of each token in it, in characters. A token's span has its leading
        space. Where a character's bytes are split over several tokens, the span of each of them has that character.
        Special tokens, and numbers that are no token, have empty spans.

    Raises:
        ValueError: the tokenizer decodes in a way that cannot be traced to its tokens.
    """
    backend = tokenizer.backend_tokenizer
    special = set(tokenizer.all_special_ids)
    special.update(index for index, token in backend.get_added_tokens_decoder().items() if token.special)
    tokens = [None if index in special else backend.id_to_token(index) for index in ids]
    kept = [position for position, token in enumerate(tokens) if token is not None]
    kept_ids, kept_tokens = [ids[position] for position in kept], [token for token in tokens if token is not None]
    decoders = _decoder_types(backend.decoder)
    if "ByteLevel" in decoders:
        text, kept_spans = _byte_level(kept_tokens)
    else:
        pieces = _pieces(kept_ids, backend)
        text, kept_spans = _joined(pieces, kept_tokens if "ByteFallback" in decoders else [])
    decoded = backend.decode(kept_ids, skip_special_tokens=False)
    stripped = len(text) - len(decoded)
    if stripped > 0 and text == " " * stripped + decoded:  # of a text that begins with the byte of a space
        text, kept_spans = decoded, np.maximum(kept_spans - stripped, 0)
    if text != decoded:
        raise ValueError(f"`tokenizer` decodes by {' + '.join(decoders)}, which cannot be traced to single tokens")

    spans = np.zeros((len(ids), 2), dtype=np.int64)
    spans[kept] = kept_spans
    # A token without text stands, empty, where the text before it ends.
    ends = np.maximum.accumulate(spans[:, 1]) if len(ids) else spans[:, 1]
    without = np.ones(len(ids), dtype=bool)
    without[kept] = False
    spans[without] = ends[without, None]
    return text, spans


def _decoder_types(decoder: Any) -> list[str]:
    """Return what a decoder of `tokenizers` consists of, in order."""
    if decoder is None:
        return []
    state = json.loads(decoder.__getstate__())
    return [part["type"] for part in state.get("decoders", [state])]


def _byte_level(tokens: list[str]) -> tuple[str, np.ndarray]:
    # The tokens' bytes make up the text; only together are they characters.
    token_bytes = [_bytes_of(token) for token in tokens]
    text, character_of_byte = _characters(b"".join(token_bytes))
    lengths = np.array([len(part) for part in token_bytes], dtype=np.int64)
    ends = np.cumsum(lengths)
    character_of_byte = np.append(character_of_byte, len(text))
    first = character_of_byte[ends - lengths]
    return text, np.stack([first, np.where(lengths > 0, character_of_byte[ends - 1] + 1, first)], axis=1)


def _bytes_of(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF_LETTER[letter] for letter in token)
    except KeyError:  # an added token, which is written as it is
        return token.encode("utf-8")


def _characters(data: bytes) -> tuple[str, np.ndarray]:
    """Return the text of bytes, and of each byte the character to which it belongs."""
    marked = data.decode("utf-8", _MARK_INVALID)
    codes = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    invalid = (codes >= 0xDC00) & (codes <= 0xDFFF)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    widths = np.where(invalid, codes.astype(np.int64) - 0xDC00, widths)
    text = "".join(_REPLACEMENT if "\udc00" <= letter <= "\udfff" else letter for letter in marked)
    return text, np.repeat(np.arange(len(codes)), widths)


def _mark_invalid(error: UnicodeError) -> tuple[str, int]:
    # Bytes that are no character become one replacement character. Its width is kept in a lone surrogate, which no
    # valid bytes give.
    assert isinstance(error, UnicodeDecodeError)
    return chr(0xDC00 + error.end - error.start), error.end


_MARK_INVALID = "taskloom.mark_invalid"
codecs.register_error(_MARK_INVALID, _mark_invalid)


def _letters_of_bytes() -> list[str]:
    # Byte-level tokenizers write each byte as a visible letter: itself if it is one in Latin-1, else from U+0100 on.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(shifted)) for byte in range(256)]


_BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(_letters_of_bytes())}


def _pieces(ids: list[int], backend: Any) -> list[str]:
    # What a token adds depends on it and on the one before (a space between words, none before a full stop).
    alone = backend.decode_batch([[index] for index in ids], skip_special_tokens=False)
    pairs = backend.decode_batch([ids[i : i + 2] for i in range(len(ids) - 1)], skip_special_tokens=False)
    return alone[:1] + [pair[len(before) :] for pair, before in zip(pairs, alone, strict=False)]


def _joined(pieces: list[str], byte_tokens: list[str]) -> tuple[str, np.ndarray]:
    """Return the text of pieces and the span of each; runs of tokens like <0xE6> are characters only together."""
    spans = np.empty((len(pieces), 2), dtype=np.int64)
    text, length, position = [], 0, 0
    while position < len(pieces):
        run = _byte_run(byte_tokens, position)
        part, owner = pieces[position], np.zeros(1, dtype=np.int64)
        if len(run) > 1:
            try:
                part, owner = run.decode("utf-8"), _characters(run)[1]
            except UnicodeDecodeError:  # then no byte of the run is part of a character
                part, owner = _REPLACEMENT * len(run), np.arange(len(run))
        after = position + len(owner)
        spans[position:after, 0] = length + owner
        spans[position:after, 1] = length + (owner + 1 if len(run) > 1 else len(part))
        text.append(part)
        length += len(part)
        position = after
    return "".join(text), spans


def _byte_run(tokens: list[str], start: int) -> bytes:
    run = bytearray()
    for position in range(start, len(tokens)):
        match = _BYTE_TOKEN.fullmatch(tokens[position])
        if match is None:
            break
        run.append(int(match[1], 16))
    return bytes(run)
