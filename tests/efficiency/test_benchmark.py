"""The benchmark of steps, collection and reading, at its smallest."""

import json

import torch
from benchmarks import efficiency

from tests.tiny import tiny_encoder

TINY = efficiency.Size(layers=1, width=32, vocabulary=50, rounds=1, texts=40, compiled=False)


def test_every_part_gives_figures(tmp_path, monkeypatch, capsys):
    for variable in ("TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(variable, "false")  # so that they are put back
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    efficiency.run(efficiency.PARTS, TINY, str(tiny_encoder(tmp_path)))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(row["part"], row["variant"]): row for row in rows}
    assert set(found) == {
        ("step", "eager"),
        ("step", "AdamW foreach"),
        ("step", "AdamW fused"),
        ("step", "bf16 autocast, fused"),
        ("tokenise", "1 threads"),
        ("tokenise", "2 threads"),
        ("tokenise", "from the cache"),
        ("load", "0 workers"),
        ("load", "1 workers"),
    }
    assert found["step", "eager"]["over_eager"] == 1
    assert all(row["rows_a_second"] > 0 for row in rows if row["part"] == "tokenise")
    assert all(0 <= row["waiting_percent"] <= 100 for row in rows if row["part"] == "load")
