"""Tiny models, documents, and the oracle of the meta-gradient's tests: one graph of the whole chain of updates."""

import copy

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 31
ROTARY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def gpt2(**options):
    sizes = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, **options))


def llama(**options):
    return LlamaForCausalLM(LlamaConfig(**ROTARY, **options))


def qwen2(**options):
    return Qwen2ForCausalLM(Qwen2Config(**ROTARY, num_key_value_heads=1, tie_word_embeddings=True, **options))


def neox(**options):
    return GPTNeoXForCausalLM(GPTNeoXConfig(**ROTARY, **options))


def build(make, dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = make(**options).to(dtype)
    if dtype == torch.float64:
        for name, module in list(model.named_modules()):
            if (
                "RMSNorm" in type(module).__name__ or type(module).__name__ == "T5LayerNorm"
            ):  # these compute in float32 whatever they are given
                model.set_submodule(name, nn.RMSNorm(module.weight.shape, eps=1e-6, dtype=dtype))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # so that no gradient is zero by the initial values
    return model


def stream(count, dtype=torch.float64, side="right", rows=1):
    """Documents of several lengths, half of them padded, and weights that are functions of one vector."""
    generator = torch.Generator().manual_seed(1)
    seed = torch.randn(8, generator=generator, dtype=dtype).requires_grad_()
    documents, weights = [], []
    for number in range(count):
        length, padding = 6 + number % 3, 2 * (number % 2)
        ids = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
        mask = (torch.arange(length) < torch.arange(length, length - rows, -1)[:, None]).long()  # rows get shorter
        width = (padding, 0) if side == "left" else (0, padding)
        documents.append({"input_ids": F.pad(ids, width), "attention_mask": F.pad(mask, width)})
        mixing = torch.randn(rows, length + padding, 8, generator=generator, dtype=dtype)
        weights.append(F.softplus(mixing @ seed))
    return documents, weights, seed


def question(model, reference=None):
    """Return an outer loss: of an answer, and for locality the divergence from the model as it was."""
    ids = torch.tensor([[3, 7, 1, 9, 4]])
    base = None if reference is None else copy.deepcopy(reference).eval()

    def loss(updated):
        logits = updated(input_ids=ids).logits
        value = F.cross_entropy(logits[0, :-1], ids[0, 1:])
        if base is not None:
            with torch.no_grad():
                before = base(input_ids=ids).logits.log_softmax(-1)
            value = value + 0.1 * F.kl_div(logits.log_softmax(-1), before, log_target=True, reduction="batchmean")
        return value

    return loss


@sdpa_kernel(SDPBackend.MATH)
def unrolled(model, documents, weights, outer, rate, names=None, adam=False, inputs=dict):
    """Keep the graph of everything, the published way; `inputs` makes the model's arguments of a document."""
    known = dict(model.named_parameters())
    names = names or [name for name, p in known.items() if p.requires_grad]
    values = {name: known[name].detach().clone().requires_grad_() for name in names}
    m = {name: torch.zeros_like(value) for name, value in values.items()}
    v = {name: torch.zeros_like(value) for name, value in values.items()}

    class Bound:
        def __call__(self, **inputs):
            return functional_call(model, values, kwargs=inputs)

    for number, (document, weight) in enumerate(zip(documents, weights, strict=True), start=1):
        ids, mask = document["input_ids"], document["attention_mask"]
        logits = functional_call(model, values, kwargs=inputs(document)).logits
        real = [(r, t) for r, t in torch.cartesian_prod(*map(torch.arange, ids.shape)).tolist() if t and mask[r, t]]
        real = [(r, t) for r, t in real if mask[r, t - 1]]
        loss = sum(weight[r, t] * -logits[r, t - 1].log_softmax(-1)[ids[r, t]] for r, t in real) / len(real)
        gradients = torch.autograd.grad(loss, list(values.values()), create_graph=True, allow_unused=True)
        updated = {}
        for name, g in zip(values, gradients, strict=True):
            g = torch.zeros_like(values[name]) if g is None else g
            if not adam:
                updated[name] = values[name] - rate * g
                continue
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            root = (v[name] / (1 - 0.999**number) + 1e-30).sqrt()
            updated[name] = values[name] - rate * m[name] / (1 - 0.9**number) / (root + 1e-8)
        values = updated
    loss = outer(Bound())
    return loss.detach(), torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)


def differs(found, expected):
    """Return the largest difference over the largest value."""
    pairs = list(zip(found, expected, strict=True))
    return max((a - b).abs().max() for a, b in pairs) / max(b.abs().max() for _, b in pairs)
