import matplotlib.image
import numpy as np
import pytest
import torch

from taskloom.affinity import AffinityMatrix
from taskloom.report import affinity_heatmap
from taskloom.report.heatmap import NAMED, VALUED, _draw


def matrix(count: int) -> AffinityMatrix:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, count, generator=generator, dtype=torch.float64)
    gain = values - values.diagonal()[:, None]
    errors = torch.full((count, count), 0.1, dtype=torch.float64)
    tasks = tuple(f"task <{number}> & $\\wrong$" for number in range(count))
    return AffinityMatrix(tasks, values, errors, gain, errors, torch.ones(count, count, dtype=torch.long), "loss")


@pytest.mark.parametrize("count", [1, 2, VALUED + 1, NAMED + 1])
def test_writes_both_formats_for_any_number_of_tasks(tmp_path, count):
    png, svg = affinity_heatmap(matrix(count), tmp_path / "heatmap.png", alone=True, clusters=[list(range(count))])
    assert matplotlib.image.imread(png).shape[0] > 300
    assert svg.read_text().startswith("<?xml")


def test_rows_and_columns_follow_the_clusters_and_unsure_gains_are_grey():
    gain = np.array([[0.0, 0.5, -0.02], [0.3, 0.0, 0.04], [-0.2, 0.1, 0.0]])
    error = np.full((3, 3), 0.05)
    error[0, 1] = np.nan
    figure = _draw(gain, error, ["a", "b", "c"], [[0, 2], [1]], "gain")
    axes = figure.axes[0]
    written = {
        (int(text.get_position()[1]), int(text.get_position()[0])): (text.get_text(), text.get_color())
        for text in axes.texts
    }
    assert written[1, 0] == ("+0.30", "black")
    assert written[0, 2] == ("-0.02", "0.45")
    assert written[0, 1][1] not in ("black", "white")  # its error is unknown
    assert (0, 0) not in written
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    outlines = [(patch.get_xy(), patch.get_width()) for patch in axes.patches]
    assert outlines == [((-0.5, -0.5), 2), ((1.5, 1.5), 1)]


def test_equal_input_gives_equal_files(tmp_path):
    first, second = (affinity_heatmap(matrix(4), tmp_path / name, alone=False) for name in ("one.png", "two.png"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
