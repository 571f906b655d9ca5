"""From hidden states to logits over the vocabulary, with a pretrained model's own head and for any family.

A head in transformers is part of a whole model. Here such a model is a shell: a module that hands on the states it is
given stands where its body was, so what the model computes behind its body (transform, norm, scale) is computed as it
is written there, without code for any one family.
"""

import copy
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from taskloom.backbones import load_pretrained
from taskloom.errors import RecipeError

__all__ = ["VocabularyHead", "load_vocabulary_head", "project", "shell"]


class VocabularyHead(nn.Module):
    """The masked-language-modelling head of an encoder.

    Its parameters are its own: an output embedding that is tied to the encoder's input embedding is read from there,
    trained there and saved there.

    Args:
        model: a masked language model; it loses its body.
        embedding: the input embedding to project to, of the encoder that is trained; None if the head has its own.
        pretrained: whether the checkpoint had weights for the head; else its transform is random.
    """

    def __init__(self, model: PreTrainedModel, embedding: nn.Embedding | None, pretrained: bool) -> None:
        super().__init__()
        output: Any = model.get_output_embeddings()
        name = next(name for name, module in model.named_modules() if module is output)
        self.pretrained = pretrained
        self.transform = shell(model)
        self.transform.set_submodule(name, nn.Identity())
        self.bias: nn.Parameter | None = getattr(output, "bias", None)
        # Many families hold the bias twice; two names for one parameter could not be saved.
        for module in self.transform.modules():
            for own, parameter in module.named_parameters(recurse=False):
                if parameter is self.bias:
                    setattr(module, own, None)
        self.weight: nn.Parameter | None = output.weight if embedding is None else None
        self._embedding = (embedding,)  # in a tuple: not a module of ours

    def forward(self, states: Tensor) -> Tensor:
        """Return the logits, ``[n, vocabulary]``, of states ``[n, width]``."""
        embedding = self._embedding[0]
        weight = self.weight if embedding is None else embedding.weight
        assert weight is not None
        hidden = project(self.transform, states)
        bias = None if self.bias is None else self.bias.to(weight.dtype)
        return F.linear(hidden.to(weight.dtype), weight, bias)


class _Passthrough(nn.Module):
    """Stands where a model's body was."""

    def forward(self, *_args: Any, inputs_embeds: Tensor, **_kwargs: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)  # pyright: ignore


def shell(model: PreTrainedModel) -> Any:
    """Return a model that shares the modules of `model`, but gives the states it gets straight to its head."""
    shallow = copy.copy(model)
    vars(shallow)["_modules"] = {**model._modules, model.base_model_prefix: _Passthrough()}
    return shallow


def project(model: Any, states: Tensor) -> Tensor:
    """Return what a shell makes of states ``[n, width]``: ``[n, outputs]``."""
    dtype = next((parameter.dtype for parameter in model.parameters()), states.dtype)
    return model(inputs_embeds=states.unsqueeze(0).to(dtype)).logits.squeeze(0)


def load_vocabulary_head(
    path: str,
    encoder: PreTrainedModel | PeftModel,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> VocabularyHead:
    """Load the masked-language-modelling head that belongs to an encoder.

    What its checkpoint lacks is random, by torch's global generator; `VocabularyHead.pretrained` says so.

    Args:
        path: hub id, folder or ``package:`` path of the encoder.
        encoder: the encoder that is trained, whose input embedding the head is tied to if its configuration says so.
        revision: branch, tag or commit on the hub.
        dtype: name of the parameters' dtype.
        trust_remote_code: run code that comes with the model.

    Raises:
        RecipeError: transformers has no such head for this kind of encoder.
        UserError: the model cannot be loaded.
    """
    base: Any = encoder.get_base_model() if isinstance(encoder, PeftModel) else encoder
    if type(base.config) not in MODEL_FOR_MASKED_LM_MAPPING and not trust_remote_code:
        raise RecipeError(
            f"auxiliary: the outputs denoise and fastsent need a vocabulary head, and transformers has none for "
            f"{type(base).__name__} (model.path: '{path}'). Leave these outputs out, or use another encoder."
        )
    model, info = load_pretrained(
        AutoModelForMaskedLM,
        path,
        revision,
        trust_remote_code,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
    )
    missing = [name for name in info["missing_keys"] if not name.startswith(f"{model.base_model_prefix}.")]
    tied = getattr(model.config, "tie_word_embeddings", True)
    return VocabularyHead(model, base.get_input_embeddings() if tied else None, pretrained=not missing)
