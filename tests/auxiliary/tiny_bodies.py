"""Tiny bodies of each family, in float64, and rows for them."""

from typing import Any

import torch
from torch import Tensor, nn

from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.bodies import DecoderBody, EncoderBody
from taskloom.generative import GenerativeModel
from taskloom.model import MultiTaskModel
from taskloom.tasks import Task
from tests.adapters.language_models import language_model
from tests.adapters.support import adapt, encoder

TASK = Task(name="tone", inputs=("text",), labels=("bad", "good", "none"))
ENCODERS = ["bert", "roberta", "electra", "distilbert", "mpnet", "data2vec-text", "bert-generation", "ernie"]
DECODERS = ["gpt2", "llama", "qwen2", "gpt_neox"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder_body(family: str = "bert", attention: str = "sdpa", **fields: Any) -> EncoderBody:
    pooling = fields.pop("pooling", None)
    network = MultiTaskModel(encoder(family, attention=attention, **fields), [TASK], pooling)
    return EncoderBody(network.double().eval())


def camtl_body(attention: str = "sdpa") -> EncoderBody:
    network = MultiTaskModel(adapt(encoder("bert", attention=attention)), [TASK])
    return EncoderBody(network.double().eval())


def decoder_body(family: str = "llama", attention: str = "sdpa") -> DecoderBody:
    return DecoderBody(GenerativeModel(language_model(family, attention), []).eval())


def body(family: str, attention: str = "sdpa") -> Any:
    if family == "ca-mtl":
        return camtl_body(attention)
    return (decoder_body if family in DECODERS else encoder_body)(family, attention)


def rows(seed: int = 1) -> RowBatch:
    """Return three rows of 7, 5 and 4 tokens; the first and the last of each are special."""
    ids = torch.randint(5, 40, (3, 7), generator=generator(seed))
    real = torch.arange(7) < torch.tensor([[7], [5], [4]])
    special = ~real
    special[:, 0] = True
    special[torch.arange(3), real.sum(dim=1) - 1] = True
    return RowBatch(ids.masked_fill(~real, 1), real.long(), special, torch.tensor([2, 0, 1]))


def states(body: Any, batch: RowBatch, mask: Tensor | None = None, **more: Any) -> Tensor:
    with torch.no_grad():
        return body.hidden(batch.input_ids, batch.attention_mask if mask is None else mask, batch.task, **more)


class WordsOnly(nn.Module):
    """Stands for a body where only its vocabulary head is used: keeps what that was given."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(width, words).double()
        self.given: list[Tensor] = []

    def vocabulary(self, states: Tensor) -> Tensor:
        self.given.append(states.detach())
        return self.linear(states)
