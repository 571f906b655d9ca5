"""Where the modules that CA-MTL wraps are found in an encoder, by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from taskloom.adapters.wrapping import outermost_names
from taskloom.errors import UserError

__all__ = ["EncoderModules", "LayerModules", "find_encoder"]


@dataclass(frozen=True)
class _Names:
    """What an encoder family calls its modules: embeddings and layers within the encoder, the others within a layer."""

    embeddings: tuple[str, ...] = ("embeddings",)
    layers: str = "encoder.layer"
    attention: str = "attention.self"
    attention_norm: str = "attention.output.LayerNorm"
    output_norm: str = "output.LayerNorm"


_BERT = _Names()

_KNOWN: dict[str, _Names] = {
    "bert": _BERT,
    "bert-generation": _BERT,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    # ELECTRA's small models project the embeddings to the hidden size; that is where they enter the layers.
    "electra": _Names(embeddings=("embeddings", "embeddings_project")),
    "ernie": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": _Names(
        layers="transformer.layer",
        attention="attention",
        attention_norm="sa_layer_norm",
        output_norm="output_layer_norm",
    ),
    "mpnet": _Names(attention="attention.attn", attention_norm="attention.LayerNorm"),
}


@dataclass(frozen=True)
class LayerModules:
    """Full names of one transformer layer and of the modules in it."""

    layer: str
    attention: str
    attention_norm: str
    output_norm: str


@dataclass(frozen=True)
class EncoderModules:
    """Full names of an encoder's modules. The last of `embeddings` puts out what enters the first layer."""

    embeddings: tuple[str, ...]
    layers: tuple[LayerModules, ...]


def find_encoder(model: nn.Module, names: Mapping[str, str] | None = None) -> EncoderModules:
    """Return the names of the encoder's modules in `model`, which may be wrapped by adapters already.

    Args:
        model: A transformers model with or without a head, or a PeftModel of one.
        names: The names to look for, as in `CAMTLSettings.encoder_modules`; None looks the model's type up.

    Raises UserError if the type is unknown or a module is missing.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if names is not None:
        family = _Names(**{**names, "embeddings": (names["embeddings"],)})
    elif model_type in _KNOWN:
        family = _KNOWN[model_type]
    else:
        raise UserError(
            f"CA-MTL does not know the module names of {type(model).__name__} (model type {model_type!r}). Name them "
            "in `encoder_modules`: embeddings, layers, attention, attention_norm and output_norm. "
            f"Known model types: {', '.join(sorted(_KNOWN))}."
        )

    full_names = outermost_names(model)

    def find(plain: str) -> str:
        if plain not in full_names:
            raise UserError(
                f"CA-MTL looked for the module '{plain}' in {type(model).__name__} and did not find it. If the "
                "encoder calls it otherwise, say so in `encoder_modules`."
            )
        return full_names[plain]

    lists = [name for name in full_names if name == family.layers or name.endswith(f".{family.layers}")]
    if len(lists) != 1:
        raise UserError(
            f"CA-MTL looked for one list of layers called '{family.layers}' in {type(model).__name__} and found "
            f"{len(lists)}. If the encoder calls it otherwise, say so in `encoder_modules`."
        )
    root = lists[0].removesuffix(family.layers)
    first, *optional = family.embeddings
    embeddings = [find(root + first), *(full_names[root + name] for name in optional if root + name in full_names)]
    layers = []
    for index in range(len(model.get_submodule(full_names[lists[0]]))):  # type: ignore[arg-type]
        layer = f"{lists[0]}.{index}"
        parts = (family.attention, family.attention_norm, family.output_norm)
        layers.append(LayerModules(find(layer), *(find(f"{layer}.{part}") for part in parts)))
    return EncoderModules(tuple(embeddings), tuple(layers))
