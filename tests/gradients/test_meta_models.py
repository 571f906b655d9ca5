"""The meta-gradient for what models there are: other shapes, precisions, modes, and operations without rules."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, T5Config, T5ForConditionalGeneration
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from taskloom.gradients import Adam, unrolled_meta_gradient
from taskloom.gradients.meta import UnrolledUpdates, _starts
from taskloom.gradients.second_order import Stopwatch
from tests.gradients.meta_support import VOCABULARY, build, differs, gpt2, llama, neox, question, stream, unrolled

METHODS = ["auto", "forward", "reverse"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [gpt2, llama])
def test_the_rows_of_a_document_make_one_update(make, method):
    model = build(make)
    documents, weights, _ = stream(3, rows=3)
    assert len({int(row.sum()) for row in documents[0]["attention_mask"]}) == 3
    _, expected = unrolled(model.eval(), documents, weights, question(model), 0.3)
    _, found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method=method)
    assert differs(found, expected) < 1e-8
    for document, gradient in zip(documents, found, strict=True):
        assert gradient[document["attention_mask"] == 0].abs().max() == 0
        assert gradient[:, 0].abs().max() == 0


def t5(**options):
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes, **options))


PROMPT = torch.tensor([[5, 2, 8]])


def decoder_losses(call, document):
    logits = call(input_ids=PROMPT, decoder_input_ids=document["input_ids"]).logits[0]
    losses = F.cross_entropy(logits[:-1], document["input_ids"][0, 1:], reduction="none")
    mask = document["attention_mask"].bool()
    return F.pad(losses, (1, 0))[None], F.pad(mask[:, 1:] & mask[:, :-1], (1, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("method", "count"), [*((method, 3) for method in METHODS), ("auto", 1), ("auto", 6)])
def test_a_decoder_with_relative_positions_and_cross_attention(method, count, dtype):
    model = build(t5, dtype, dropout_rate=0.1).eval()
    documents, weights, _ = stream(count, dtype)
    ids = torch.tensor([[3, 7, 1]])
    before = model(input_ids=PROMPT, decoder_input_ids=ids).logits[0].log_softmax(-1).detach()

    def outer(updated):
        logits = updated(input_ids=PROMPT, decoder_input_ids=ids).logits[0]
        kept = F.kl_div(logits.log_softmax(-1), before, log_target=True, reduction="batchmean")
        return F.cross_entropy(logits, torch.tensor([7, 1, 9])) + 0.1 * kept

    def inputs(document):
        return {"input_ids": PROMPT, "decoder_input_ids": document["input_ids"]}

    _, expected = unrolled(model.eval(), documents, weights, outer, 0.1, inputs=inputs)
    _, found = unrolled_meta_gradient(model, documents, weights, outer, 0.1, token_losses=decoder_losses, method=method)
    assert differs(found, expected) < (1e-4 if dtype == torch.float32 else 1e-8)


def test_the_updated_parameters_and_several_outer_losses():
    model = build(llama)
    documents, weights, _ = stream(4)
    expected, gradients = unrolled_meta_gradient(
        model, documents, weights, lambda m: question(m)(m) + 3 * m.lm_head.weight.square().sum(), 0.3
    )
    updates = UnrolledUpdates(model, documents, weights, 0.3)
    first, adjoint = updates.outer_gradient(question(model))
    second, other = updates.outer_gradient(lambda m: 3 * m.lm_head.weight.square().sum())
    found = updates.pull_back({name: value + other[name] for name, value in adjoint.items()})
    assert (first + second).item() == pytest.approx(expected.item(), rel=1e-12)
    assert differs(found, gradients) < 1e-10
    with pytest.raises(RuntimeError, match="pulled back already"):
        updates.pull_back(adjoint)
    # The parameters by hand, one step of torch's optimizer a document.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for document, weight in zip(documents, weights, strict=True):
        losses = F.cross_entropy(model(**document).logits[0, :-1], document["input_ids"][0, 1:], reduction="none")
        real = document["attention_mask"][0, 1:]
        optimizer.zero_grad()
        ((losses * weight.detach()[0, 1:] * real).sum() / real.sum()).backward()
        optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(updates.parameters[name], value.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_checkpointing_is_no_obstacle(method):
    model = build(llama)
    documents, weights, _ = stream(3)
    _, expected = unrolled_meta_gradient(model, documents, weights, question(model), 0.3)
    model.train()
    model.gradient_checkpointing_enable()
    hooks = len(model.get_input_embeddings()._forward_hooks)
    _, found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method=method)
    assert differs(found, expected) < 1e-10
    assert model.training
    assert model.model.layers[0].gradient_checkpointing
    assert model(input_ids=documents[0]["input_ids"]).logits.requires_grad
    assert len(model.get_input_embeddings()._forward_hooks) == hooks


def test_attention_that_has_no_second_derivatives_is_switched_for_a_while():
    def counted(module, query, key, value, mask, **options):
        seen.append(module.config._attn_implementation)
        return eager_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("a_kernel_of_somebody", counted)
    AttentionMaskInterface.register("a_kernel_of_somebody", eager_mask)
    model = build(llama)
    documents, weights, _ = stream(3)
    _, expected = unrolled_meta_gradient(model, documents, weights, question(model), 0.3)
    model.set_attn_implementation("a_kernel_of_somebody")
    for method in METHODS:
        seen = []
        _, found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method=method)
        assert differs(found, expected) < 1e-5  # eager attention has its softmax in float32
        # Plain gradients and the outer loss with the caller's kernel in both layers, second derivatives without.
        assert len(seen) == 2 * (4 if method == "forward" else 3)
        assert model.config._attn_implementation == "a_kernel_of_somebody"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [gpt2, neox])
def test_autocast_and_parameters_in_bf16(make, method):
    model = build(make, torch.float32)
    documents, weights, _ = stream(4, torch.float32)
    _, exact = unrolled_meta_gradient(model, documents, weights, question(model), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, cast = unrolled_meta_gradient(model, documents, weights, question(model), 0.1, method=method)
    _, stored = unrolled_meta_gradient(model.bfloat16(), documents, weights, question(model), 0.1, method=method)
    for found in (cast, stored):
        a, b = (torch.cat([g.flatten().float() for g in each]) for each in (found, exact))
        assert F.cosine_similarity(a, b, dim=0) > 0.98


def test_what_autocast_remembers_is_not_taken_for_the_updated_model():
    model = build(gpt2, torch.float32).eval()
    documents, weights, _ = stream(2, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone, _ = unrolled_meta_gradient(model, documents, weights, question(model), 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = question(model)(model)  # its casts are remembered now
        after, _ = unrolled_meta_gradient(model, documents, weights, question(model), 1.0)
        again = question(model)(model)
    assert after == alone
    assert before == again != after


class _Cube(torch.autograd.Function):
    """An operation as people write them: without a rule for forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


def _fused(x):
    """Attention over the tokens by a kernel that can be differentiated only once."""
    states = x[:, None]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(states, states, states)[0][:, 0]


def with_activation(function):
    model = build(llama)
    for layer in model.model.layers:
        layer.mlp.act_fn = type("Act", (nn.Module,), {"forward": lambda self, x: function(x)})()
    return model


@pytest.mark.parametrize("count", [1, 4])
def test_an_operation_without_forward_mode_is_differentiated_the_other_way(count, caplog):
    documents, weights, _ = stream(count)
    plain, custom = with_activation(lambda x: x**3), with_activation(_Cube.apply)
    custom.register_parameter("makes_it_a_kind_of_its_own", nn.Parameter(torch.zeros(count + 12345)))
    _, expected = unrolled_meta_gradient(plain, documents, weights, question(plain), 0.3)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            _, found = unrolled_meta_gradient(custom, documents, weights, question(custom), 0.3)
            assert differs(found, expected) < 1e-8
    said = [record.message for record in caplog.records]
    assert len(said) == (count > 1)
    assert all("method='forward'" in message for message in said)
    with pytest.raises(ValueError, match="`method`: LlamaForCausalLM cannot be differentiated twice by 'forward'"):
        unrolled_meta_gradient(custom, documents, weights, question(custom), 0.3, method="forward")


def test_an_operation_without_second_derivatives_is_refused():
    documents, weights, _ = stream(2)
    model = with_activation(_fused)
    model.register_parameter("makes_it_a_kind_of_its_own", nn.Parameter(torch.zeros(54321)))
    with pytest.raises(ValueError, match="by 'reverse'"):
        unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method="reverse")
    for _ in range(2):
        with pytest.raises(ValueError, match="no second derivatives by any method"):
            unrolled_meta_gradient(model, documents, weights, question(model), 0.3)


def test_fused_attention_is_used_where_it_can_be():
    """The outer loss and plain gradients call the model without the restriction to the mathematical kernel."""
    model = build(gpt2, attn_implementation="sdpa")
    documents, weights, _ = stream(3)
    fused = []

    def note(*_):
        fused.append(torch.backends.cuda.flash_sdp_enabled())

    model.register_forward_pre_hook(note)
    unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method="reverse")
    assert fused == [True, True, False, True, False, False]


@pytest.mark.parametrize("updates", [1, 2, 3, 4, 6, 24, 100, 321])
def test_a_square_root_of_checkpoints_takes_the_room_it_should(updates):
    starts = _starts("sqrt", updates)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    lengths = [b - a for a, b in zip(starts, [*starts[1:], updates], strict=True)]
    assert max(number + length for number, length in enumerate(lengths)) <= max(1, 2 * updates**0.5)
    equal = max(1, int(updates**0.5))
    assert sum(length - 1 for length in lengths[:-1]) <= updates - len(range(0, updates, equal))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("checkpoints", ["sqrt", 3])
def test_adam_in_all_ways(checkpoints, method):
    model = build(llama)
    documents, weights, _ = stream(5)
    expected = unrolled_meta_gradient(model, documents, weights, question(model), Adam(0.01), checkpoints="all")
    found = unrolled_meta_gradient(
        model, documents, weights, question(model), Adam(0.01), checkpoints=checkpoints, method=method
    )
    assert differs(found[1], expected[1]) < 1e-6


def test_the_faster_method_is_chosen_after_two_tries_of_each():
    watch = Stopwatch()
    device = torch.device("cpu")
    chosen = []
    for _ in range(6):
        chosen.append(watch.choice())
        with watch.timing(chosen[-1], device):
            sum(range(200_000 if chosen[-1] == "reverse" else 10))
    assert chosen == ["reverse", "forward", "reverse", "forward", "forward", "forward"]
    assert {method: len(found) for method, found in watch.seconds.items()} == {"reverse": 2, "forward": 2}
    watch.seconds = {"reverse": [1.0, 2.0], "forward": [0.98, 0.99]}
    assert watch.choice() == "reverse"  # not worth the memory
    watch.give_up("reverse", nn.Linear(1, 1), RuntimeError("no rule"))
    assert watch.choice() == "forward"


def test_the_code_of_the_method_s_page():
    page = Path(__file__).parents[2] / "docs" / "methods" / "meta_gradients.md"
    first, second = re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.DOTALL)
    model = build(gpt2)
    documents, _, _ = stream(3)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    names = {
        "model": model,
        "documents": documents,
        "weighter": lambda ids, mask: scale * mask,
        "outer_loss": question(model),
    }
    exec(first, names)
    assert scale.grad.item() == pytest.approx(sum(g[d["attention_mask"] > 0].sum() for d, g in _pairs(names)).item())
    before = names["value"]
    exec(second, names)
    assert names["value"] == before
    assert question(model)(model.eval()).item() == pytest.approx(before.item(), rel=1e-12)


def _pairs(names):
    return zip(names["documents"], names["gradients"], strict=True)
