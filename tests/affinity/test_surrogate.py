"""The surrogate against independent solvers: scikit-learn, SciPy, and the closed form of ridge regression."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, matthews_corrcoef

from taskloom.affinity import GradientTable, SubsetSurrogate, TaskGradients, solver
from taskloom.affinity.task_statistics import Basis, TaskStatistics
from taskloom.errors import DataError
from tests.affinity.support import DIMENSIONS, SIZES, logistic, squared, table

TASKS = tuple(SIZES)
REAL_BASIS = Basis.of


def objective(source, subset, strength, weights=None):
    """Return the value and gradient of the regression of `subset`, written plainly from its definition."""
    weights = weights or dict.fromkeys(subset, 1.0)

    def value_and_gradient(c):
        value, gradient = c @ c / 2, c.copy()
        for task in subset:
            rows = source.train(task)
            g, f, y = rows.gradients.double().numpy(), rows.outputs.double().numpy(), rows.labels.double().numpy()
            z = f + g @ c
            if rows.loss == "logistic":
                value += strength * weights[task] * np.logaddexp(0, -z).sum()
                gradient += strength * weights[task] * g.T @ -expit(-z)
            else:
                value += strength * weights[task] * ((z - y) ** 2).sum() / 2
                gradient += strength * weights[task] * g.T @ (z - y)
        return value, gradient

    return value_and_gradient


def oracle(source, subset, strength, weights=None):
    return minimize(
        objective(source, subset, strength, weights),
        np.zeros(DIMENSIONS),
        jac=True,
        method="L-BFGS-B",
        options={"gtol": 1e-11, "ftol": 1e-16, "maxiter": 5000},
    ).x


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_fit_equals_scipy_on_mixed_subsets_with_offsets(strength):
    source = table()
    subsets = [("a",), ("b", "c"), ("r",), ("a", "r"), TASKS, ("c", "s", "a"), ("r", "s")]
    found = SubsetSurrogate(source, C=strength).fit(subsets)
    for row, subset in zip(found.numpy(), subsets, strict=True):
        np.testing.assert_allclose(row, oracle(source, subset, strength), rtol=1e-5, atol=1e-6)


def test_without_offset_a_subset_is_scikit_learns_logistic_regression():
    source = table(offset=0.0)
    # Margins of the right answer: x = +-g with class +-1, so flipping half of the rows gives both classes.
    gradients = torch.cat([source.train(task).gradients for task in ("a", "b")]).double().numpy()
    signs = np.where(np.arange(len(gradients)) % 2, 1, -1)
    model = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=10_000)
    model.fit(gradients * signs[:, None], signs)
    found = SubsetSurrogate(source, C=0.5).fit([("a", "b")])[0]
    np.testing.assert_allclose(found.numpy(), model.coef_[0], rtol=1e-5, atol=1e-6)


def test_squared_tasks_are_ridge_regression_in_one_step():
    source = table()
    rows = [source.train(task) for task in ("r", "s")]
    gradients = torch.cat([part.gradients for part in rows]).double().numpy()
    targets = torch.cat([part.labels.double() - part.outputs.double() for part in rows]).numpy()
    expected = Ridge(alpha=1 / 0.3, fit_intercept=False).fit(gradients, targets).coef_
    # One check and no step: the Newton step from the base model is the answer.
    found = SubsetSurrogate(source, C=0.3, max_steps=1).fit([("r", "s")])[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_balance_lets_every_task_weigh_the_same():
    source = table()
    mean = sum(SIZES.values()) / len(SIZES)
    expected = oracle(source, ("a", "c", "r"), 1.0, {task: mean / SIZES[task] for task in SIZES})
    found = SubsetSurrogate(source, C=1.0, balance="tasks").fit([("a", "c", "r")])[0]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_what_all_tasks_share_is_computed_once(monkeypatch):
    made = []
    monkeypatch.setattr(Basis, "of", classmethod(lambda cls, tasks: made.append(len(tasks)) or REAL_BASIS(tasks)))
    surrogate = SubsetSurrogate(table(kinds=("logistic",)), memory=1)  # a chunk a subset
    surrogate.estimate([("a", "b"), ("b", "c"), ("a", "c")])
    surrogate.fit([("a", "b", "c")])
    assert made == [3]
    only_squared = SubsetSurrogate(table(kinds=("squared",)))
    only_squared.fit([("r", "s")])
    assert made == [3]


def test_memory_bound_start_and_order_do_not_change_the_answer():
    source = table()
    subsets = [("a", "b"), ("b",), ("a", "c", "r"), ("c", "s")]
    surrogate = SubsetSurrogate(source, tolerance=1e-9)
    whole = surrogate.fit(subsets)
    bound = SubsetSurrogate(source, tolerance=1e-9, memory=1)
    torch.testing.assert_close(bound.fit(subsets), whole, rtol=1e-7, atol=1e-9)
    started = surrogate.fit(subsets, start=torch.randn(whole.shape, dtype=torch.float64))
    torch.testing.assert_close(started, whole, rtol=1e-6, atol=1e-8)
    turned = surrogate.fit([tuple(reversed(subset)) for subset in reversed(subsets)]).flip(0)
    torch.testing.assert_close(turned, whole, rtol=1e-7, atol=1e-9)


def test_slow_problems_get_their_hessians_as_many_at_a_time_as_the_memory_holds(monkeypatch):
    subsets = [tasks for size in (1, 2) for tasks in combinations("abc", size)]
    source = table(kinds=("logistic",))
    whole = SubsetSurrogate(source, tolerance=1e-9).fit(subsets)
    held, real = [], solver._Problem.hessian
    monkeypatch.setattr(solver, "REFRESH", 1)
    monkeypatch.setattr(solver._Problem, "hessian", lambda self: held.append(len(self.coefficients)) or real(self))
    monkeypatch.setattr(solver, "bytes_a_subset", lambda dimensions, examples, exact: 3 if exact else 1)
    found = SubsetSurrogate(source, tolerance=1e-9).fit(subsets)
    torch.testing.assert_close(found, whole, rtol=1e-7, atol=1e-9)
    # Two of six problems at a time; a Hessian a step, until a step makes all converge.
    assert max(held) == 2
    assert sum(held) >= 6


def test_separable_large_and_tiny_problems_converge():
    generator = torch.Generator().manual_seed(3)
    rows = {}
    for task, scale in (("huge", 1e3), ("tiny", 1e-6), ("few", 30.0)):
        gradients = scale * (torch.randn(6 if task == "few" else 40, 8, generator=generator) + 1)
        rows[task] = logistic(gradients, torch.zeros(len(gradients)))
    surrogate = SubsetSurrogate(GradientTable(rows, rows), C=10.0, tolerance=1e-8)
    subsets = [("huge",), ("tiny",), ("few",), ("huge", "tiny", "few")]
    for subset, found in zip(subsets, surrogate.fit(subsets).numpy(), strict=True):
        source = GradientTable(rows, rows)
        _, left = objective(source, subset, 10.0)(found)
        _, first = objective(source, subset, 10.0)(np.zeros(8))
        assert np.linalg.norm(left) <= 2e-8 * np.linalg.norm(first)


@pytest.mark.parametrize("scale", [1e-25, 1e19, 1e25])
def test_numbers_beyond_single_precisions_range_converge(scale):
    # Squares overflow or vanish in float32, in which the first steps are made. The problem is that of scale 1.
    found = []
    for factor in (1.0, scale):
        rows = {"t": logistic(factor * table().train("a").gradients, table().train("a").outputs)}
        surrogate = SubsetSurrogate(GradientTable(rows, rows), C=factor**-2, tolerance=1e-9)
        found.append(factor * surrogate.fit([("t",)])[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("task", ["a", "r"])
def test_statistics_are_the_derivatives_at_the_base_model(task):
    # The answer does not depend on them, only its cost: wrong ones would go unseen.
    rows = table().train(task)
    found = TaskStatistics.of(rows.gradients, rows.outputs, rows.labels, rows.loss, 0.3)

    def losses(c):
        outputs = rows.outputs.double() + rows.gradients.double() @ c
        if rows.loss == "logistic":
            return 0.3 * torch.nn.functional.softplus(-outputs).sum()
        return 0.3 * ((outputs - rows.labels) ** 2).sum() / 2

    zero = torch.zeros(DIMENSIONS, dtype=torch.float64)
    torch.testing.assert_close(found.gradient, torch.func.grad(losses)(zero))
    torch.testing.assert_close(found.hessian, torch.func.hessian(losses)(zero))


def test_a_regression_that_has_not_converged_is_an_error_that_names_its_tasks():
    with pytest.raises(RuntimeError, match=r"1 subsets have not converged in 2 steps.*tasks a, b"):
        SubsetSurrogate(table(), C=100.0, max_steps=2).fit([("r",), ("a", "b")])


def test_evaluation_is_the_metric_of_the_linearised_outputs():
    source = table()
    surrogate = SubsetSurrogate(source, C=1.0)
    coefficients = surrogate.fit([("a", "b"), ("r", "c")])
    for metric, task in (("loss", "a"), ("accuracy", "b"), ("auto", "c"), ("loss", "r"), ("auto", "s")):
        column = surrogate.position(task)
        found = surrogate.evaluate(coefficients, metric, [task])[:, column]
        rows = source.validation(task)
        for value, change in zip(found.tolist(), coefficients, strict=True):
            z = (rows.outputs.double() + rows.gradients.double() @ change).numpy()
            y = rows.labels.double().numpy()
            expected = {
                ("logistic", "loss"): np.logaddexp(0, -z).mean(),
                ("logistic", "accuracy"): (z > 0).mean(),
                ("logistic", "auto"): (z > 0).mean(),
                ("squared", "loss"): ((z - y) ** 2).mean(),
                ("squared", "auto"): np.corrcoef(z, y)[0, 1],
            }[rows.loss, metric]
            assert value == pytest.approx(expected, rel=1e-9)


def test_f1_and_mcc_are_scikit_learns():
    source = table(kinds=("logistic",))
    surrogate = SubsetSurrogate(source)
    coefficients = surrogate.fit([("a",), ("b", "c")])
    for metric, reference in (("f1", f1_score), ("mcc", matthews_corrcoef)):
        for column, task in enumerate(source.tasks):
            rows = source.validation(task)
            labels = rows.labels.numpy()
            for value, change in zip(surrogate.evaluate(coefficients, metric)[:, column], coefficients, strict=True):
                right = (rows.outputs.double() + rows.gradients.double() @ change).numpy() > 0
                assert float(value) == pytest.approx(reference(labels, np.where(right, labels, 1 - labels)), rel=1e-9)


BOOTSTRAPPED = [
    *(("loss", "logistic"), ("accuracy", "logistic"), ("f1", "logistic"), ("mcc", "logistic")),
    *(("mse", "squared"), ("pearson", "squared")),
]


@pytest.mark.parametrize(("metric", "kind"), BOOTSTRAPPED)
def test_standard_errors_are_the_bootstraps(metric, kind):
    generator = torch.Generator().manual_seed(0)
    make = logistic if kind == "logistic" else squared
    table = {
        task: make(torch.randn(400, 3, generator=generator) + shift, torch.randn(400, generator=generator), generator)
        for task, shift in (("t", 0.2), ("u", torch.tensor([0.0, 0.5, -0.5])))
    }
    surrogate = SubsetSurrogate(GradientTable(table, table), C=0.01)
    subsets = [("t",), ("t", "u")]
    found, gains = surrogate.estimate(subsets, metric), surrogate.gains(subsets[1:], subsets[:1], metric)
    coefficients, values, rows = surrogate.fit(subsets), [], table["t"]
    for _ in range(600):
        drawn = torch.randint(400, (400,), generator=generator)
        part = TaskGradients(rows.gradients[drawn], rows.outputs[drawn], rows.labels[drawn], rows.loss)
        surrogate.sources = [GradientTable(table, {**table, "t": part})]
        values.append(surrogate.evaluate(coefficients, metric, ["t"])[:, 0])
    values = torch.stack(values)
    assert float(found.stderr[0, 0]) == pytest.approx(float(values[:, 0].std()), rel=0.12)
    assert float(gains.stderr[0, 0]) == pytest.approx(float((values[:, 1] - values[:, 0]).std()), rel=0.12)
    assert gains.stderr[0, 0] < 0.8 * found.stderr[0, 0]


@pytest.mark.parametrize("metric", ["loss", "auto"])
def test_gains_are_differences_of_estimates_and_larger_is_better(metric):
    surrogate = SubsetSurrogate([table(), table(seed=1)], memory=3000)
    subsets, against = [("a", "b"), ("c", "r", "s"), ("b",)], [("a",), ("c", "r"), ("b",)]
    first, second = (surrogate.estimate(part, metric).values for part in (subsets, against))
    sign = -1 if metric == "loss" else 1
    found = surrogate.gains(subsets, against, metric)
    torch.testing.assert_close(found.values, sign * (first - second), rtol=1e-6, atol=1e-8)
    one = surrogate.gains(subsets, against[:1], metric, tasks=["c"])
    torch.testing.assert_close(one.values[:, 2], sign * (first - second[:1])[:, 2], rtol=1e-6, atol=1e-8)
    assert one.values[:, [0, 1, 3, 4]].isnan().all()
    estimates = surrogate.estimate([*subsets, ("r",)], metric, gains=True)
    assert estimates.gains is not None
    alone = surrogate.estimate([(task,) for task in TASKS], metric).values.diagonal()
    expected = sign * (estimates.values - alone)
    torch.testing.assert_close(estimates.gains.values, expected, rtol=1e-6, atol=1e-8)
    assert abs(float(estimates.gains.stderr[3, 3])) < 1e-12  # r alone against itself
    with pytest.raises(ValueError, match="`against` must hold 1 or 3 subsets, as `coefficients` does, found 2"):
        surrogate.gains(subsets, against[:2], metric)


def test_bagging_averages_the_sources_and_reports_their_spread():
    sources = [table(seed=seed) for seed in range(3)]
    subsets = [("a", "b"), ("c", "r")]
    each = torch.stack([SubsetSurrogate(source).estimate(subsets).values for source in sources])
    found = SubsetSurrogate(sources).estimate(subsets)
    torch.testing.assert_close(found.values, each.mean(0))
    assert found.spread is not None
    torch.testing.assert_close(found.spread, each.std(0))
    assert SubsetSurrogate(sources).fit(subsets).shape == (3, 2, DIMENSIONS)


def test_bagging_the_same_source_changes_neither_value_nor_standard_error():
    one, two = (SubsetSurrogate(sources).estimate([("a", "r")]) for sources in (table(), [table(), table()]))
    torch.testing.assert_close(two.values, one.values)
    torch.testing.assert_close(two.stderr, one.stderr)
    assert one.spread is None


def test_rows_and_scope():
    estimates = SubsetSurrogate(table()).estimate([("a", "b"), ("r",)], scope="members")
    assert [row[:2] for row in estimates.rows()] == [("a", ("a", "b")), ("b", ("a", "b")), ("r", ("r",))]
    everywhere = SubsetSurrogate(table()).estimate([("a", "b"), ("r",)])
    assert len(list(everywhere.rows())) == 2 * len(TASKS)
    assert estimates.values[0, 1] == everywhere.values[0, 1]
    assert math.isfinite(next(estimates.rows())[3])


def changed(split, **fields):
    """Return the source with other fields in `split` of task b."""
    source = table()
    rows = {name: {task: getattr(source, name)(task) for task in TASKS} for name in ("train", "validation")}
    old = rows[split]["b"]
    new = {name: fields.get(name, getattr(old, name)) for name in ("gradients", "outputs", "labels", "loss")}
    rows[split]["b"] = TaskGradients(**new)
    return GradientTable(**rows)


def test_bad_data_is_named():
    rows = table().train("b")
    bad = rows.gradients.clone()
    bad[7, 2] = float("nan")
    with pytest.raises(DataError, match="Task 'b', train example 7: its gradient is not finite"):
        SubsetSurrogate(changed("train", gradients=bad))
    with pytest.raises(DataError, match="Task 'b', validation example 0: its output is not finite"):
        SubsetSurrogate(changed("validation", outputs=torch.full_like(table().validation("b").outputs, torch.inf)))
    with pytest.raises(DataError, match=r"Task 'b' has training examples of one class only \(class 1"):
        SubsetSurrogate(changed("train", labels=torch.ones_like(rows.labels)))
    none = {"gradients": rows.gradients[:0], "outputs": rows.outputs[:0], "labels": rows.labels[:0]}
    with pytest.raises(DataError, match="Task 'b' has no validation examples"):
        SubsetSurrogate(changed("validation", **none))
    SubsetSurrogate(changed("train", labels=torch.full_like(rows.labels, -1)))  # free text has no classes


def test_misuse_is_named():
    surrogate = SubsetSurrogate(table())
    for subsets, message in (
        ([("a", "a")], "number 0 must name each of its tasks once"),
        ([("a",), ()], "number 1 must name"),
        ([("a", "x")], "unknown task 'x'"),
        (["ab"], "number 0 is the text 'ab'"),
    ):
        with pytest.raises(ValueError, match=message):
            surrogate.fit(subsets)
    coefficients = surrogate.fit([("a",)])
    with pytest.raises(ValueError, match="`metric` 'f1' does not suit task 'r', whose loss is squared"):
        surrogate.evaluate(coefficients, "f1")
    with pytest.raises(ValueError, match=r"`metric` 'acuracy' is unknown\. Did you mean 'accuracy'"):
        surrogate.evaluate(coefficients, "acuracy")
    with pytest.raises(ValueError, match="`C` must be positive"):
        SubsetSurrogate(table(), C=0.0)
    with pytest.raises(ValueError, match="`outputs` must hold one number per gradient"):
        TaskGradients(torch.ones(3, 2), torch.ones(2), torch.ones(3), "logistic")
