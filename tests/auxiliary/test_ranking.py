import csv
import io
import math

import pytest
import torch
from rich.console import Console

from taskloom.auxiliary.ranking import rank_objectives, ranking_table, write_ranking
from taskloom.auxiliary.space import SearchSpace
from taskloom.auxiliary.step import StepResult
from taskloom.auxiliary.tally import Tally
from taskloom.auxiliary.weights import ObjectiveWeights


def trained(auxiliary_lr=1.0):
    weights = ObjectiveWeights(SearchSpace.named("basic"), primary_lr=0.0, auxiliary_lr=auxiliary_lr, factored=False)
    tally = Tally(len(weights.space))
    for cosines in ([0.5, -0.5], [0.1, math.nan]):
        sampled, cosines = [4, 1], torch.tensor(cosines)
        compared = cosines if weights.learns else None
        tally.note(StepResult(sampled, torch.tensor([2.0, 3.0]), compared, torch.tensor(0.0)))
        weights.observe(sampled, cosines, 0.0, 0.0)
        weights.step()
    return weights, tally


def test_by_falling_weight_with_what_was_seen():
    ranked = rank_objectives(*trained())
    assert [each.objective for each in ranked] == [
        "task/mask/bidirectional/denoise",
        "task/none/bidirectional/denoise",
        "task/replace/bidirectional/denoise",
        "task/replace/bidirectional/tf",
        "task/mask/bidirectional/tf",
        "task/none/bidirectional/tf",
    ]
    first, last = ranked[0], ranked[-1]
    total = math.exp(0.6) + 4 + math.exp(-0.5)
    assert (first.weight, last.weight) == pytest.approx((math.exp(0.6) / total, math.exp(-0.5) / total))
    assert (first.cosine, first.loss) == pytest.approx((0.3, 2.0))
    assert (first.sampled, first.skipped) == (2, 0)
    assert (last.cosine, last.loss, last.sampled, last.skipped) == (-0.5, 3.0, 2, 1)
    assert math.isnan(ranked[1].cosine)
    assert ranked[1].sampled == 0


def test_static_weights_have_no_cosines():
    weights, tally = trained(auxiliary_lr=0.0)
    assert all(math.isnan(each.cosine) for each in rank_objectives(weights, tally))


def test_the_file(tmp_path):
    write_ranking(rank_objectives(*trained()), tmp_path / "objectives.csv")
    with (tmp_path / "objectives.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "rank": "1",
        "objective": "task/mask/bidirectional/denoise",
        "weight": f"{math.exp(0.6) / (math.exp(0.6) + 4 + math.exp(-0.5)):.6g}",
        "cosine": "0.3",
        "loss": "2",
        "sampled": "2",
        "skipped": "0",
    }
    assert (rows[1]["cosine"], rows[1]["sampled"]) == ("", "0")
    assert [row["rank"] for row in rows] == list("123456")


def shown(top: int) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(ranking_table(rank_objectives(*trained()), top))
    return console.export_text()


def test_the_table_shows_the_first():
    lines = [line.split() for line in shown(top=2).splitlines() if "/" in line]
    total = math.exp(0.6) + 4 + math.exp(-0.5)
    assert lines == [
        ["task/mask/bidirectional/denoise", f"{math.exp(0.6) / total:.4f}", "+0.300", "2"],
        ["task/none/bidirectional/denoise", f"{1 / total:.4f}", "–", "0"],
    ]
    assert "the first 2 of 6" in shown(top=2)


def test_the_table_says_what_was_left_out_only_if_something_was():
    assert "skipped" not in shown(top=2)
    text = shown(top=10)
    assert "skipped" in text
    assert "first" not in text
    assert [line.split()[-1] for line in text.splitlines() if "/" in line] == ["0"] * 5 + ["1"]
