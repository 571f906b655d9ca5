"""What the collector must survive, and what it must refuse rather than get wrong."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertModel

from taskloom.adapters import CAMTLConfig, HyperdecoderConfig
from taskloom.errors import UserError
from taskloom.gradients import Projection, Rule, per_example_gradients, projected_gradients, rules, written_back
from taskloom.model import MultiTaskModel
from taskloom.tasks import Task
from tests.gradients.support import (
    BATCH,
    TOKENS,
    assert_same,
    bert,
    first_logit,
    gpt2,
    language_loss,
    llama,
    loop_gradients,
    pair_batch,
    randomised,
    t5,
    text_batch,
)
from tests.tiny import tiny_encoder

FLOATS = {"x": torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(0))}


def mean_output(outputs: Tensor, batch: object) -> Tensor:
    return outputs.flatten(1).square().sum(1)


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_gradient_checkpointing(family: str) -> None:
    make, batch, loss = {
        "bert": (bert, text_batch, first_logit),
        "llama": (llama, text_batch, language_loss),
        "t5": (t5, pair_batch, language_loss),
    }[family]
    expected = loop_gradients(make(), batch(), loss)
    model = make()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()  # transformers checkpoints in training only; the model has no dropout
    assert_same(per_example_gradients(model, batch(), loss), expected)
    assert model.training


def test_gradient_checkpointing_of_lora() -> None:
    def lora() -> nn.Module:
        return randomised(get_peft_model(gpt2(), LoraConfig(r=2, target_modules=["c_attn"])))

    expected = loop_gradients(lora(), text_batch(), language_loss)
    model = lora()
    model.enable_input_require_grads()  # as PEFT needs it: the graph starts at an output that is nobody's parameter
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert_same(per_example_gradients(model, text_batch(), language_loss), expected)


def test_reentrant_checkpointing_is_refused() -> None:
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"], lora_dropout=0))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.train()
    with pytest.raises(UserError, match="use_reentrant"):
        per_example_gradients(model, text_batch(), first_logit)
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


@pytest.mark.parametrize("factor", [None, 4])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "lora"])
def test_projecting_while_collecting_is_projecting_afterwards(family: str, factor: int | None) -> None:
    make, batch, loss = {
        "bert": (bert, text_batch, first_logit),
        "gpt2": (gpt2, text_batch, language_loss),
        "t5": (t5, pair_batch, language_loss),
        "lora": (
            lambda: randomised(get_peft_model(gpt2(), LoraConfig(r=2, target_modules=["wte", "c_attn"]))),
            text_batch,
            language_loss,
        ),
    }[family]
    model, projection = make(), Projection(24, factor=factor)
    outputs, projected = projected_gradients(model, batch(), loss, projection)
    expected = loss(model(**batch()), batch())
    torch.testing.assert_close(outputs, expected.detach())
    assert not outputs.requires_grad
    dense = projection.project(loop_gradients(model, batch(), loss))
    assert float((projected - dense).abs().max() / dense.abs().max()) < 1e-5


def test_an_example_does_not_see_its_batch() -> None:
    model, batch, projection = bert(), text_batch(), Projection(32)
    _, together = projected_gradients(model, batch, first_logit, projection)
    for number in range(BATCH):
        length = int(batch["attention_mask"][number].sum())
        alone = {name: value[number : number + 1, :length] for name, value in batch.items()}  # without padding, too
        _, single = projected_gradients(model, alone, first_logit, projection)
        torch.testing.assert_close(single[0], together[number], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    exact = loop_gradients(llama().double(), text_batch(), language_loss)
    found = per_example_gradients(llama().to(dtype), text_batch(), language_loss)
    assert {value.dtype for value in found.values()} == {torch.float64 if dtype == torch.float64 else torch.float32}
    everything = torch.cat([(found[name] - value).flatten(1) for name, value in exact.items()], dim=1).norm(dim=1)
    size = torch.cat([value.flatten(1) for value in exact.values()], dim=1).norm(dim=1)
    assert (everything / size).max() < {torch.float64: 1e-9, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
    _, projected = projected_gradients(llama().to(dtype), text_batch(), language_loss, Projection(16))
    assert projected.dtype == torch.float32


def test_grad_and_flags_are_left_alone_even_after_an_error() -> None:
    model = bert()
    model.bert.embeddings.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    model.classifier.weight.grad = torch.ones_like(model.classifier.weight)
    names = list(per_example_gradients(model, text_batch(), first_logit))
    assert names == [name for name, p in model.named_parameters() if p.requires_grad]
    with pytest.raises(ZeroDivisionError):
        per_example_gradients(model, text_batch(), lambda outputs, batch: 1 / 0)
    with pytest.raises(IndexError):
        per_example_gradients(model, {"input_ids": torch.full((2, 3), 99)}, first_logit)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert bool((model.classifier.weight.grad == 1).all())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():  # the caller's mode does not matter
        assert float(per_example_gradients(model, text_batch(), first_logit)["classifier.weight"].abs().max()) > 0


def test_the_output_must_be_one_number_an_example() -> None:
    for wrong in (lambda o, b: o.logits, lambda o, b: o.logits.mean(), lambda o, b: 3.0):
        with pytest.raises(ValueError, match=r"`output_fn`.*shape \[5\], not (\[|float)"):
            per_example_gradients(bert(), text_batch(), wrong)


class Odd(nn.Module):
    """A parameter of its own, a table read as a matrix, and a layer that nobody calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3))
        self.inner = nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).tanh() * self.scale + F.linear(x, self.inner.weight)


def test_parameters_without_a_rule_are_named_or_computed_by_autograd() -> None:
    model = nn.Sequential(Odd(), nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"modules '0' \(Odd\)\. Freeze .* register a rule .*fallback='autograd'"):
        per_example_gradients(model, (FLOATS["x"], None), mean_output)
    model[0].scale.requires_grad_(False)
    with pytest.raises(
        UserError, match=r"parameters '0.inner.weight' are used outside the forward of their own module"
    ):
        per_example_gradients(model, (FLOATS["x"], None), mean_output)
    model[0].scale.requires_grad_(True)
    expected = loop_gradients(model, FLOATS, mean_output, lambda model, batch: model(batch["x"]))
    found = per_example_gradients(model, (FLOATS["x"], None), mean_output, fallback="autograd")
    assert_same(found, expected)
    assert not found["0.unused.weight"].any()
    with pytest.raises(ValueError, match="`fallback`"):
        per_example_gradients(model, (FLOATS["x"], None), mean_output, fallback="loop")


def test_a_registered_rule_is_used(monkeypatch) -> None:
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.rand(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.factor

    rules.register_rule(Scale, Rule(lambda module, x, grad: {"factor": x * grad}))
    model = nn.Sequential(Scale(), nn.Linear(4, 2))
    expected = loop_gradients(model, FLOATS, mean_output, lambda model, batch: model(batch["x"]))
    assert_same(per_example_gradients(model, (FLOATS["x"], None), mean_output), expected)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4], [3, 3, 0, 1, 2]])
def test_one_index_an_example(ids: list[int]) -> None:
    model, batch = randomised(nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 2))), (torch.tensor(ids), None)
    expected = loop_gradients(model, batch, mean_output, lambda model, batch: model(batch[0]))
    assert_same(per_example_gradients(model, batch, mean_output), expected)


def test_batch_norm_in_training_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"'0' normalises over the batch.*model.eval\(\)"):
        per_example_gradients(nn.Sequential(nn.BatchNorm1d(4)), (FLOATS["x"], None), mean_output, fallback="autograd")


@pytest.mark.parametrize("grouped", [False, True])
def test_an_output_that_is_not_per_example(grouped: bool) -> None:
    """Tokens of all examples in one dimension, or positions without a batch dimension: refused, or by autograd."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.positions, self.out = nn.Embedding(23, 4), nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            hidden = (self.words(ids) + self.positions(torch.arange(ids.shape[1]))).tanh()
            return self.out(hidden.flatten(0, 1)).view(*ids.shape, 2) if grouped else self.out(hidden)

    model = Flat()
    for tokens in (TOKENS, BATCH):  # as many tokens as examples must not be taken for examples
        batch = (text_batch()["input_ids"][:, :tokens], None)
        with pytest.raises(UserError, match=rf"'positions' are unknown: its output of shape \[{tokens}, 4\]"):
            per_example_gradients(model, batch, mean_output)
        expected = loop_gradients(model, batch, mean_output, lambda model, batch: model(batch[0]))
        assert_same(per_example_gradients(model, batch, mean_output, fallback="autograd"), expected)


MODULES = {
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=1), (BATCH, 4, 9)),
    "conv1d dilated, same": (nn.Conv1d(4, 2, 3, padding="same", dilation=2, padding_mode="circular"), (BATCH, 4, 9)),
    "conv2d": (nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(2, 1), bias=False), (BATCH, 2, 6, 5)),
    "group norm": (nn.GroupNorm(2, 4), (BATCH, 4, 3)),
    "layer norm over two dimensions": (nn.LayerNorm((3, 4)), (BATCH, 2, 3, 4)),
    "rms norm": (nn.RMSNorm(4), (BATCH, 3, 4)),
    "batch norm": (nn.BatchNorm1d(4), (BATCH, 4, 3)),
    "linear on four dimensions": (nn.Linear(4, 2), (BATCH, 2, 3, 4)),
    "prelu": (nn.PReLU(), (BATCH, 4)),
}


@pytest.mark.parametrize("name", MODULES)
def test_single_modules(name: str) -> None:
    module, shape = MODULES[name]
    model = randomised(nn.Sequential(module))
    batch = (torch.randn(shape, generator=torch.Generator().manual_seed(2)), None)
    expected = loop_gradients(model, batch, mean_output, lambda model, batch: model(batch[0]))
    assert_same(per_example_gradients(model, batch, mean_output), expected)


def test_padding_index_has_no_gradient_and_norms_of_one_plus_weight() -> None:
    class ShiftedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)

    model = randomised(nn.Sequential(nn.Embedding(23, 4, padding_idx=0), ShiftedRMSNorm()))
    batch = (text_batch()["input_ids"], None)
    found = per_example_gradients(model, batch, mean_output)
    assert_same(found, loop_gradients(model, batch, mean_output, lambda model, batch: model(batch[0])))
    assert not found["0.weight"][:, 0].any()


def test_subclasses_with_another_forward_have_no_rule() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class GatedRMSNorm(nn.RMSNorm):
        def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
            return super().forward(x)

    class SquaredRMSNorm(nn.RMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight**2

    class Renamed(nn.Linear):
        pass

    assert rules.find_rule(Renamed(2, 2)) is not None
    for module in (Doubled(2, 2), GatedRMSNorm(2), SquaredRMSNorm(2), nn.Embedding(3, 2, scale_grad_by_freq=True)):
        assert rules.find_rule(module) is None, module


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("method", ["plain", "lora", "residual ca-mtl", "ca-mtl", "ca-mtl, whole model"])
def test_multi_task_models(encoder: Path, method: str) -> None:
    """taskloom's own model with heads, alone and with adapters."""
    base = BertModel.from_pretrained(encoder)
    config = {
        "lora": LoraConfig(r=2, target_modules=["query"]),
        "residual ca-mtl": CAMTLConfig(num_tasks=3, max_length=6, num_blocks=2, bottleneck_mode="residual"),
        "ca-mtl": CAMTLConfig(num_tasks=3, max_length=6, num_blocks=2),
        "ca-mtl, whole model": CAMTLConfig(num_tasks=3, max_length=16, freeze_layers=None),
    }.get(method)
    tasks = [Task(name=f"t{i}", inputs="text", labels=("a", "b", "c")) for i in range(3)]
    model = randomised(MultiTaskModel(get_peft_model(base, config) if config else base, tasks))
    batch = text_batch()
    batch |= {"input_ids": batch["input_ids"] % 16, "task": torch.tensor([0, 1, 2, 0, 1])}

    def margin(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return outputs["logits"][:, 0] - outputs["logits"][:, 1:].logsumexp(1)

    assert_same(per_example_gradients(model, batch, margin), loop_gradients(model, batch, margin))


@pytest.mark.parametrize("decoder", ["shared", "per_task", "task_generated", "instance_generated"])
@pytest.mark.parametrize("encoder_decoder", [True, False])
def test_hyperdecoders(encoder_decoder: bool, decoder: str) -> None:
    make, batch = (t5, pair_batch()) if encoder_decoder else (llama, text_batch())
    config = HyperdecoderConfig(
        encoder="per_task" if encoder_decoder else "none", decoder=decoder, num_tasks=3, adapter_dim=4, bottleneck=3
    )
    model = randomised(get_peft_model(make(), config)).double()
    # The first token is the prompt, which decoder-only models do not adapt.
    answers = batch["input_ids"].index_fill(1, torch.tensor([0]), -100)
    batch = {"labels": answers, **batch, "task": torch.tensor([0, 2, 2, 0, 1])}
    assert_same(per_example_gradients(model, batch, language_loss), loop_gradients(model, batch, language_loss))
    assert all(getattr(module, "merges_examples", True) for module in model.modules())  # again
    projection = Projection(24)
    _, projected = projected_gradients(model, batch, language_loss, projection)
    expected = projection.project(loop_gradients(model, batch, language_loss))
    torch.testing.assert_close(projected.double(), expected.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_back_and_restored(dtype: torch.dtype) -> None:
    model, projection, c = bert().to(dtype), Projection(20, factor=4), 0.1 * torch.randn(20)
    model.bert.embeddings.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    with written_back(model, projection, c) as inside:
        assert inside is model
        for name, change in projection.back(c, shapes).items():
            torch.testing.assert_close(model.state_dict()[name], (before[name] + change).to(dtype))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with contextlib.suppress(KeyError), written_back(model, projection, c):
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_written_back_moves_outputs_as_the_projected_gradients_say() -> None:
    """To first order, and in expectation over P, f(θ + P c) − f(θ) is ⟨Pᵀg, c⟩."""
    model, projection = bert().double(), Projection(30)
    outputs, projected = projected_gradients(model, text_batch(), first_logit, projection)
    c = 1e-4 * torch.randn(30)
    with written_back(model, projection, c), torch.no_grad():
        moved = first_logit(model(**text_batch()), None)
    torch.testing.assert_close((moved - outputs).float(), projected @ c, rtol=1e-2, atol=1e-6)
