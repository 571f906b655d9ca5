import json

import matplotlib.image
import numpy as np
import pytest

from taskloom.report import learning_curves
from taskloom.report.curves import COLOURS, MOST_PANELS, WINDOW, _columns, _draw, _moving_mean
from taskloom.report.history import read_history

TASKS = ("rte", "mrpc", "cola")


@pytest.fixture
def logs(tmp_path):
    paths = {}
    for run, offset in (("plain", 0.0), ("CA-MTL", 0.1)):
        entries = [
            {"step": step, "loss": 1 / step, **{f"loss/{task}": 1 / step + offset for task in TASKS}}
            | {"dev/mean": offset + step / 100, **{f"dev/{task}/accuracy": step / 100 for task in TASKS}}
            for step in range(5, 50, 5)
        ]
        paths[run] = tmp_path / f"{run}.jsonl"
        paths[run].write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return paths


def panels(figure):
    return {axes.get_title(): axes for part in figure.subfigs for axes in part.axes if axes.get_visible()}


def test_writes_a_picture_in_both_formats(logs, tmp_path):
    png, svg = learning_curves(logs, tmp_path / "pictures" / "curves.png")
    assert matplotlib.image.imread(png).shape[1] > 1000
    assert svg.read_text().startswith("<?xml")
    assert sorted(path.name for path in png.parent.iterdir()) == ["curves.png", "curves.svg"]


def test_the_same_logs_give_the_same_files(logs, tmp_path):
    first, second = (learning_curves(logs, tmp_path / name / "curves.png") for name in ("first", "second"))
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))


def test_one_line_a_run_and_two_panels_a_task(logs):
    figure = _draw({name: read_history(path) for name, path in logs.items()})
    assert len(figure.subfigs) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "CA-MTL"]
    for part in figure.subfigs[1:]:
        assert [axes.get_title() for axes in part.axes if axes.get_visible()] == list(TASKS)
    plain, conditional = panels(figure)["mean dev score"].lines
    assert (plain.get_color(), conditional.get_color()) == COLOURS[:2]
    np.testing.assert_allclose(conditional.get_ydata(), np.arange(5, 50, 5) / 100 + 0.1)


def test_of_hundreds_of_tasks_the_first_are_drawn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 1.0, **{f"loss/t{task}": 1.0 for task in range(200)}}) + "\n")
    figure = _draw({"run": read_history(path)})
    for part in figure.subfigs[1:]:
        assert len([axes for axes in part.axes if axes.get_visible()]) == MOST_PANELS
    assert f"{MOST_PANELS} of 200 tasks" in figure.subfigs[2].get_suptitle()


def test_a_single_task_needs_no_panels_of_its_own(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0, "loss/rte": 1.0}\n')
    assert len(_draw({"run": read_history(path)}).subfigs) == 1


@pytest.mark.filterwarnings("error")
def test_a_run_that_has_logged_nothing_yet_is_drawn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.touch()
    learning_curves({"run": path}, tmp_path / "curves.png")


def test_no_text_lies_on_other_text(logs):
    figure = _draw({f"a run with quite a long name, seed {seed}": read_history(logs["plain"]) for seed in range(5)})
    figure.draw_without_rendering()
    axes = [axes for part in figure.subfigs for axes in part.axes if axes.get_visible()]
    boxes = [axis.get_tightbbox() for axis in axes] + [figure.legends[0].get_window_extent()]
    boxes += [part._suptitle.get_window_extent() for part in figure.subfigs[1:]]
    overlaps = [(one, other) for i, one in enumerate(boxes) for other in boxes[:i] if one.padded(-1).overlaps(other)]
    assert not overlaps
    assert all(figure.bbox.padded(1).contains(*corner) for box in boxes for corner in (box.min, box.max))


def test_moving_mean_by_hand():
    assert WINDOW == 5
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    expected = [
        (1 + 2) / 2,
        (1 + 2 + 4) / 3,
        (1 + 2 + 4 + 5) / 4,
        (2 + 4 + 5 + 6) / 4,
        (4 + 5 + 6) / 3,
        (4 + 5 + 6) / 3,
    ]
    np.testing.assert_allclose(_moving_mean(values), expected)
    assert np.isnan(_moving_mean(np.array([np.nan]))).all()


@pytest.mark.parametrize(("panels", "columns"), [(2, 2), (3, 3), (4, 4), (5, 3), (6, 3), (7, 4), (8, 4), (9, 3)])
def test_few_places_stay_empty(panels, columns):
    assert _columns(panels) == columns
