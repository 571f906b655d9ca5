"""The meta-gradient against the graph of the whole chain of updates, and against finite differences."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from taskloom.gradients import SGD, Adam, unrolled_meta_gradient
from taskloom.gradients.meta import UnrolledUpdates
from taskloom.gradients.weighted_updates import updated_parameters
from tests.gradients.meta_support import (
    VOCABULARY,
    build,
    differs,
    gpt2,
    llama,
    neox,
    question,
    qwen2,
    stream,
    unrolled,
)


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("make", [gpt2, llama, qwen2, neox])
def test_it_equals_the_unrolled_graph(make, count):
    model = build(make)
    documents, weights, _ = stream(count)
    outer = question(model, reference=model)
    expected, gradients = unrolled(model.eval(), documents, weights, outer, 0.3)
    found, own = unrolled_meta_gradient(model, documents, weights, outer, 0.3)
    assert found == pytest.approx(expected.item(), rel=1e-12)
    assert differs(own, gradients) < 1e-8
    assert all(gradient.abs().sum() > 0 for gradient in own)


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("make", [gpt2, llama, neox])
def test_single_precision(make, count):
    model = build(make, torch.float32, attn_implementation="eager")
    documents, weights, _ = stream(count, torch.float32, side="left" if count == 3 else "right")
    outer = question(model, reference=model)
    _, expected = unrolled(model.eval(), documents, weights, outer, 0.3)
    _, found = unrolled_meta_gradient(model, documents, weights, outer, 0.3)
    assert differs(found, expected) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"method": "reverse"},
        {"method": "forward"},
        {"checkpoints": "sqrt"},
        {"checkpoints": "sqrt", "method": "reverse"},
        {"checkpoints": 1},
        {"checkpoints": 4},
        {"checkpoints": 100, "method": "reverse"},
    ],
)
def test_choices_of_how_do_not_change_what(options):
    model = build(llama)
    documents, weights, _ = stream(7, side="left")
    loss, expected = unrolled(model.eval(), documents, weights, question(model), 0.3)
    found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, **options)
    assert found[0] == pytest.approx(loss.item(), rel=1e-12)
    assert differs(found[1], expected) < 1e-8


def test_fused_attention_is_no_obstacle():
    documents, weights, _ = stream(3)
    plain, fused = (build(gpt2, attn_implementation=kind) for kind in ("eager", "sdpa"))
    expected = unrolled_meta_gradient(plain, documents, weights, question(plain), 0.3)[1]
    for method in ("forward", "reverse"):
        found = unrolled_meta_gradient(fused, documents, weights, question(fused), 0.3, method=method)[1]
        assert differs(found, expected) < 1e-8


@pytest.mark.parametrize("checkpoints", ["all", "sqrt"])
def test_adam(checkpoints):
    model = build(gpt2)
    documents, weights, _ = stream(4)
    outer = question(model)
    expected, gradients = unrolled(model.eval(), documents, weights, outer, 0.01, adam=True)
    found, own = unrolled_meta_gradient(model, documents, weights, outer, Adam(0.01), checkpoints=checkpoints)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    assert differs(own, gradients) < 1e-4  # sqrt near zero: the oracle is a little off there, too


def test_some_parameters_alone():
    model = build(llama)
    documents, weights, _ = stream(3)
    names = [name for name, _ in model.named_parameters() if ".layers.1." in name]
    _, expected = unrolled(model.eval(), documents, weights, question(model), 0.3, names)
    _, found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, parameters=names)
    assert differs(found, expected) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize(
    ("make", "layers"), [(llama, ["q_proj", "v_proj"]), (gpt2, ["c_attn", "c_proj"]), (neox, ["query_key_value"])]
)
def test_an_adapter(make, layers, count, dtype):
    model = get_peft_model(build(make, dtype), LoraConfig(r=2, target_modules=layers, fan_in_fan_out=make is gpt2)).to(
        dtype
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    documents, weights, _ = stream(count, dtype)
    outer = question(model, reference=model)
    _, expected = unrolled(model.eval(), documents, weights, outer, 0.1)
    _, found = unrolled_meta_gradient(model, documents, weights, outer, 0.1)
    assert differs(found, expected) < (1e-4 if dtype == torch.float32 else 1e-8)


@pytest.mark.parametrize("method", ["forward", "reverse"])
def test_no_graph_is_made_below_what_is_updated(method):
    model = build(llama)
    documents, weights, _ = stream(3)
    names = [name for name, _ in model.named_parameters() if ".layers.1." in name]
    seen = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _m, _a, out: seen.append(out.requires_grad))
    unrolled_meta_gradient(model, documents, weights, question(model), 0.3, parameters=names, method=method)
    assert not any(seen[::2])
    assert seen[1]
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", ["auto", "forward", "reverse"])
def test_padding_s_row_of_shared_embeddings_is_left_out_by_all_methods(method):
    """It learns as a row of the vocabulary head, not as an input; real text may have that token, too."""
    model = build(qwen2)
    assert model.get_input_embeddings().padding_idx == 0
    documents, weights, _ = stream(4)
    for document in documents:
        document["input_ids"][0, 2] = 0
    _, expected = unrolled(model.eval(), documents, weights, question(model), 0.3)
    _, found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method=method)
    assert differs(found, expected) < 1e-8
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("lr", [0.3, Adam(0.01)])
def test_updated_parameters_alone(lr):
    model = build(gpt2, resid_pdrop=0.3).train()
    documents, weights, _ = stream(4, rows=2)
    names = [name for name, _ in model.named_parameters() if ".h.1." in name]
    expected = UnrolledUpdates(model, documents, weights, lr, parameters=names).parameters
    found = updated_parameters(model, documents, weights, lr, parameters=names)
    assert found.keys() == expected.keys() == set(names)
    own = dict(model.named_parameters())
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-12)
        assert not torch.equal(value, own[name])
        assert not value.requires_grad
        assert own[name].requires_grad
    assert model.training


def test_it_is_the_slope_of_the_outer_loss():
    """Finite differences in what the weights are made from."""
    model = build(gpt2)
    documents, weights, seed = stream(3)
    outer = question(model)
    _, gradients = unrolled_meta_gradient(model, documents, weights, outer, 0.3)
    torch.autograd.backward(weights, gradients)
    for index in range(3):
        values = []
        for step in (1e-5, -1e-5):
            moved = seed.detach().clone()
            moved[index] += step
            again = [weight.detach() for weight in _weights_of(moved)]
            values.append(unrolled_meta_gradient(model, documents, again, outer, 0.3)[0].item())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(seed.grad[index].item(), rel=1e-5)


def _weights_of(seed):
    generator = torch.Generator().manual_seed(1)
    torch.randn(8, generator=generator, dtype=torch.float64)
    found = []
    for number in range(3):
        length, padding = 6 + number % 3, 2 * (number % 2)
        torch.randint(1, VOCABULARY, (1, length), generator=generator)
        found.append(
            F.softplus(torch.randn(length + padding, 8, generator=generator, dtype=torch.float64) @ seed)[None]
        )
    return found


def test_the_first_order_option_takes_each_update_for_itself():
    model = build(llama)
    documents, weights, _ = stream(3)
    outer = question(model)
    _, found = unrolled_meta_gradient(model, documents, weights, outer, 0.3, first_order=True)
    _, exact = unrolled_meta_gradient(model, documents, weights, outer, 0.3)
    assert torch.allclose(found[-1], exact[-1], rtol=1e-10)
    assert differs(found[:1], exact[:1]) > 1e-3
    # By hand for the first: its tokens' gradients at the start, times the outer gradient at the end.
    values = {name: p.detach().clone() for name, p in model.named_parameters()}
    for document, weight in zip(documents, weights, strict=True):
        leaves = {name: value.requires_grad_() for name, value in values.items()}
        losses, count = _token_losses(model, leaves, document)
        gradient = torch.autograd.grad((losses * weight.detach()[0]).sum() / count, list(leaves.values()))
        values = {name: (v - 0.3 * g).detach() for (name, v), g in zip(leaves.items(), gradient, strict=True)}
    leaves = {name: value.requires_grad_() for name, value in values.items()}
    adjoint = torch.autograd.grad(
        outer(lambda **inputs: functional_call(model, leaves, kwargs=inputs)), list(leaves.values())
    )
    start = dict(model.named_parameters())
    losses, count = _token_losses(model, start, documents[0])
    for t in range(1, 6):
        single = torch.autograd.grad(losses[t], list(start.values()), retain_graph=True)
        slope = sum((a * b).sum() for a, b in zip(single, adjoint, strict=True))
        assert found[0][0, t].item() == pytest.approx(-0.3 * slope.item() / count, rel=1e-8)


def _token_losses(model, values, document):
    ids = document["input_ids"][0]
    logits = functional_call(model, values, kwargs=dict(document)).logits[0]
    losses = [torch.zeros((), dtype=logits.dtype)]
    losses += [-logits[t - 1].log_softmax(-1)[ids[t]] * document["attention_mask"][0, t] for t in range(1, len(ids))]
    return torch.stack(losses), int(document["attention_mask"].sum()) - 1


def test_padding_and_the_first_token_have_no_gradient():
    model = build(gpt2)
    for side in ("left", "right"):
        documents, weights, _ = stream(2, side=side)
        _, gradients = unrolled_meta_gradient(model, documents, weights, question(model), 0.3)
        for document, gradient in zip(documents, gradients, strict=True):
            real = document["attention_mask"].bool()
            first = real & (real.cumsum(1) == 1)
            assert gradient[~real | first].abs().max() == 0
            assert gradient[real & ~first].abs().min() > 0


def test_the_model_is_left_as_it_was():
    model = build(gpt2, resid_pdrop=0.3).train()
    model.transformer.h[0].eval()
    model.transformer.wpe.weight.requires_grad_(False)
    before = {name: (p, p.data_ptr(), p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    documents, weights, _ = stream(3)
    first = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method="reverse")
    second = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, method="reverse")
    for name, parameter in model.named_parameters():
        same, pointer, value, required = before[name]
        assert parameter is same
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == required
        assert parameter.grad is None
    assert model.training
    assert model.transformer.h[1].training
    assert not model.transformer.h[0].training
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))

    def fails(_model):
        raise RuntimeError("no answer")

    with pytest.raises(RuntimeError, match="no answer"):
        unrolled_meta_gradient(model, documents, weights, fails, 0.3)
    assert all(torch.equal(p, before[name][2]) for name, p in model.named_parameters())


def test_other_losses_than_a_language_model_s():
    """Any module will do; here the closed form is known: θ' = θ - lr w x, outer loss θ' · c."""
    model = nn.Linear(3, 1, bias=False).double()
    x, c = torch.randn(2, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)

    def losses(call, document):
        return call(input=document["rows"]).T, torch.ones(1, 2, dtype=torch.bool)

    documents = [{"input_ids": torch.zeros(1, 2, dtype=torch.long), "rows": x}] * 2
    weights = [torch.rand(1, 2, dtype=torch.float64) for _ in documents]
    loss, gradients = unrolled_meta_gradient(
        model, documents, weights, lambda m: (m.weight[0] * c).sum(), SGD(0.5), token_losses=losses
    )
    expected = (model.weight[0] * c).sum() - 0.5 / 2 * sum((w @ x @ c).sum() for w in weights)
    assert loss.item() == pytest.approx(expected.item())
    for gradient in gradients:
        assert torch.allclose(gradient[0], -0.5 / 2 * (x @ c))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": []}, "`weights` must be one a document"),
        ({"weights": [torch.ones(1, 3)]}, r"`weights\[0\]` must be of the document's shape \[rows, tokens\]"),
        ({"parameters": ["nothing"]}, "the model has no parameter 'nothing'"),
        ({"parameters": []}, "there is nothing to update"),
        ({"checkpoints": 0}, "`checkpoints` must be"),
        ({"method": "backward"}, "`method` must be"),
    ],
)
def test_misuse_is_named(change, message):
    model = build(llama)
    documents, weights, _ = stream(1)
    arguments = {"documents": documents, "weights": weights, "outer_loss": question(model), "lr": 0.1}
    with pytest.raises(ValueError, match=message):
        unrolled_meta_gradient(model, **{**arguments, **change})
