"""The meta-gradient against the graph of the whole chain of updates, and against finite differences."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from taskloom.gradients import SGD, Adam, unrolled_meta_gradient
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


@pytest.mark.parametrize("make", [gpt2, llama, neox])
def test_single_precision(make):
    model = build(make, torch.float32, attn_implementation="eager")
    documents, weights, _ = stream(3, torch.float32)
    outer = question(model)
    _, expected = unrolled(model.eval(), documents, weights, outer, 0.3)
    _, found = unrolled_meta_gradient(model, documents, weights, outer, 0.3)
    assert differs(found, expected) < 1e-4


@pytest.mark.parametrize(
    "options",
    [{"method": "reverse"}, {"checkpoints": "all"}, {"checkpoints": 4}, {"checkpoints": 100, "method": "reverse"}],
)
def test_choices_of_how_do_not_change_what(options):
    model = build(llama)
    documents, weights, _ = stream(5, side="left")
    expected = unrolled_meta_gradient(model, documents, weights, question(model), 0.3)
    found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3, **options)
    assert found[0] == expected[0]
    assert differs(found[1], expected[1]) < 1e-10


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


def test_an_adapter():
    model = get_peft_model(build(llama), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    model.double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    documents, weights, _ = stream(3)
    _, expected = unrolled(model.eval(), documents, weights, question(model), 0.3)
    _, found = unrolled_meta_gradient(model, documents, weights, question(model), 0.3)
    assert differs(found, expected) < 1e-8


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
