"""Affinity matrices against their definition, subset by subset; and their symmetries."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch

from taskloom.affinity import GradientTable, SubsetSurrogate, TaskGradients, affinity_matrix, forward_evaluate
from taskloom.affinity.estimate import affinity_from
from taskloom.affinity.forward import forward_estimates
from taskloom.affinity.subsets import all_subsets, pair_subsets, random_subsets
from taskloom.gradients import Projection, projected_gradients
from tests.affinity.support import SIZES, table

TASKS = tuple(SIZES)
CLOSE = {"rtol": 1e-3, "atol": 1e-5, "equal_nan": True}
SUBSETS = [
    ("a", "b", "c"),
    ("a", "r", "s"),
    ("b", "r", "c"),
    ("c", "s", "b"),
    ("a", "c"),
    ("b", "r"),
    TASKS,
    ("a", "b"),
]


def test_pairwise_is_training_on_the_two():
    surrogate = SubsetSurrogate(table())
    found = affinity_matrix(surrogate, metric="auto")
    for i, first in enumerate(TASKS):
        for j, second in enumerate(TASKS):
            subset = (first,) if i == j else (first, second)
            estimates = surrogate.estimate([subset], "auto")
            assert float(found.values[i, j]) == pytest.approx(float(estimates.values[0, i]), abs=1e-7)
            assert float(found.stderr[i, j]) == pytest.approx(float(estimates.stderr[0, i]), abs=1e-7)
    assert (found.counts == 1).all()


def test_higher_order_is_the_mean_over_the_subsets_that_hold_both():
    surrogate = SubsetSurrogate(table())
    found = affinity_matrix(surrogate, subsets=SUBSETS)
    estimates = surrogate.estimate(SUBSETS)
    for i, first in enumerate(TASKS):
        for j, second in enumerate(TASKS):
            rows = [number for number, subset in enumerate(SUBSETS) if {first, second} <= set(subset)]
            values, errors = estimates.values[rows, i], estimates.stderr[rows, i]
            assert int(found.counts[i, j]) == len(rows)
            assert float(found.values[i, j]) == pytest.approx(-float(values.mean()))
            between = float(values.var()) / len(rows) if len(rows) > 1 else 0.0
            assert float(found.stderr[i, j]) == pytest.approx((between + float((errors**2).mean())) ** 0.5)


def losses_after(source, subset, task):
    """Return the loss of each validation example of `task` after training on `subset`."""
    rows = source.validation(task)
    change = SubsetSurrogate(source).fit([subset])[0]
    outputs = (rows.outputs.double() + rows.gradients.double() @ change).numpy()
    return np.logaddexp(0, -outputs) if rows.loss == "logistic" else (outputs - rows.labels.double().numpy()) ** 2


def test_pairwise_gain_is_the_paired_difference_from_training_alone():
    source = table()
    found = affinity_matrix(SubsetSurrogate(source))
    for i, first in enumerate(TASKS):
        for j, second in enumerate(TASKS):
            if i == j:
                assert found.gain[i, j] == found.gain_stderr[i, j] == 0
                continue
            better = losses_after(source, (first,), first) - losses_after(source, (first, second), first)
            assert float(found.gain[i, j]) == pytest.approx(better.mean(), abs=1e-7)
            assert float(found.gain_stderr[i, j]) == pytest.approx(better.std(ddof=1) / len(better) ** 0.5, rel=1e-4)
            assert found.gain_stderr[i, j] < 0.7 * found.stderr[i, j]


def test_estimates_without_gains_have_those_of_independent_samples():
    estimates = SubsetSurrogate(table()).estimate(pair_subsets(TASKS), scope="members")
    found, paired = affinity_from(estimates, alone=True), affinity_matrix(SubsetSurrogate(table()))
    torch.testing.assert_close(found.gain, paired.gain)
    assert float(found.gain_stderr[0, 2]) == pytest.approx(float((found.stderr[0, [0, 2]] ** 2).sum()) ** 0.5)


def test_higher_order_gain_has_the_error_of_a_random_choice_of_the_rows_subsets():
    found = affinity_matrix(SubsetSurrogate(table()), subsets=SUBSETS)
    estimates = SubsetSurrogate(table()).estimate(SUBSETS)
    for i, first in enumerate(TASKS):
        own = [number for number, subset in enumerate(SUBSETS) if first in subset]
        values = -estimates.values[own, i].numpy()
        for j in range(len(TASKS)):
            assert float(found.gain[i, j]) == pytest.approx(float(found.values[i, j]) - values.mean())
            means = [np.mean(part) for part in combinations(values, int(found.counts[i, j]))]
            assert float(found.gain_stderr[i, j]) == pytest.approx(np.std(means), abs=1e-9)


def test_the_spread_of_several_sources_is_part_of_the_error():
    sources = [table(seed=seed) for seed in range(3)]
    estimates = SubsetSurrogate(sources).estimate([("a",)])
    assert estimates.spread is not None
    expected = float((estimates.stderr[0, 0] ** 2 + estimates.spread[0, 0] ** 2 / 3).sqrt())
    found = affinity_matrix(SubsetSurrogate(sources))
    assert float(found.stderr[0, 0]) == pytest.approx(expected)
    # Each source's table has examples of its own: the differences over them average, and spread.
    differences = [losses_after(each, ("a",), "a") - losses_after(each, ("a", "c"), "a") for each in sources]
    sampling = np.mean(differences, axis=0).std(ddof=1) / 40**0.5
    between = np.std([each.mean() for each in differences], ddof=1) / 3**0.5
    assert float(found.gain_stderr[0, 2]) == pytest.approx(np.hypot(sampling, between), rel=1e-4)


@pytest.mark.parametrize("settings", [{}, {"size": 3, "number": 9}])
def test_permuting_tasks_permutes_the_answer(settings):
    order = ("s", "b", "r", "c", "a")
    plain = affinity_matrix(SubsetSurrogate(table()), **settings)
    turned = affinity_matrix(SubsetSurrogate(table(order=order)), **settings)
    places = [order.index(task) for task in TASKS]
    assert turned.tasks == order
    for name in ("values", "stderr", "gain", "gain_stderr"):
        part = getattr(turned, name)[places][:, places]
        torch.testing.assert_close(part, getattr(plain, name), rtol=1e-6, atol=1e-8)


def test_symmetric_is_the_mean_with_the_transpose():
    matrix = affinity_matrix(SubsetSurrogate(table()))
    assert not torch.equal(matrix.values, matrix.values.T)
    torch.testing.assert_close(matrix.symmetric(), (matrix.values + matrix.values.T) / 2)
    rows = (matrix.values - matrix.values.mean(1, keepdim=True)) / matrix.values.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(matrix.symmetric("standardize"), (rows + rows.T) / 2)


def test_pairs_without_a_subset_are_an_error_that_says_how_many_are_needed():
    message = (
        "leave 2 of the pairs of tasks without an estimate, such as 'c' with 's'.*at least 1 more subsets of size 3"
    )
    subsets = [("a", "b", "c"), ("a", "r", "s"), ("b", "r", "c"), ("b", "r", "s")]
    with pytest.raises(ValueError, match=message.replace("leave 2", "leave 1")):
        affinity_matrix(SubsetSurrogate(table()), subsets=subsets)
    with pytest.raises(ValueError, match="`size` and `number` describe random subsets"):
        affinity_matrix(SubsetSurrogate(table()), subsets=subsets, size=3)
    with pytest.raises(ValueError, match="`order` must be"):
        affinity_matrix(SubsetSurrogate(table()), order="triples")


def test_random_subsets_are_different_seeded_and_hold_every_pair():
    tasks = [f"t{number:02}" for number in range(20)]
    # 30 subsets of 5 have 300 places for 190 pairs: plain draws leave about a fifth of the pairs out.
    drawn = random_subsets(tasks, 5, 40, seed=1)
    assert len(set(drawn)) == 40
    assert all(len(set(subset)) == 5 for subset in drawn)
    assert {pair for subset in drawn for pair in combinations(subset, 2)} == set(combinations(tasks, 2))
    assert drawn == random_subsets(list(reversed(tasks)), 5, 40, seed=1)
    assert drawn != random_subsets(tasks, 5, 40, seed=2)


def test_random_subsets_are_uniform():
    counts = dict.fromkeys(combinations("abcdef", 3), 0)
    for seed in range(400):
        for subset in random_subsets("abcdef", 3, 8, seed=seed):
            counts[subset] += 1
    # 3,200 draws of 20 subsets: 160 each, with a standard deviation below 12.
    assert all(110 < count < 210 for count in counts.values())


def test_lists_of_subsets():
    assert pair_subsets("abc") == [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]
    assert len(set(all_subsets("abcde"))) == 31
    assert len(random_subsets("abcde", 2)) == comb(5, 2)
    with pytest.raises(ValueError, match="`tasks` must be at most 16"):
        all_subsets("abcdefghijklmnopq")
    with pytest.raises(ValueError, match="`size` must be between 1 and the number of tasks, 3"):
        random_subsets("abc", 4)
    with pytest.raises(ValueError, match="`number` must be between 1 and the 3 subsets"):
        random_subsets("abc", 2, 4)


def test_forward_evaluation_of_a_linear_model_is_the_linearised_one():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 1)
    projection = Projection(dimensions=4, seed=0)
    inputs, change = torch.randn(7, 5), torch.randn(2, 4)
    _, rows = projected_gradients(model, (inputs, torch.zeros(7)), lambda outputs, _: outputs.squeeze(1), projection)
    before = model.weight.detach().clone()
    expected = model(inputs).detach().squeeze(1) + change @ rows.T
    found = forward_evaluate(
        model, projection, change, lambda changed: {str(i): float(v) for i, v in enumerate(changed(inputs))}
    )
    for row, values in zip(found, expected.tolist(), strict=True):
        assert list(row.values()) == pytest.approx(values, abs=1e-4)
    assert torch.equal(model.weight, before)


def test_forward_gains_of_a_linear_model_are_the_linearised_ones():
    torch.manual_seed(0)
    model, projection = torch.nn.Linear(5, 1), Projection(dimensions=4, seed=0)

    def output(outputs, _):
        return outputs.squeeze(1)

    batches, rows = {}, {}
    for task in "ab":
        inputs = torch.randn(9, 5)
        outputs, gradients = projected_gradients(model, (inputs, torch.zeros(9)), output, projection)
        batches[task] = [(inputs, torch.zeros(9))]
        rows[task] = TaskGradients(gradients, outputs.detach(), torch.arange(9) % 2, "logistic")
    store = GradientTable(rows, rows)
    store.projection = projection
    surrogate = SubsetSurrogate(store, C=1.0)
    subsets = pair_subsets("ab")

    def run(model, batch):
        return model(batch[0])

    found = forward_estimates(surrogate, store, subsets, "loss", model, batches, output, run)
    expected = surrogate.estimate(subsets, scope="members", gains=True)
    for name in ("values", "stderr"):
        torch.testing.assert_close(getattr(found.gains, name), getattr(expected.gains, name), **CLOSE)
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **CLOSE)
    pairs = forward_estimates(surrogate, store, subsets[2:], "loss", model, batches, output, run)
    assert pairs.gains is None


def test_a_matrix_is_an_array_and_cluster_tasks_says_how_to_make_it_symmetric():
    from taskloom.affinity import cluster_tasks

    affinity = affinity_matrix(SubsetSurrogate(table()))
    assert np.array_equal(np.asarray(affinity), affinity.values.numpy())
    with pytest.raises(ValueError, match=r"`AffinityMatrix\.symmetric\(\)` gives"):
        cluster_tasks(affinity, 2)  # pyright: ignore[reportArgumentType]
