import matplotlib.image
import numpy as np
import pytest

from taskloom.auxiliary.history import WeightHistory
from taskloom.auxiliary.space import SearchSpace
from taskloom.report import objective_curves, stage_curves
from taskloom.report.objectives import _draw_objectives, _draw_stages


def history(name: str, rows: int = 4) -> WeightHistory:
    rng, space = np.random.default_rng(0), SearchSpace.named(name)

    def shares(names):
        values = rng.dirichlet(np.ones(len(names)), size=rows).T
        return dict(zip(names, values, strict=True))

    return WeightHistory(
        np.arange(1, rows + 1) * 10,
        *shares(["primary", "auxiliary"]).values(),
        {stage: shares(words) for stage, words in space.stages.items()},
        shares([objective.name for objective in space]),
    )


@pytest.mark.parametrize(("name", "rows"), [("full", 4), ("tapt", 1)])
@pytest.mark.parametrize("draw", [stage_curves, objective_curves])
def test_writes_both_formats_and_repeats_itself(tmp_path, name, rows, draw):
    png, svg = draw(history(name, rows), tmp_path / "first.png")
    assert matplotlib.image.imread(png).shape[1] > 900
    assert svg.read_text().startswith("<?xml")
    again, _ = draw(history(name, rows), tmp_path / "second.png")
    assert png.read_bytes() == again.read_bytes()


def test_a_panel_a_stage_that_has_a_choice():
    titles = [axes.get_title(loc="left") for axes in _draw_stages(history("full")).axes]
    assert titles == ["primary and auxiliary loss", "data", "transform", "representation", "output"]
    titles = [axes.get_title(loc="left") for axes in _draw_stages(history("basic")).axes]
    assert titles == ["primary and auxiliary loss", "transform", "output"]


def test_the_highest_at_the_end_have_lines_and_the_others_a_range():
    given = history("full")
    (axes,) = _draw_objectives(given, top=3).axes
    labels = axes.get_legend_handles_labels()[1]
    last = {name: values[-1] for name, values in given.objectives.items()}
    best = sorted(last, key=lambda name: -last[name])[:3]
    assert [label for label in labels if "/" in label] == best
    assert "the other 349, lowest to highest" in labels
    # More lines than objectives: no range.
    assert not any(
        "other" in label for label in _draw_objectives(history("basic"), 10).axes[0].get_legend_handles_labels()[1]
    )


def test_noise_is_not_blown_up():
    flat = history("basic")
    for values in flat.objectives.values():
        values[:] = 1 / 6 + 1e-9
    low, high = _draw_objectives(flat, 10).axes[0].get_ylim()
    assert low < 0.16 < 0.17 < high


def test_names_stand_beside_the_lines_inside_the_picture():
    for figure in (_draw_stages(history("full")), _draw_objectives(history("full"), 10)):
        figure.draw_without_rendering()
        legends = [axes.get_legend().get_window_extent() for axes in figure.axes]
        assert all(figure.bbox.padded(1).contains(*corner) for box in legends for corner in (box.min, box.max))
        assert not any(one.overlaps(other) for i, one in enumerate(legends) for other in legends[:i])
        assert not any(axes.bbox.overlaps(box) for axes, box in zip(figure.axes, legends, strict=True))


def test_a_run_that_has_logged_nothing_yet_is_drawn(tmp_path):
    empty = history("basic", rows=0)
    stage_curves(empty, tmp_path / "stages.png")
    objective_curves(empty, tmp_path / "objectives.png")
