"""Weights that are learned: a small language model with a head for each token (CaMeLS, section 3).

The paper's w_phi: the hidden states of a causal language model, an MLP of one hidden layer whose last layer starts
at zero, and softplus. Every token starts with the same weight, log(2) / beta.
"""

import copy
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from taskloom.backbones import load_language_model, load_tokenizer
from taskloom.errors import RunError, UserError
from taskloom.online.spans import token_spans
from taskloom.online.weighters.carry import carry_matrix
from taskloom.online.weighters.folder import read_settings, read_tensors, write_weighter
from taskloom.storage import staged_folder

__all__ = ["LearnedWeighter"]

Activation: TypeAlias = Literal["softplus", "sigmoid", "exp", "gelu"] | None

_ACTIVATIONS = ("softplus", "sigmoid", "exp", "gelu", None)


class LearnedWeighter(nn.Module):
    """A causal language model's body and an MLP: weights that depend on the text up to and with each token.

    A document's weights do not depend on its padding, nor on the rest of the batch.

    Args:
        backbone: a causal language model, or its body; its language-modelling head is not used.
        tokenizer: the backbone's fast tokenizer.
        width: of the MLP's hidden layer.
        activation: what makes weights of the MLP's outputs; None is none: weights may be negative.
        beta: softplus is log(1 + exp(beta x)) / beta.
        freeze_base: train the MLP alone; no gradient is computed in the body.
        normalize: scale a document's weights so that they add up to the number of its tokens.
        for_tokenizer: the tokenizer of the input identifiers, if it is another. The document is then decoded and
            encoded again, and weights come back by shared characters; input tokens without text, such as special
            ones, have weight 0.

    Raises:
        ValueError: the backbone is no causal language model, or an option is out of range.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: Any,
        *,
        width: int = 128,
        activation: Activation = "softplus",
        beta: float = 3.0,
        freeze_base: bool = False,
        normalize: bool = False,
        for_tokenizer: Any | None = None,
    ):
        super().__init__()
        if backbone.config.is_encoder_decoder:
            raise ValueError(f"`backbone` must be a causal language model, found {backbone.config.model_type}")
        if activation not in _ACTIVATIONS:
            known = ", ".join(map(repr, _ACTIVATIONS))
            raise ValueError(f"`activation` must be one of {known}, found {activation!r}")
        if width < 1 or beta <= 0:
            raise ValueError(f"`width` and `beta` must be above 0, found {width} and {beta}")
        if normalize and activation in ("gelu", None):
            raise ValueError(f"`normalize` needs weights above 0, which activation {activation!r} does not give")
        self.body: Any = backbone.base_model
        self.tokenizer = tokenizer
        self.width, self.activation, self.beta = width, activation, beta
        self.freeze_base, self.normalize = freeze_base, normalize
        hidden = self.body.config.hidden_size
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(hidden, width), nn.GELU(), last).to(self.body.device)
        if freeze_base:
            self.body.requires_grad_(False)
        same = for_tokenizer is None or for_tokenizer.get_vocab() == tokenizer.get_vocab()
        #: The tokenizer of the input identifiers if it is another than the weighter's own.
        self.for_tokenizer = None if same else for_tokenizer

    @classmethod
    def from_backbone(
        cls,
        path: str,
        *,
        layers: int | None = None,
        revision: str | None = None,
        gguf_file: str | None = None,
        attention: str = "sdpa",
        trust_remote_code: bool = False,
        **options: Any,
    ) -> "LearnedWeighter":
        """Start from a pretrained language model.

        Args:
            path: hub id, folder or ``package:`` path.
            layers: keep only the first blocks of the model.
            revision: branch, tag or commit on the hub.
            gguf_file: name of a GGUF file in the folder.
            attention: ``"sdpa"`` or ``"eager"``.
            trust_remote_code: run code that comes with the model.
            **options: those of `LearnedWeighter`.

        Raises:
            UserError: the model cannot be loaded, or cut after `layers` blocks.
        """
        source: dict[str, Any] = {"revision": revision, "gguf_file": gguf_file, "trust_remote_code": trust_remote_code}
        body: Any = load_language_model(path, family="decoder", attention=attention, **source).base_model
        if layers is not None:
            _keep_layers(body, layers)
        return cls(body, load_tokenizer(path, **source), **options)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return weights[batch, tokens], 0 on padding."""
        mask = attention_mask.bool()
        scores = self._carried_over if self.for_tokenizer is not None else self._weigh
        weights = scores(input_ids, mask)
        if self.normalize:
            total = weights.sum(dim=1, keepdim=True)
            # A document of nothing but special tokens may have no weight at all.
            weights = weights * torch.where(total > 0, mask.sum(dim=1, keepdim=True) / total.where(total > 0, 1.0), 0.0)
        return weights

    def _weigh(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        # Real tokens first, in order: then the default positions are right for every model, and causal attention
        # never looks at padding.
        order = torch.argsort(mask.int(), dim=1, descending=True, stable=True)
        real = mask.gather(1, order)
        # Any identifier would do behind them, but transformers warns of padding without a mask.
        ids = input_ids.gather(1, order).masked_fill(~real, int(self.body.config.pad_token_id == 0))
        width = max(int(mask.sum(dim=1).max()), 1)
        parameter = next(self.head.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_base):
            hidden = self._hidden(ids[:, :width].to(parameter.device))
        weights = self._activate(self.head(hidden.to(parameter.dtype)).squeeze(-1)).to(input_ids.device)
        weights = F.pad(weights, (0, mask.shape[1] - width)).masked_fill(~real, 0.0)
        return torch.zeros_like(weights).scatter(1, order, weights)

    def _hidden(self, ids: Tensor) -> Tensor:
        # A document longer than the body was made for is read in parts.
        longest = getattr(self.body.config, "max_position_embeddings", None) or ids.shape[1]
        parts = [self.body(input_ids=part, use_cache=False).last_hidden_state for part in ids.split(longest, dim=1)]
        return torch.cat(parts, dim=1)

    def _activate(self, outputs: Tensor) -> Tensor:
        match self.activation:
            case "softplus":
                return F.softplus(outputs, beta=self.beta)
            case "sigmoid":
                return torch.sigmoid(outputs)
            case "exp":
                return torch.exp(outputs)
            case "gelu":
                return F.gelu(outputs)
            case _:
                return outputs

    def _carried_over(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        rows, columns, values, encoded = [], [], [], []
        places = mask.cpu()
        for row, real in zip(input_ids.cpu(), places, strict=True):
            text, spans = token_spans(row[real].tolist(), self.for_tokenizer)
            own = self.tokenizer(text, return_offsets_mapping=True, truncation=False, verbose=False)
            matrix = carry_matrix(own["offset_mapping"], spans.tolist(), len(text)).tocoo()
            encoded.append(own["input_ids"])
            rows.append(real.nonzero()[:, 0][torch.as_tensor(matrix.row, dtype=torch.long)])
            columns.append(torch.as_tensor(matrix.col, dtype=torch.long))
            values.append(torch.as_tensor(matrix.data))
        own_width = max(1, *map(len, encoded))
        own_ids = torch.zeros(len(encoded), own_width, dtype=torch.long)
        own_mask = torch.zeros(len(encoded), own_width, dtype=torch.bool)
        for position, ids in enumerate(encoded):
            own_ids[position, : len(ids)] = torch.tensor(ids, dtype=torch.long)
            own_mask[position, : len(ids)] = True
        own_weights = self._weigh(own_ids.to(input_ids.device), own_mask.to(input_ids.device))
        batch = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(part) for part in rows]))
        taken = own_weights[batch, torch.cat(columns)] * torch.cat(values).to(own_weights)
        return own_weights.new_zeros(mask.shape).index_put((batch, torch.cat(rows)), taken, accumulate=True)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the weighter's tokenizer; `load` reads them."""
        settings = {
            "width": self.width,
            "activation": self.activation,
            "beta": self.beta,
            "freeze_base": self.freeze_base,
            "normalize": self.normalize,
            "body": self.body.config.to_dict(),
        }
        with staged_folder(folder) as staged:
            write_weighter(staged, "learned", settings, self.state_dict())
            self.tokenizer.save_pretrained(staged)

    @classmethod
    def load(cls, folder: Path, *, for_tokenizer: Any | None = None, attention: str = "sdpa") -> "LearnedWeighter":
        """Read what `save` has written.

        Args:
            folder: the weighter's folder.
            for_tokenizer: the tokenizer of the input identifiers, if it is another than the weighter's.
            attention: ``"sdpa"`` or ``"eager"``.

        Raises:
            RunError: the folder holds no learned weighter, or parameters of another architecture.
        """
        settings = read_settings(folder, "learned")
        tensors = read_tensors(folder)
        config = copy.deepcopy(settings.pop("body"))
        model_type = config.pop("model_type", None)
        kind = f"a weighter with a {model_type} body"
        try:
            described = AutoConfig.for_model(model_type, **config)
            with torch.device("meta"):  # a wrong config.json may describe a model that no memory holds
                shapes = AutoModel.from_config(described, attn_implementation=attention).state_dict()
            own = {f"body.{name}": value for name, value in shapes.items()}
            _refuse_others(
                folder, kind, own, {name: value for name, value in tensors.items() if name.startswith("body.")}
            )
            body = AutoModel.from_config(described, attn_implementation=attention)
        except RunError:
            raise
        except ValueError as error:
            raise RunError(f"{folder}/config.json: body: {str(error).splitlines()[0]}") from error
        try:
            tokenizer = load_tokenizer(str(folder))
        except UserError as error:
            raise RunError(f"{folder}: holds no tokenizer of the weighter. Copy the whole folder.") from error
        weighter = cls(body, tokenizer, for_tokenizer=for_tokenizer, **settings)
        _refuse_others(folder, kind, weighter.state_dict(), tensors)
        body.to(next(tensor.dtype for name, tensor in tensors.items() if name.startswith("body.")))
        weighter.head.to(tensors["head.0.weight"].dtype)
        weighter.load_state_dict(tensors)
        return weighter.eval()


def _refuse_others(folder: Path, expected: str, own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    lacks, more = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
    shapes = [name for name in own if name in found and own[name].shape != found[name].shape]
    problems = [
        *(f"lacks '{name}'" for name in lacks[:1]),
        *(f"has '{name}', which is unknown" for name in more[:1]),
        *(f"has '{name}' of shape {[*found[name].shape]}, not {[*own[name].shape]}" for name in shapes[:1]),
    ]
    if problems:
        count = len(lacks) + len(more) + len(shapes)
        raise RunError(
            f"{folder}: config.json describes {expected}, but model.safetensors is of another architecture: it "
            f"{', '.join(problems)}{f' ({count} parameters differ)' if count > len(problems) else ''}. "
            "Use the folder as it was saved."
        )


def _keep_layers(body: Any, layers: int) -> None:
    """Cut a body after its first blocks, in its configuration too."""
    total = body.config.num_hidden_layers
    if not 1 <= layers <= total:
        raise UserError(f"weighter.layers: must be from 1 to {total}, the blocks of the model; found {layers}.")
    names = [name for name, part in body.named_children() if isinstance(part, nn.ModuleList) and len(part) == total]
    if len(names) != 1:
        raise UserError(f"weighter.layers: the blocks of a {body.config.model_type} model cannot be cut; leave it out.")
    setattr(body, names[0], getattr(body, names[0])[:layers])
    body.config.num_hidden_layers = layers
    for name, value in vars(body.config).items():
        if isinstance(value, list) and len(value) == total:  # a setting for each block, such as layer_types
            setattr(body.config, name, value[:layers])
