"""The page that benchmarks compare with computes what it says: weighted gradients, cosines, a fitted head."""

import pytest
import torch
from benchmarks.reference.auxiliary import AuxiliaryBatch, LabelledBatch, PublishedAuxiliary
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig

#: Two views, of which the second has two outputs: DENOISE and one of 4 classes.
FIRST, SECOND, THIRD = (0, 0, 0, 0), (0, 1, 0, 0), (0, 1, 0, 1)
LABELS, VOCABULARY = 3, 23


def published(**settings) -> PublishedAuxiliary:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,  # with smaller weights, gradients are large enough to be clipped
    )
    return PublishedAuxiliary(
        config, LABELS, [FIRST, SECOND, THIRD], outputs=[None, 4], stages=(1, 2, 1, 2), dropout=0.0, **settings
    )


def labelled(rows: int, seed: int) -> LabelledBatch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, 6), generator=generator)
    return LabelledBatch(ids, torch.ones_like(ids), torch.randint(LABELS, (rows,), generator=generator))


def views() -> list[AuxiliaryBatch]:
    generator = torch.Generator().manual_seed(9)

    def targets(rows: int, classes: int) -> Tensor:
        drawn = torch.randint(classes, (rows, 6), generator=generator)
        return drawn.where(torch.rand(rows, 6, generator=generator) < 0.5, -100)

    first, second = (torch.randint(1, VOCABULARY, (rows, 6), generator=generator) for rows in (4, 2))
    causal = torch.full((6, 6), float("-inf")).triu(1).expand(2, 1, 6, 6)
    return [
        AuxiliaryBatch(first, torch.ones_like(first), {FIRST: targets(4, VOCABULARY)}),
        AuxiliaryBatch(second, causal, {SECOND: targets(2, VOCABULARY), THIRD: targets(2, 4)}),
    ]


BATCHES = {"primary": labelled(5, 1), "auxiliary": views(), "fit": labelled(8, 2), "held_out": labelled(4, 3)}


def losses(method: PublishedAuxiliary) -> dict[object, Tensor]:
    """Return the mean loss of the primary task, the held-out examples and each objective, by the model alone."""

    def of_class(head, batch: LabelledBatch) -> Tensor:
        states = method.model.bert(batch.input_ids, batch.attention_mask).last_hidden_state
        return F.cross_entropy(head(states[:, 0]), batch.labels)

    found: dict[object, Tensor] = {
        "primary": of_class(method.primary_head, BATCHES["primary"]),
        "dev": of_class(method.dev_head, BATCHES["held_out"]),
    }
    for view in BATCHES["auxiliary"]:
        states = method.model.bert(view.input_ids, view.attention_mask).last_hidden_state
        for objective, targets in view.targets.items():
            counted = targets != -100
            found[objective] = F.cross_entropy(method.heads[objective](states)[counted], targets[counted])
    return found


def flat(loss: Tensor, parameters: list) -> Tensor:
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("settings", [{}, {"share_heads": True}, {"idle_logits": False}])
def test_the_gradient_is_that_of_the_weighted_sum(settings):
    method = published(**settings)
    method.joint[SECOND], method.factors[3][1] = torch.tensor([0.7, -0.4])
    method.balance[:] = torch.tensor([0.3, -0.2])
    method.micro_batch(**BATCHES)
    found = {id(p): p.grad for p in (*method.body, *method.head_parameters)}

    primary, auxiliary = torch.tensor([0.3, -0.2]).softmax(0)
    shares = torch.tensor([0.0, 0.7, -0.4]).softmax(0) * torch.tensor([4 / 6, 2 / 6, 2 / 6])
    each = losses(method)
    total = primary * each["primary"] + auxiliary * sum(
        share * each[objective] for share, objective in zip(shares, (FIRST, SECOND, THIRD), strict=True)
    )
    parameters = [*method.body, *method.head_parameters]
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
        if gradient is None:
            assert found[id(parameter)] is None
        else:
            torch.testing.assert_close(found[id(parameter)], gradient, rtol=1e-4, atol=1e-6)


def test_weights_move_by_the_cosines_of_the_bodys_gradients():
    method = published(step_every=1, primary_lr=0.5, auxiliary_lr=2.0)
    method.micro_batch(**BATCHES)
    each = losses(method)
    dev = flat(each["dev"], method.body)
    gradients = {name: flat(loss, method.body) for name, loss in each.items()}
    counted = {o: (t != -100).sum() for view in BATCHES["auxiliary"] for o, t in view.targets.items()}
    gradients["auxiliary"] = torch.stack([n * gradients[objective] for objective, n in counted.items()]).sum(0)
    cosine = {name: F.cosine_similarity(dev, gradient, dim=0).item() for name, gradient in gradients.items()}
    method.step()

    expected = torch.tensor([cosine["primary"], cosine["auxiliary"]]) * 0.5
    torch.testing.assert_close(method.balance, expected, rtol=1e-3, atol=1e-5)
    transforms, outputs = method.factors[1], method.factors[3]
    assert method.joint[THIRD].item() == pytest.approx(2 * cosine[THIRD], rel=1e-3)
    assert transforms[1].item() == pytest.approx(2 * (cosine[SECOND] + cosine[THIRD]), rel=1e-3)
    assert outputs[0].item() == pytest.approx(2 * (cosine[FIRST] + cosine[SECOND]), rel=1e-3)


def test_the_dev_head_is_fitted_through_a_body_that_stays_as_it_is():
    method = published()
    before = [parameter.clone() for parameter in method.body]
    head = method.fit_dev_head(BATCHES["fit"])
    assert all(torch.equal(parameter, old) for parameter, old in zip(method.body, before, strict=True))
    assert all(parameter.grad is None for parameter in method.body)
    fresh = method.new_classifier()
    assert method.class_loss(head, BATCHES["fit"]) < method.class_loss(fresh, BATCHES["fit"])


def test_large_gradients_of_the_body_are_clipped():
    method = published()
    loss = 1e4 * method.class_loss(method.primary_head, BATCHES["primary"])
    gradients, _ = method.gradient(loss, method.primary_head, ([torch.ones_like(p) for p in method.body], 1.0), False)
    norm = torch.cat([g.flatten() for g in gradients[: len(method.body)] if g is not None]).norm()
    assert norm.item() == pytest.approx(10, rel=1e-4)
