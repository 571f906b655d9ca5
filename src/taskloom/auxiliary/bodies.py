"""What all objectives share: the network from token ids to hidden states, whatever its family."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn

from taskloom.auxiliary.views import additive, all_see_all
from taskloom.auxiliary.vocabulary import VocabularyHead, project, shell
from taskloom.errors import RecipeError
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel

__all__ = ["Body", "DecoderBody", "EncoderBody"]


class Body(Protocol):
    """A network that turns rows of token ids into hidden states, and these into a vector a row or into words.

    Attributes:
        name: class of the transformers model.
        width: of a state.
        dtype: of the model's parameters, and so of additive masks.
        embedding: the input embedding.
    """

    name: str
    width: int
    dtype: torch.dtype
    embedding: nn.Embedding

    @property
    def network(self) -> MultiTaskModel | GenerativeModel:
        """The task model whose body this is."""
        ...

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        task: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return the last hidden states, ``[rows, tokens, width]``.

        Args:
            input_ids: ``[rows, tokens]``, padded on the right.
            attention_mask: ``[rows, tokens]``, 0 on padding: each token sees all of its row, also in a decoder; or
                ``[rows, 1, tokens, tokens]``, what is added to the attention scores (`taskloom.auxiliary.views`).
            task: ``[rows]``, task ids, for adapters that are conditioned on them.
            token_type_ids: ``[rows, tokens]``, for encoders that use them.
            noise: ``[rows, tokens, width of the embedding]``, what is added to the input embeddings, in root mean
                squares of the embedding table.
        """
        ...

    def pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return one vector a row, ``[rows, width]``, of states ``[rows, tokens, width]`` and the 2-D mask."""
        ...

    def pooled_position(self, attention_mask: Tensor) -> Tensor | None:
        """Return the position that `pool` reads, ``[rows]``; None if it reads all of them."""
        ...

    def vocabulary(self, states: Tensor) -> Tensor:
        """Return the logits over the vocabulary, ``[n, words]``, of states ``[n, width]``."""
        ...


class EncoderBody:
    """The encoder of a `MultiTaskModel`, with the vocabulary head if an objective needs one.

    Raises:
        RecipeError: the adapter changes the rows themselves, as prompt tuning does.
    """

    def __init__(self, network: MultiTaskModel, head: VocabularyHead | None = None) -> None:
        _refuse_prompts(network.encoder)
        self.network = network
        self.head = head
        base = _base(network.encoder)
        self.name: str = type(base).__name__
        self.width: int = base.config.hidden_size
        self.dtype: torch.dtype = base.dtype
        self.embedding: nn.Embedding = base.get_input_embeddings()

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        task: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        if self.network.conditions_on_task:
            inputs["task"] = task
        with _added(self.embedding, noise):
            return self.network.encoder(**inputs).last_hidden_state

    def pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        return self.network.pool(states, attention_mask)

    def pooled_position(self, attention_mask: Tensor) -> Tensor | None:
        if self.network.pooling == "mean":
            return None
        return torch.zeros(len(attention_mask), dtype=torch.long, device=attention_mask.device)

    def vocabulary(self, states: Tensor) -> Tensor:
        if self.head is None:
            raise ValueError("`head`: this body was made without a vocabulary head")
        return self.head(states)


class DecoderBody:
    """The decoder-only language model of a `GenerativeModel`, below and with its own vocabulary head.

    Raises:
        RecipeError: the model has an encoder too, or an adapter that works only through the whole model.
    """

    def __init__(self, network: GenerativeModel) -> None:
        base = _base(network.backbone)
        self.name: str = type(base).__name__
        if network.layout != "decoder":
            raise RecipeError(
                f"auxiliary: objectives work on encoders and on decoder-only models; {self.name} is an "
                "encoder-decoder. Use another model."
            )
        _refuse_prompts(network.backbone)
        tuner: Any = getattr(network.backbone, "base_model", None)
        if isinstance(network.backbone, PeftModel) and network.conditions_on_task:
            raise RecipeError(
                f"adapter.method: {getattr(tuner, 'title', type(tuner).__name__)} works through the whole language "
                "model, below whose head the auxiliary objectives begin. Use another adapter, such as lora, or none."
            )
        self.network = network
        self.width: int = base.config.hidden_size
        self.dtype: torch.dtype = base.dtype
        self.embedding: nn.Embedding = base.get_input_embeddings()
        self._stack: Any = getattr(base, base.base_model_prefix)
        self._takes_positions = "position_ids" in inspect.signature(self._stack.forward).parameters
        self._head = shell(base)

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        task: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        if attention_mask.dim() == 2:  # which the model would take for a causal row
            attention_mask = additive(all_see_all(attention_mask), self.dtype)
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        if self._takes_positions:  # which some would count by a mask of two dimensions
            inputs["position_ids"] = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        with _added(self.embedding, noise):
            return self._stack(**inputs).last_hidden_state

    def pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        last = self.pooled_position(attention_mask)
        return states[torch.arange(len(states), device=states.device), last]

    def pooled_position(self, attention_mask: Tensor) -> Tensor:
        return (attention_mask.sum(dim=1) - 1).clamp(min=0)

    def vocabulary(self, states: Tensor) -> Tensor:
        return project(self._head, states)


def _base(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _refuse_prompts(model: Any) -> None:
    for config in model.peft_config.values() if isinstance(model, PeftModel) else ():
        if config.is_prompt_learning:
            method: Any = config.peft_type
            raise RecipeError(
                f"adapter.method: {method.value.lower()} puts tokens of its own before each row, so that the auxiliary "
                "objectives' positions and masks no longer fit. Use another adapter, such as lora, or none."
            )


@contextmanager
def _added(embedding: nn.Module, noise: Tensor | None) -> Iterator[None]:
    """Add noise to what the input embedding returns: the model still gets token ids, which some count positions by."""
    if noise is None:
        yield
        return

    def add(module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
        weight: Any = module.weight
        return embedded + (noise * weight.detach().float().square().mean().sqrt()).to(embedded.dtype)

    handle = embedding.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
