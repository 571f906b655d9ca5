"""Only named entities count: fine-tuning on salient spans, a baseline of CaMeLS (section 5.1)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from taskloom.errors import UserError
from taskloom.online.weighters.text import TextWeighter

if TYPE_CHECKING:
    from spacy.language import Language

__all__ = ["IGNORED_ENTITIES", "SalientSpanWeighter"]

#: Types of entities that are not salient, as published.
IGNORED_ENTITIES = ("TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL")

# Parts of spaCy's pipelines that take time and do not serve its entities.
_UNUSED = ["tagger", "morphologizer", "parser", "senter", "attribute_ruler", "lemmatizer", "trainable_lemmatizer"]


class SalientSpanWeighter(TextWeighter):
    """Give tokens that share a character with a named entity weight 1, all others 0.

    Args:
        tokenizer: the fast tokenizer of the input identifiers.
        ignore: types of entities (spaCy's labels) that do not count.
        language: a loaded spaCy pipeline, or the name or folder of one.

    Raises:
        UserError: spaCy or the pipeline is not installed, or the pipeline finds no entities.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        ignore: Sequence[str] = IGNORED_ENTITIES,
        language: "str | Language" = "en_core_web_sm",
    ):
        super().__init__(tokenizer)
        self.ignore = frozenset(ignore)
        self.language = _load(language) if isinstance(language, str) else language
        parts = self.language.pipe_names
        if not any("doc.ents" in self.language.get_pipe_meta(part).assigns for part in parts):
            raise UserError(
                f"weighter.language: the spaCy pipeline '{self.language.meta['name']}' finds no named entities (its "
                f"parts: {', '.join(parts) or 'none'}). Name one with the part 'ner', such as en_core_web_sm."
            )

    def character_weights(self, texts: Sequence[str]) -> list[np.ndarray]:
        weights = [np.zeros(len(text)) for text in texts]
        for document, row in zip(self.language.pipe(texts), weights, strict=True):
            for entity in document.ents:
                if entity.label_ not in self.ignore:
                    row[entity.start_char : entity.end_char] = 1.0
        return weights


def _load(name: str) -> "Language":
    try:
        import spacy
    except ModuleNotFoundError as error:
        raise UserError(
            'The salient weighter needs spaCy, which is not installed. Install it with: pip install "taskloom[online]" '
            f"and its model with: python -m spacy download {name}"
        ) from error
    try:
        return spacy.load(name, exclude=_UNUSED)
    except OSError as error:
        raise UserError(
            f"weighter.language: the spaCy pipeline '{name}' is not installed. Install it with: "
            f"python -m spacy download {name} (or give the name of an installed pipeline, or its folder)"
        ) from error
