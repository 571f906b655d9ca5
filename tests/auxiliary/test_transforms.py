"""Which words are selected, and what is done to them."""

import math
from collections import Counter

import pytest
import torch

from taskloom.auxiliary.batch import RowBatch
from taskloom.auxiliary.stages import TRANSFORMS
from taskloom.auxiliary.transforms import Transforms
from taskloom.errors import RecipeError
from tests.auxiliary.tiny_bodies import generator, rows

SPECIAL, MASK, WORDS = [0, 1, 2, 3, 4], 4, range(5, 40)


class Words:
    """A vocabulary of 40 tokens, five of them special."""

    mask_token_id: int | None = MASK
    all_special_ids = SPECIAL

    def get_vocab(self) -> dict[str, int]:
        return {f"w{index}": index for index in range(40)}


class NoMask(Words):
    mask_token_id = None


def many(count: int = 400, tokens: int = 20) -> RowBatch:
    special = torch.zeros(count, tokens, dtype=torch.bool)
    special[:, 0] = special[:, -4:] = True
    ids = torch.randint(5, 40, (count, tokens), generator=generator()).masked_fill(special, 2)
    return RowBatch(ids, torch.ones_like(ids), special, torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("pure", [True, False])
def test_only_selected_words_change_and_count(transform, pure):
    batch = many()
    found = Transforms(Words(), pure=pure).apply(batch, transform, 0.3, generator())
    assert found.counted.any()
    assert not (found.counted & batch.special).any()
    assert torch.equal(found.input_ids[batch.special], batch.input_ids[batch.special])
    if transform == "noisy-embedding":
        assert torch.equal(found.input_ids, batch.input_ids)
        assert found.noised is not None
        assert torch.equal(found.noised, found.counted)
        return
    assert found.noised is None
    kinds = Counter(_kind(old, new) for old, new in _counted(batch, found))
    if transform == "bert":
        total = sum(kinds.values())
        assert kinds["mask"] / total == pytest.approx(0.8, abs=0.03)
        assert kinds["replace"] / total == pytest.approx(0.1 * 34 / 35, abs=0.02)
    else:  # a random word may be the same one
        assert set(kinds) <= {transform, *(["none"] if transform == "replace" else [])}
        assert kinds[transform] > 0.9 * sum(kinds.values())
    if pure or transform == "bert":
        untouched = ~found.counted
        assert torch.equal(found.input_ids[untouched], batch.input_ids[untouched])


def _counted(batch, found):
    return zip(batch.input_ids[found.counted].tolist(), found.input_ids[found.counted].tolist(), strict=True)


def _kind(old: int, new: int) -> str:
    return "none" if old == new else "mask" if new == MASK else "replace"


def test_random_words_are_all_words_and_never_special():
    found = Transforms(Words(), probability=1.0).apply(many(), "replace", 0.0, generator())
    assert sorted(set(found.input_ids[found.counted].tolist())) == list(WORDS)


@pytest.mark.parametrize("probability", [0.15, 0.5, 1.0])
def test_the_share_of_words(probability):
    batch = many()
    for transforms, own in [(Transforms(Words(), probability), None), (Transforms(Words(), 0.3), probability)]:
        found = transforms.apply(batch, "mask", 0.0, generator(), probability=own)
        assert found.counted.sum() / (~batch.special).sum() == pytest.approx(probability, abs=0.015)


def test_each_row_with_a_word_has_one_selected():
    batch = rows()
    batch.special[1] = True
    for seed in range(20):
        counted = Transforms(Words(), probability=1e-9).apply(batch, "mask", 0.0, generator(seed)).counted
        assert counted.sum(dim=1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("logit", [-0.7, 0.0, 0.4, 1.2])
@pytest.mark.parametrize("transform", ["none", "replace", "mask"])
def test_the_mixtures_odds(transform, logit):
    temperature = 0.5
    transforms = Transforms(Words(), probability=1.0, pure=False, temperature=temperature)
    weights = {"none": 1.0, "replace": 1.0, "mask": math.exp(2.0794)}
    weights[transform] *= math.exp(logit / temperature)
    expected = [weight / sum(weights.values()) for weight in weights.values()]
    assert transforms.mixture(transform, logit).tolist() == pytest.approx(expected, abs=1e-4)
    found = transforms.apply(many(), transform, logit, generator())
    share = found.counted.sum() / (~many().special).sum()
    assert share == pytest.approx(expected[list(weights).index(transform)], abs=0.02)


def test_the_mixture_starts_as_bert():
    assert Transforms(Words(), pure=False).mixture("none", 0.0).tolist() == pytest.approx([0.1, 0.1, 0.8])


def test_other_words_of_the_mixture_are_corrupted_but_do_not_count():
    batch = many()
    found = Transforms(Words(), probability=1.0, pure=False).apply(batch, "replace", 0.0, generator())
    masked = found.input_ids == MASK
    assert masked.sum() / (~batch.special).sum() == pytest.approx(0.8, abs=0.02)
    assert not (masked & found.counted).any()


def test_the_same_seed_gives_the_same_rows():
    for transform in TRANSFORMS:
        first, again = (Transforms(Words()).apply(rows(), transform, 0.0, generator(5)) for _ in range(2))
        assert torch.equal(first.input_ids, again.input_ids)
        assert torch.equal(first.counted, again.counted)


def test_masks_need_a_mask_token():
    pure, mixed = Transforms(NoMask()), Transforms(NoMask(), pure=False)
    for transforms, transform in [(pure, "mask"), (pure, "bert"), (mixed, "none"), (mixed, "replace")]:
        assert transforms.needs_mask_token(transform)
        with pytest.raises(
            RecipeError, match=f"'{transform}' masks words, and the model's tokenizer has no mask token"
        ):
            transforms.apply(rows(), transform, 0.0, generator())
    for transforms, transform in [(pure, "none"), (pure, "replace"), (mixed, "noisy-embedding")]:
        assert not transforms.needs_mask_token(transform)
        transforms.apply(rows(), transform, 0.0, generator())


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="`probability` must be a share"):
        Transforms(Words(), probability=0.0)
    with pytest.raises(ValueError, match="`probability` must be a share"):
        Transforms(Words()).apply(rows(), "mask", 0.0, generator(), probability=1.5)
    with pytest.raises(ValueError, match="`temperature` must be above 0"):
        Transforms(Words(), temperature=0.0)
    with pytest.raises(ValueError, match="`transform`: unknown 'shuffle'"):
        Transforms(Words()).apply(rows(), "shuffle", 0.0, generator())
