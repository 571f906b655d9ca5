"""What a sweep varies: how values are read, listed and named."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskloom.errors import RecipeError
from taskloom.sweep.driver import divide
from taskloom.sweep.plan import SweepPlan, checked_recipes
from taskloom.sweep.space import Choice, Drawn, grid, parse_dimension, slug


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1e-5,3e-5", ("a.b", Choice((1e-5, 3e-5)))),
        ("a=x, 'y,z' ,null,true,[1, 2]", ("a", Choice(("x", "y,z", None, True, [1, 2])))),
        ("only=[a,b],[a,c]", ("only", Choice((["a", "b"], ["a", "c"])))),
        ("a={x: 1, y: 2}", ("a", Choice(({"x": 1, "y": 2},)))),
        ("a=range(3)", ("a", Choice((0, 1, 2)))),
        ("a=range(1,10,3)", ("a", Choice((1, 4, 7)))),
        ("a=uniform(0,0.5)", ("a", Drawn(0, 0.5))),
        ("a=loguniform(1e-6,1e-4)", ("a", Drawn(1e-6, 1e-4, log=True))),
        ("a=randint(8,64)", ("a", Drawn(8, 64, integer=True))),
    ],
)
def test_values(text, expected):
    assert parse_dimension(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "expected a field and its values"),
        ("=1", "expected a field"),
        ("a=", "expected a field"),
        ("a=1,,2", "between two commas is missing"),
        ("a=range(1.5)", "range takes one to three integers"),
        ("a=range(1,5,0)", "range takes one to three integers"),
        ("a=range(5,1)", "this range is empty"),
        ("a=uniform(2,1)", "the lower first"),
        ("a=uniform(1)", "takes two numbers"),
        ("a=loguniform(0,1)", "numbers above 0"),
        ("a=randint(0.5,2)", "randint takes integers"),
        ("a=[1,2", "is no YAML value"),
    ],
)
def test_what_is_no_value(text, words):
    with pytest.raises(RecipeError, match=words):
        parse_dimension(text)


def test_a_grid_lists_all_combinations():
    space = {"a": Choice((1, 2)), "b": Choice(("x", "y"))}
    assert grid(space) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert grid({}) == [{}]
    with pytest.raises(RecipeError, match="b: is drawn from an interval"):
        grid({**space, "b": Drawn(0, 1)})


VALUES = st.one_of(
    st.integers(), st.floats(allow_nan=False), st.booleans(), st.text(max_size=30), st.lists(st.text(max_size=5))
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["a.x", "b.x", "c"]), VALUES),
    st.dictionaries(st.sampled_from(["a.x", "b.x", "c"]), VALUES),
)
def test_settings_have_a_folder_each(first, second):
    assert (slug(first) == slug(second)) is (
        list(first.items()) == list(second.items()) and repr(first) == repr(second)
    )
    assert 0 < len(slug(first)) <= 100
    assert "/" not in slug(first)


def test_folders_are_readable():
    assert slug({"training.learning_rate": 1e-5, "training.epochs": 3}) == "learning_rate=1e-05,epochs=3"
    assert slug({"a.x": 1, "b.x": 2}) == "a.x=1,b.x=2"
    assert slug({}) == "as-it-is"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model: {path: m}\ntasks: [glue/rte]\nsweep: {grid: {training.epochs: [1, 2]}}\n")
    return path


def test_single_values_are_every_trials(recipe):
    fixed, space = divide(recipe, ["training.batch_size=4", "training.learning_rate=1e-5,1e-4"])
    assert fixed == ["training.batch_size=4"]
    assert space == {"training.epochs": Choice((1, 2)), "training.learning_rate": Choice((1e-5, 1e-4))}
    assert divide(recipe, ["training.epochs=5"]) == (["training.epochs=5"], {})
    assert divide(recipe, ["training.epochs=5,6"]) == ([], {"training.epochs": Choice((5, 6))})


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"training.learning_rat": Choice((1, 2))}, "Did you mean 'training.learning_rate'"),
        ({"training.epochs": Choice((1, "many"))}, "training.epochs: found 'many'"),
        ({"training.warmup": Drawn(0.5, 2.0)}, "training.warmup"),
    ],
)
def test_fields_and_values_are_those_of_recipes(recipe, space, words):
    plan = SweepPlan(space, search="random", trials=1)
    with pytest.raises(RecipeError, match=words):
        checked_recipes(plan, recipe, [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"space": {}}, "there is nothing to vary"),
        ({"space": {"a": Choice((1, 2))}, "trials": 1}, "the grid has 2 settings"),
        ({"space": {"a": Drawn(0, 1)}}, "a grid cannot list"),
        ({"space": {"a": Drawn(0, 1)}, "search": "tpe"}, "say how many with --trials"),
        ({"space": {"a": Choice((1, 2))}, "stop": "asha", "metric": "nll"}, "goes with --metric mean only"),
    ],
)
def test_plans_that_are_none(options, words):
    with pytest.raises(RecipeError, match=words):
        SweepPlan(**options)
