"""No position sees its own target: proved by changing tokens, on every family and both attention kernels."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModel, DebertaV2Config

from taskloom.auxiliary.bodies import EncoderBody
from taskloom.auxiliary.leaks import refuse_leaks
from taskloom.auxiliary.stages import REPRESENTATIONS
from taskloom.auxiliary.views import additive, all_see_all, visibility
from taskloom.errors import RecipeError
from taskloom.model import MultiTaskModel
from tests.auxiliary.tiny_bodies import (
    DECODERS,
    ENCODERS,
    TASK,
    body,
    decoder_body,
    encoder_body,
    generator,
    rows,
    states,
)

ORDERED = REPRESENTATIONS[1:]
REAL = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def test_a_row_in_its_order():
    view = visibility("left-to-right", REAL, generator())
    assert view.predictor.tolist() == [[-1, 0, 1, 2], [-1, 0, 1, -1]]
    assert view.mask is not None
    assert view.mask[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert view.mask[1].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_a_row_backwards():
    view = visibility("right-to-left", REAL, generator())
    assert view.predictor.tolist() == [[1, 2, 3, -1], [1, 2, -1, -1]]
    assert view.mask is not None
    assert view.mask[1].int().tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_both_ways():
    view = visibility("bidirectional", REAL, generator())
    assert view.mask is None
    assert view.predictor.tolist() == [[0, 1, 2, 3], [0, 1, 2, -1]]


def order_of(predictor: list[int]) -> list[int]:
    """Walk a row's predictors from the token that none predicts to the last one."""
    behind = {before: token for token, before in enumerate(predictor) if before >= 0}
    (at,) = {token for token in range(len(predictor)) if token in behind} - set(behind.values())
    order = [at]
    while order[-1] in behind:
        order.append(behind[order[-1]])
    return order


def test_a_random_order_is_one_of_all_words_with_the_pooled_position_last():
    real = (torch.arange(9) < torch.tensor([[9], [6], [9]])).long()
    pooled = torch.tensor([0, 0, 8])
    seen = set()
    for seed in range(20):
        view = visibility("random-factorized", real, generator(seed), pooled=pooled)
        for row, length in enumerate([9, 6, 9]):
            order = order_of(view.predictor[row].tolist())
            assert sorted(order) == list(range(length))
            assert order[-1] == pooled[row]
            assert (view.predictor[row, length:] == -1).all()
            seen.add(tuple(order))
            assert view.mask is not None
            place = {token: at for at, token in enumerate(order)}
            for query in range(9):
                for key in range(9):
                    allowed = query == key or (query < length and key < length and place[key] < place[query])
                    assert allowed or not view.mask[row, query, key]
            assert view.mask[row].diagonal().all()
            assert view.mask[row, pooled[row], :length].all()
    assert len(seen) > 50


@pytest.mark.parametrize("density", [0.0, 0.6, 1.0])
def test_density_is_the_share_of_what_could_be_seen(density):
    real = torch.ones(40, 20, dtype=torch.long)
    mask = visibility("random-factorized", real, generator(), density=density).mask
    assert mask is not None
    seen = (mask.sum() - 40 * 20).item() / (40 * 20 * 19 / 2)
    assert seen == pytest.approx(density, abs=0.02 if density == 0.6 else 0)


def test_the_same_seed_gives_the_same_view():
    first, again = (visibility("random-factorized", REAL, generator(4)) for _ in range(2))
    assert first.mask is not None
    assert again.mask is not None
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(first.predictor, again.predictor)


def test_unknown_representation():
    with pytest.raises(ValueError, match="`representation`: unknown 'sideways'"):
        visibility("sideways", REAL, generator())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", [*ENCODERS, "ca-mtl", *DECODERS])
@pytest.mark.parametrize("representation", ORDERED)
def test_no_state_depends_on_the_token_that_it_predicts(family, attention, representation):
    network, batch = body(family, attention), rows()
    pooled = network.pooled_position(batch.attention_mask)
    view = visibility(representation, batch.attention_mask, generator(), pooled=pooled, density=0.8)
    mask = view.attention(batch.attention_mask, torch.float64)
    plain = states(network, batch, mask)
    assert torch.isfinite(plain).all()
    for token in range(7):
        changed = states(network, _changed(batch, token), mask)
        moved = (changed - plain).abs().amax(dim=-1)
        for row in range(3):
            if not batch.attention_mask[row, token]:
                assert moved[row][batch.attention_mask[row].bool()].max() < 1e-9
                continue
            assert moved[row, token] > 1e-6
            before = int(view.predictor[row, token])
            assert before < 0 or moved[row, before] < 1e-9
            assert view.mask is not None
            for reader in torch.nonzero(view.mask[row, :, token]).flatten():
                assert moved[row, reader] > 1e-9


def _changed(batch, token):
    ids = batch.input_ids.clone()
    ids[:, token] = 5 + (ids[:, token] - 5 + 7) % 35
    return replace(batch, input_ids=ids)


@pytest.mark.parametrize("family", ["bert", "roberta", "llama", "gpt2"])
def test_a_row_is_the_same_with_more_padding(family):
    network, batch = body(family), rows()
    for representation in REPRESENTATIONS:
        narrow = batch.attention_mask[2:, :4]
        view = visibility(representation, narrow, generator())
        wide = all_see_all(batch.attention_mask[2:]) if view.mask is None else torch.eye(7, dtype=torch.bool)[None]
        wide = wide.clone()
        wide[:, :4, :4] = all_see_all(narrow) if view.mask is None else view.mask
        alone = network.hidden(batch.input_ids[2:, :4], view.attention(narrow, torch.float64), batch.task[2:])
        padded = network.hidden(batch.input_ids[2:], additive(wide, torch.float64), batch.task[2:])
        torch.testing.assert_close(padded[:, :4], alone)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_from_left_to_right_is_the_decoder_as_it_is(family):
    network, batch = decoder_body(family), rows()
    view = visibility("left-to-right", batch.attention_mask, generator())
    found = states(network, batch, view.attention(batch.attention_mask, torch.float64))
    backbone = network.network.backbone
    with torch.no_grad():
        own = backbone(batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    real = batch.attention_mask.bool()
    torch.testing.assert_close(found[real], own.hidden_states[-1][real])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "ca-mtl", *DECODERS])
def test_models_that_keep_to_their_views_pass_the_check(family):
    network = body(family)
    network.network.train()
    refuse_leaks(network, REPRESENTATIONS)
    assert network.network.training


@pytest.mark.parametrize("representation", ORDERED)
def test_a_model_that_reads_masks_otherwise_is_refused_by_name(representation):
    tiny = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    deberta = AutoModel.from_config(DebertaV2Config(**tiny, intermediate_size=32)).double()
    network = EncoderBody(MultiTaskModel(deberta, [TASK]).double())
    refuse_leaks(network, ["bidirectional"])
    with pytest.raises(RecipeError, match=f"DebertaV2Model does not keep to the representation '{representation}'"):
        refuse_leaks(network, [representation])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mask: torch.zeros_like(mask), "sees its own target|words see padding"),
        (lambda mask: mask.roll(1, dims=-1), "sees"),
        (lambda mask: mask.transpose(-1, -2), "sees its own target"),
        (lambda mask: (mask == 0).to(mask), "sees"),
    ],
    ids=["ignored", "shifted", "transposed", "one where it may see"],
)
def test_a_leak_is_found_whatever_is_done_to_the_mask(change, reason, monkeypatch):
    network = encoder_body()
    encoder = network.network.encoder
    plain = encoder.forward

    def forward(input_ids, attention_mask, **inputs):
        return plain(input_ids, attention_mask=change(attention_mask), **inputs)

    monkeypatch.setattr(encoder, "forward", forward)
    with pytest.raises(RecipeError, match=reason):
        refuse_leaks(network, ["left-to-right"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bert", "ca-mtl", "llama"])
def test_views_hold_under_autocast_and_gradients_stay_finite(family, attention):
    network, batch = body(family, attention), rows()
    network.network.float().train()
    view = visibility("random-factorized", batch.attention_mask, generator())
    mask = view.attention(batch.attention_mask, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain, changed = (network.hidden(each.input_ids, mask, each.task) for each in (batch, _changed(batch, 2)))
    plain.float().square().sum().backward()
    gradients = [each.grad for each in network.network.parameters() if each.grad is not None]
    assert len(gradients) > 5
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    for row in range(3):
        before = int(view.predictor[row, 2])
        assert before < 0 or torch.equal(plain[row, before], changed[row, before])
        assert not torch.equal(plain[row, 2], changed[row, 2])
