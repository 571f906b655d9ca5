"""What a training with objectives promises: static weights, accumulation, chunks, cut graphs, faults, resumption."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from taskloom.adapters import CAMTLConfig
from taskloom.auxiliary.agreement import HeldOut
from taskloom.auxiliary.bodies import EncoderBody
from taskloom.auxiliary.history import WeightLog, read_weight_history
from taskloom.auxiliary.step import compared_layer
from taskloom.tasks import TaskSuite
from tests.auxiliary.support import STAGES, RandomRows, make, masked_encoder
from tests.tiny import tiny_tasks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return masked_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def suite(data):
    return TaskSuite.load(tiny_tasks(data)[:1], cache_dir=data / "cache")


@pytest.fixture(scope="module")
def suites(data):
    return TaskSuite.load(tiny_tasks(data / "all"), cache_dir=data / "cache")


class Gradients(TrainerCallback):
    """Keep each step's gradients, before the optimizer takes them."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def gradients(trainer):
    """Train on examples as they stand, and return each step's gradients."""
    size = trainer.args.train_batch_size
    loader = DataLoader(trainer.train_dataset, size, collate_fn=trainer.data_collator)
    trainer.get_train_dataloader = lambda: loader
    kept = Gradients()
    trainer.add_callback(kept)
    trainer.train()
    return kept.steps


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.network.state_dict().items()}


def test_static_weights_are_plain_weighted_multi_task_training_bit_for_bit(folder, suite, tmp_path, monkeypatch):
    outputs = [output for output in STAGES["outputs"] if output != "quick-thoughts"]  # which is not run in chunks
    stages = {**STAGES, "outputs": outputs}
    trainer = make(folder, suite, tmp_path, rates=(0.0, 0.0), stages=stages, args={"max_steps": 6})
    plain = copy.deepcopy(trainer.network)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    steps, drawn = [], []
    draw, note, loss = trainer.auxiliary._draw, trainer._note, trainer.compute_loss

    def keep_rows(share, *args):
        found = draw(share, *args)
        drawn.append(found)
        return found

    def keep_batch(model, inputs, *args, **kwargs):
        drawn.append(inputs)
        return loss(model, inputs, *args, **kwargs)

    def end_step(result):
        steps.append((drawn.copy(), len(result.sampled)))
        drawn.clear()
        return note(result)

    monkeypatch.setattr(trainer.auxiliary, "_draw", keep_rows)
    monkeypatch.setattr(trainer, "compute_loss", keep_batch)
    monkeypatch.setattr(trainer, "_note", end_step)
    monkeypatch.setattr(torch.autograd, "grad", forbidden)  # what single objectives would be differentiated with
    monkeypatch.setattr(trainer, "_dev_loss", forbidden)
    trainer.train()
    body = EncoderBody(plain, plain.objectives.vocabulary)
    assert len(steps) == 6
    for (batch, *views), sampled in steps:
        (0.5 * plain(**batch)["loss"]).backward()
        for view in views:
            for rows in (slice(first, first + 8) for first in range(0, len(view.batch), 8)):
                part = view.rows(rows)
                states = body.hidden(part.input_ids, part.mask, noise=part.noise)
                pooled = body.pool(states, part.batch.attention_mask)
                total = torch.zeros(())
                for objective in view.objectives:
                    found, count = plain.objectives.loss(
                        objective, states, pooled, part.batch, part.counted, part.predictor, body
                    )
                    whole = plain.objectives.count(objective, view.batch, view.counted, view.predictor)
                    total = total + 0.5 / sampled * (found * (count / whole))
                total.backward()
        optimizer.step()
        optimizer.zero_grad()
    for (name, a), b in zip(trainer.network.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert trainer.objective_weights.logits["joint"].abs().max() == 0


def test_noise_is_as_large_as_said(folder, suite, tmp_path):
    step = make(folder, suite, tmp_path, step={"noise": 0.5}).auxiliary
    noised = torch.arange(40).reshape(4, 10) % 3 > 0
    drawn = torch.cat([step._noise(noised, seed) for seed in range(50)])
    at = noised.repeat(50, 1)
    assert drawn[at].std().item() == pytest.approx(0.5, rel=0.05)
    assert (drawn[~at] == 0).all()


def forbidden(*_args, **_kwargs):
    raise AssertionError("static weights compare no gradients")


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.5, 2.0)])
def test_accumulated_batches_give_the_gradient_of_the_large_batch(folder, suite, tmp_path, rates):
    whole = make(folder, suite, tmp_path / "a", rates=rates, args={"max_steps": 2}, step={"chunk": None})
    parts = make(
        folder,
        suite,
        tmp_path / "b",
        rates=rates,
        args={"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
        step={"chunk": 3},
    )
    for step, (a, b) in enumerate(zip(gradients(whole), gradients(parts), strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.allclose(a[name], b[name], atol=2e-5), (step, name, (a[name] - b[name]).abs().max())
    a, b = (each.objective_weights.logits["joint"] for each in (whole, parts))
    assert torch.allclose(a, b, atol=2e-3)


def test_a_cut_graph_gives_the_same_gradient_and_the_cosines_of_the_top(folder, suite, tmp_path, monkeypatch):
    def trainer(name, layers):
        step = {"cosine_layers": layers, "max_grad_norm": 0.0, "chunk": None}
        return make(folder, suite, tmp_path / name, args={"max_steps": 1}, step=step)

    whole, cut = trainer("whole", None), trainer("cut", 1)
    found = {}
    for each in (whole, cut):
        note = each._note
        monkeypatch.setattr(
            each, "_note", lambda result, each=each, note=note: (found.update({each: result}), note(result))
        )
    singles = []
    agreement = whole.auxiliary._agreement
    monkeypatch.setattr(
        whole.auxiliary, "_agreement", lambda g, dev, loss: (singles.append((list(g), dev)), agreement(g, dev, loss))[1]
    )
    a, b = gradients(whole)[0], gradients(cut)[0]
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-6), name
    # The same objectives' gradients, compared on the parameters above the cut alone.
    names = {id(p): name for name, p in whole.network.named_parameters()}
    top = [".layer.2." in names[id(p)] for p in whole.auxiliary.parameters]
    dev = singles[0][1]._gradient

    def flat(gradient):
        return torch.cat([g.flatten() for g, kept in zip(gradient, top, strict=True) if kept and g is not None])

    expected = [torch.cosine_similarity(flat(g), flat(dev), dim=0).item() for g, _ in singles]
    order = [position for share in plan(whole, found[whole]) for position in share]
    cosines = found[cut].cosines[order].tolist()
    assert cosines == pytest.approx(expected, abs=1e-4)


def plan(trainer, result):
    from taskloom.auxiliary.plan import plan_step

    objectives = [trainer.objective_weights.space[index] for index in result.sampled]
    return [share.members for share in plan_step(objectives, [0.25] * len(objectives), 16)]


class Poisoned(RandomRows):
    def draw(self, rows, n, generator):
        batch = super().draw(rows, n, generator)
        return replace(batch, targets={**batch.targets, "tfidf": batch.targets["tfidf"] / 0 * 0})


def test_an_objective_without_a_finite_gradient_is_left_out_and_counted(folder, suite, tmp_path, caplog):
    stages = {
        "data": ["task"],
        "transforms": ["mask"],
        "representations": ["bidirectional"],
        "outputs": ["denoise", "tfidf"],
    }
    log = WeightLog(tmp_path / "weights.csv")
    trainer = make(
        folder, suite, tmp_path / "run", stages=stages, source=Poisoned(), args={"max_steps": 5}, history=log
    )
    with caplog.at_level("WARNING", "taskloom"):
        trainer.train()
    assert trainer.tally.sampled.tolist() == [5, 5]
    assert trainer.tally.skipped.tolist() == [0, 5]
    messages = [record.message for record in caplog.records if "task/mask/bidirectional/tfidf" in record.message]
    assert len(messages) == 1
    assert "not finite" in messages[0]
    assert all(value.isfinite().all() for value in parameters(trainer).values())
    assert trainer.objective_weights.logits["joint"][1] == 0
    assert trainer.objective_weights.logits["joint"][0] != 0
    assert trainer.state.log_history[0]["skipped"] == 5
    assert read_weight_history(log.path).steps.tolist() == [5]


def test_a_resumed_training_ends_as_an_uninterrupted_one(suite, tmp_path):
    folder = masked_encoder(tmp_path / "encoder", dropout=0.2)  # whose draws go on, too
    args = {"max_steps": 5, "save_total_limit": None}
    straight = make(folder, suite, tmp_path / "a", args=args, evaluate_every=3)
    straight.train()
    begun = make(folder, suite, tmp_path / "b", args=args, evaluate_every=3)

    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    begun.add_callback(Stop())
    begun.train()
    assert begun.state.global_step == 3
    resumed = make(folder, suite, tmp_path / "b", args=args, evaluate_every=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-3"))
    for (name, a), b in zip(parameters(straight).items(), parameters(resumed).values(), strict=True):
        assert torch.equal(a, b), name
    for name, value in straight.objective_weights.state_dict().items():
        assert torch.equal(value, resumed.objective_weights.state_dict()[name]), name
    for name, value in straight.tally.state_dict().items():
        assert torch.equal(value, resumed.tally.state_dict()[name]), name


def lora(encoder):
    return get_peft_model(encoder, LoraConfig(r=2, target_modules=["query", "value"]))


def ca_mtl(encoder):
    return get_peft_model(encoder, CAMTLConfig(num_tasks=3, max_length=32))


@pytest.mark.parametrize("wrap", [lora, ca_mtl, None])
def test_objectives_train_with_adapters_and_several_tasks(folder, suites, tmp_path, wrap):
    trainer = make(
        folder, suites, tmp_path, wrap=wrap, args={"max_steps": 2}, dev_head="own" if wrap is lora else "fitted"
    )
    before = parameters(trainer)
    frozen = {name for name, p in trainer.network.named_parameters() if not p.requires_grad}
    trainer.train()
    after = parameters(trainer)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not changed & frozen
    assert any(name.startswith("objectives.") for name in changed)
    assert trainer.objective_weights.logits["balance"].abs().max() > 0


def test_mixed_precision(folder, suite, tmp_path):
    trainer = make(folder, suite, tmp_path, args={"max_steps": 2, "bf16": True})
    dtypes = []
    dense = trainer.network.encoder.encoder.layer[0].intermediate.dense
    dense.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    trainer.train()
    assert set(dtypes) == {torch.bfloat16}  # of the tasks' passes, the objectives' and the held-out ones
    assert trainer.objective_weights.logits["joint"].abs().max() > 0
    assert all(value.isfinite().all() for value in parameters(trainer).values())


def test_what_is_used_above_and_below_a_cut_is_differentiated_whole_and_not_compared(
    folder, suites, tmp_path, monkeypatch
):
    def made(layers):
        step = {"cosine_layers": layers, "max_grad_norm": 0.0, "chunk": None}
        return make(folder, suites, tmp_path, wrap=ca_mtl, args={"max_steps": 1}, step=step)

    compared = []
    observed = HeldOut.__init__

    def observe(held_out, gradient, covered):
        compared.append(covered)
        observed(held_out, gradient, covered)

    monkeypatch.setattr(HeldOut, "__init__", observe)
    trainer = made(1)
    a, b = gradients(made(None))[0], gradients(trainer)[0]
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], atol=1e-5), name
    names = {id(p): name for name, p in trainer.network.named_parameters()}
    of_cut = next(each for each in compared if not all(each))
    covered = [names[id(p)] for p, kept in zip(trainer.auxiliary.parameters, of_cut, strict=True) if kept]
    assert covered
    assert not [name for name in covered if "task_embed" in name or ".layer.0." in name or ".layer.1." in name]
    assert any(".layer.2." in name for name in covered)


def test_layers_that_are_no_list_are_named():
    shared = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=2), modules=lambda: iter(()))
    with pytest.raises(ValueError, match="SimpleNamespace holds no list of 2 layers"):
        compared_layer(SimpleNamespace(encoder=shared), 1)
