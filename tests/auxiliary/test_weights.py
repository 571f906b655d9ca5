import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskloom.auxiliary.space import SearchSpace
from taskloom.auxiliary.weights import ObjectiveWeights
from taskloom.errors import RunError

STAGES = ("data", "transform", "representation", "output")
SPACE = {
    "data": ["task", "in-domain"],
    "transforms": ["none", "mask"],
    "representations": ["bidirectional", "left-to-right"],
    "outputs": ["denoise", "tf", "next-sentence"],
}


def space():
    return SearchSpace.from_mapping(SPACE)


def make(**settings):
    return ObjectiveWeights(space(), **{"primary_lr": 0.3, "auxiliary_lr": 0.7, **settings})


class Oracle:
    """The published procedure on plain dictionaries: logits by stage and value, gradients summed over a window."""

    def __init__(self, objectives, sizes, lr, balance_lr, update, every, factored):
        start = 1.0 if update == "exponentiated" else 0.0
        self.objectives, self.sizes, self.update, self.every, self.factored = objectives, sizes, update, every, factored
        self.lr, self.balance_lr, self.start, self.steps = lr, balance_lr, start, 0
        self.logits = {("all", o): start for o in objectives} | {
            (stage, word): start for o in objectives for stage, word in zip(STAGES, o.words, strict=True)
        }
        self.pair = [start, start]
        self.clear()

    def clear(self):
        self.gradients, self.pair_gradients = dict.fromkeys(self.logits, 0.0), [0.0, 0.0]

    def step(self, agreements, primary, auxiliary):
        for o, u in agreements.items():
            if math.isfinite(u):
                self.gradients["all", o] -= u
                if self.factored:
                    for place in zip(STAGES, o.words, strict=True):
                        self.gradients[place] -= u
        for index, u in enumerate((primary, auxiliary)):
            if math.isfinite(u):
                self.pair_gradients[index] -= u
        self.steps += 1
        if self.steps % self.every == 0:
            combinations = math.prod(self.sizes.values())
            for place, gradient in self.gradients.items():
                factor = self.sizes.get(place[0], combinations) / combinations
                self.logits[place] = self.moved(self.logits[place], self.lr, gradient, factor)
            self.pair = [
                self.moved(x, self.balance_lr, g, 1.0) for x, g in zip(self.pair, self.pair_gradients, strict=True)
            ]
            self.clear()

    def moved(self, logit, lr, gradient, factor):
        if self.update == "exponentiated":
            return logit * math.exp(-lr * gradient * factor / self.every)
        return logit - lr * gradient / self.every

    def probabilities(self, among=None):
        exponents = [
            math.exp(self.logits["all", o] + sum(self.logits[p] for p in zip(STAGES, o.words, strict=True)))
            for o in among or self.objectives
        ]
        return [x / sum(exponents) for x in exponents]


@pytest.mark.parametrize("factored", [True, False])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("update", ["additive", "exponentiated"])
def test_twenty_steps_equal_the_plain_procedure(update, every, factored):
    weights = make(update=update, step_every=every, factored=factored)
    objectives = list(weights.space)
    sizes = {stage: len(words) for stage, words in weights.space.stages.items()}
    oracle = Oracle(objectives, sizes, 0.7, 0.3, update, every, factored)
    rng = np.random.default_rng(0)
    for number in range(20):
        sampled = weights.sample(5, rng)
        cosines = rng.uniform(-1, 1, 5)
        if number == 4:
            cosines[2] = math.nan
        primary, auxiliary = rng.uniform(-1, 1, 2)
        oracle.step({objectives[i]: u for i, u in zip(sampled, cosines, strict=True)}, primary, auxiliary)
        weights.observe(sampled, torch.tensor(cosines), primary, torch.tensor(auxiliary))
        weights.step()
        np.testing.assert_allclose(weights.probabilities(), oracle.probabilities(), rtol=1e-12)
        np.testing.assert_allclose(
            weights.among(sampled), oracle.probabilities([objectives[i] for i in sampled]), rtol=1e-12
        )
        shares = np.exp(oracle.pair) / np.exp(oracle.pair).sum()
        np.testing.assert_allclose(weights.balance(), shares, rtol=1e-12)
    # The learned part of a transform's logit.
    learned = oracle.logits["transform", "mask"] - oracle.start
    assert weights.transform_logit("mask") == pytest.approx(learned, rel=1e-12)
    assert (learned == 0) is not factored


def test_equal_at_the_start():
    for update in ("additive", "exponentiated"):
        weights = make(update=update)
        count = len(weights.space)
        assert count == 2 * 2 * (3 + 2)
        np.testing.assert_allclose(weights.probabilities(), np.full(count, 1 / count))
        assert weights.balance() == (0.5, 0.5)
        assert weights.transform_logit("none") == 0
        assert weights.stage_probabilities()["output"] == pytest.approx(
            {"denoise": 1 / 3, "tf": 1 / 3, "next-sentence": 1 / 3}
        )


@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_exponentiated_logits_have_a_softmax_however_far_they_run(cosine):
    weights = make(primary_lr=1e3, auxiliary_lr=1e3, update="exponentiated")
    for agreement in (cosine, cosine, -cosine):
        weights.observe([0, 1], torch.tensor([agreement, -agreement]), agreement, -agreement)
        weights.step()
        assert weights.probabilities().isfinite().all()
        assert sum(weights.balance()) == pytest.approx(1)
    assert all(logits.gt(0).all() for logits in weights.logits.values())


def test_additive_without_factors_is_exponentiated_gradient():
    weights = make(factored=False)
    before = weights.probabilities()
    agreement = torch.linspace(-1, 1, len(before), dtype=torch.float64)
    weights.observe(range(len(before)), agreement, 0.0, 0.0)
    weights.step()
    expected = before * (0.7 * agreement).exp()
    torch.testing.assert_close(weights.probabilities(), expected / expected.sum())


def test_without_factors_a_stage_has_the_sum_of_its_objectives():
    weights = make(factored=False)
    weights.observe([3, 4], torch.tensor([1.0, -0.5]), 0.0, 0.0)
    weights.step()
    shares = weights.stage_probabilities()
    for stage in STAGES:
        for word, share in shares[stage].items():
            of_word = [
                p.item()
                for o, p in zip(weights.space, weights.probabilities(), strict=True)
                if dict(zip(STAGES, o.words, strict=True))[stage] == word
            ]
            assert share == pytest.approx(sum(of_word))


def test_agreement_is_shared_by_objectives_with_the_same_choice():
    weights = make()
    names = [objective.name for objective in weights.space]
    weights.observe([names.index("task/mask/bidirectional/denoise")], torch.tensor([1.0]), 0.0, 0.0)
    weights.step()
    by_name = dict(zip(names, weights.probabilities().tolist(), strict=True))
    assert by_name["task/mask/bidirectional/denoise"] == max(by_name.values())
    # Three choices in common are more than two, which are more than none.
    assert by_name["task/mask/bidirectional/tf"] > by_name["task/none/bidirectional/tf"]
    assert by_name["task/none/bidirectional/tf"] > by_name["in-domain/none/left-to-right/tf"]


def test_what_is_not_finite_is_left_out_and_counted():
    weights, clean = make(), make()
    weights.observe([1, 4, 6], torch.tensor([math.nan, 0.5, math.inf]), math.nan, 0.2)
    clean.observe([4], torch.tensor([0.5]), 0.0, 0.2)
    for each in (weights, clean):
        each.step()
    torch.testing.assert_close(weights.probabilities(), clean.probabilities(), rtol=0, atol=0)
    assert weights.balance() == clean.balance()
    assert weights.skipped.nonzero().flatten().tolist() == [1, 6]
    assert weights.skipped_balance.tolist() == [1, 0]


def test_nothing_moves_with_rates_of_zero():
    assert not make(primary_lr=0, auxiliary_lr=0).learns
    for rates in ({"primary_lr": 0}, {"auxiliary_lr": 0}):
        weights = make(**rates)
        assert weights.learns
        weights.observe([0, 1], torch.tensor([1.0, -1.0]), 0.9, -0.9)
        weights.step()
        assert (weights.balance() == (0.5, 0.5)) is ("primary_lr" in rates)
        assert bool((weights.probabilities() == weights.probabilities()[0]).all()) is ("auxiliary_lr" in rates)


def test_sampling_is_uniform_without_replacement_and_repeats():
    weights = make()
    count = len(weights.space)
    draws = [weights.sample(4, np.random.default_rng(seed)) for seed in range(2000)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert draws[:50] == [weights.sample(4, np.random.default_rng(seed)) for seed in range(50)]
    shares = np.bincount(np.concatenate(draws), minlength=count) / 2000
    # Each objective is in a draw with probability 4/20: five standard deviations.
    assert np.abs(shares - 4 / count).max() < 5 * math.sqrt(0.2 * 0.8 / 2000)
    assert weights.sample(count + 3, np.random.default_rng(0)) == list(range(count))


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_learning_goes_on_in_the_middle_of_a_window(tmp_path, kept):
    rng = np.random.default_rng(1)
    steps = [
        (weights_ids, rng.uniform(-1, 1, 3)) for weights_ids in ([0, 1, 2], [3, 9, 5], [0, 5, 7], [1, 2, 8], [4, 5, 6])
    ]

    def learn(weights, part):
        for ids, cosines in part:
            weights.observe(ids, torch.tensor(cosines), cosines[0], cosines[1])
            weights.step()

    whole, first, second = make(step_every=3), make(step_every=3), make(step_every=3)
    learn(whole, steps)
    learn(first, steps[:kept])
    state = first.state_dict()
    learn(first, steps)  # what is learned later must not reach the state that was kept
    save_file(state, tmp_path / "state.safetensors")
    second.load_state_dict(load_file(tmp_path / "state.safetensors"))
    learn(second, steps[kept:])
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_state_of_another_space_is_refused():
    other = ObjectiveWeights(SearchSpace.named("basic"), primary_lr=0.1, auxiliary_lr=0.1)
    with pytest.raises(RunError, match=r"another search space: 'joint' has the shape \(6,\), expected \(20,\)"):
        make().load_state_dict(other.state_dict())


def learned():
    weights = make(step_every=2)
    for _ in range(3):
        weights.observe([0, 3, 6], torch.tensor([0.4, -0.2, 0.9]), 0.8, 0.1)
        weights.step()
    return weights


def test_warm_start_takes_the_logits_and_nothing_else(tmp_path):
    earlier, later = learned(), make(step_every=2)
    earlier.save(tmp_path / "weights.safetensors")
    later.load_logits(tmp_path / "weights.safetensors")
    torch.testing.assert_close(later.probabilities(), earlier.probabilities(), rtol=0, atol=0)
    assert later.transform_logit("mask") == earlier.transform_logit("mask") != 0
    assert earlier.balance() != (0.5, 0.5)
    assert later.balance() == (0.5, 0.5)
    fresh = make(step_every=2).state_dict()
    assert all(torch.equal(later.state_dict()[name], fresh[name]) for name in ("pending", "steps", "skipped"))


def test_warm_start_from_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(RunError, match="there are no weights of objectives"):
        make().load_logits(path)
    learned().save(path)
    changed = copy.deepcopy(SPACE)
    changed["transforms"] = ["none", "replace"]
    other = ObjectiveWeights(SearchSpace.from_mapping(changed), primary_lr=0.1, auxiliary_lr=0.1)
    with pytest.raises(
        RunError, match=r"objective 6 is task/mask/bidirectional/denoise there \(20 in all\) and task/replace/bi.* here"
    ):
        other.load_logits(path)
    smaller = space().restrict(list(space())[:-1])
    with pytest.raises(RunError, match=r"objective 20 is in-domain/mask/left-to-right/tf there .* and none here"):
        ObjectiveWeights(smaller, primary_lr=0.1, auxiliary_lr=0.1).load_logits(path)
    with pytest.raises(RunError, match="learned with the update additive"):
        make(update="exponentiated").load_logits(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="not a file of objectives' weights, or damaged"):
        make().load_logits(path)
    save_file({"joint": torch.zeros(20)}, path)
    with pytest.raises(RunError, match="not a file of objectives' weights, or damaged"):
        make().load_logits(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"primary_lr": -0.1}, "`primary_lr` and `auxiliary_lr` must not be negative"),
        ({"update": "sgd"}, "`update` must be additive or exponentiated, found 'sgd'"),
        ({"step_every": 0}, "`step_every` must be at least 1, found 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_wrong_arguments():
    weights = make()
    with pytest.raises(ValueError, match=r"`cosines` must have the shape \[2\], found \[3\]"):
        weights.observe([0, 1], torch.zeros(3), 0, 0)
    with pytest.raises(ValueError, match="`transform` must be one of none, mask, found 'bert'"):
        weights.transform_logit("bert")
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        weights.sample(0, np.random.default_rng(0))
