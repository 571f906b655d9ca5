"""The benchmark of hyperdecoders, at a tiny size: its rows are whole, and what it compares is comparable."""

import json
from typing import Any

import benchmarks.hyperdecoder as benchmark
import pytest
import torch


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    monkeypatch.setitem(benchmark.SIZES, "tiny", sizes)


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_generation_has_the_length_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    place = benchmark.placement("cpu", torch.float32)
    inputs = benchmark.texts(2, 6, 32128, "cpu")
    for model in (benchmark.t5("tiny", place), benchmark.ours("tiny", place), benchmark.published("tiny", place)):
        texts = benchmark.generation(model, inputs, beams=2)()
        assert texts.shape == (2, 1 + benchmark.NEW_TOKENS)
    benchmark.generate_rows("tiny", 2, beams=1, rounds=1, device="cpu", dtype=torch.float32)
    (row,) = printed(capsys)
    assert row["published_over_ours"] > 0


def test_training_compares_equal_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.train_rows("tiny", 2, rounds=1, device="cpu", dtype=torch.float32)
    rows = {row["variant"]: row for row in printed(capsys)}
    assert rows[benchmark.OURS]["trained_parameters"] == rows[benchmark.PUBLISHED]["trained_parameters"]
    assert rows[benchmark.LORA]["trained_parameters"] == pytest.approx(
        rows[benchmark.OURS]["trained_parameters"], rel=0.05
    )
    assert rows[benchmark.FLOOR]["trained_parameters"] == 16
    assert rows[benchmark.FLOOR]["above_base_megabytes"] == 0
    assert rows[benchmark.OURS]["above_base_megabytes"] > 0
