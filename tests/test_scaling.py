"""The plan beyond one machine: its arithmetic by hand and the page that shows it; the study of scale, small."""

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from studies import scaling, scaling_plan
from transformers import LlamaConfig, LlamaForCausalLM

from taskloom.adapters import HyperdecoderConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
TINY = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
}


def test_counts_are_those_of_a_real_model():
    found = scaling_plan.sizes(scaling_plan.on_meta(TINY, adapter_dim=4, bottleneck=3))
    config = HyperdecoderConfig(
        encoder="none", decoder="instance_generated", adapter_dim=4, bottleneck=3, task_type="CAUSAL_LM"
    )
    real = get_peft_model(LlamaForCausalLM(LlamaConfig(**TINY)), config)
    counts = {True: 0, False: 0}
    for parameter in real.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert (found.trained, found.frozen) == (counts[True], counts[False])
    # A down- and an up-projection with their biases: what an adapter of width 4 beside 16 has.
    assert found.generated == 2 * 4 * 16 + 4 + 16
    # Embeddings, head and the last norm.
    assert found.root == 2 * 50 * 16 + 16


def test_memory_is_divided_but_for_what_each_gpu_computes():
    found = scaling_plan.sizes(scaling_plan.on_meta(TINY, adapter_dim=4, bottleneck=3))
    one, four = (scaling_plan.memory(found, TINY, gpus, rows=2, tokens=8) for gpus in (1, 4))
    assert one["base, bf16"] == 2 * found.frozen
    assert one["adapters, fp32"] + one["gradients, fp32"] + one["AdamW, fp32"] == 16 * found.trained
    for part in ("base, bf16", "adapters, fp32", "gradients, fp32", "AdamW, fp32"):
        assert four[part] == one[part] / 4
    assert (one["gathered blocks"], four["gathered blocks"] > 0) == (0, True)
    for part in ("activations", "generated weights", "logits, fp32"):
        assert four[part] == one[part]
    twice = scaling_plan.memory(found, TINY, 4, rows=4, tokens=8)
    assert twice["activations"] == 2 * four["activations"]


def test_stores_and_streams():
    # 1,000 x 10M examples of 200 numbers, an output and a label: 8.08 TB.
    assert scaling_plan.stored_bytes(1e10, 200) == pytest.approx(8.08e12)
    assert scaling_plan.training_flops(10, 3, frozen=False) == 180
    assert scaling_plan.training_flops(10, 3, frozen=True) == 120
    assert scaling_plan.document_seconds(1e9, 100, 6e14, 2.8e12) == pytest.approx(1e-3 + 1e-2)


def test_the_store_is_as_large_as_the_plan_says(tmp_path):
    found = scaling.collect(tmp_path, 4)
    expected = scaling_plan.stored_bytes(found["examples"], scaling.DIMENSIONS)
    assert expected < found["bytes"] < 1.02 * expected


def test_the_page_shows_the_tables_that_the_script_prints(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scaling_plan"])
    scaling_plan.main()
    page = PAGE.read_text("utf-8")
    for line in capsys.readouterr().out.splitlines():
        assert line in page


def test_the_study_goes_on_where_it_stopped_and_measures_every_stage(tmp_path, monkeypatch):
    for name, value in {"TRAIN": 60, "VALIDATION": 30, "DIMENSIONS": 20}.items():
        monkeypatch.setattr(scaling, name, value)
    measured = [{"stage": stage, "tasks": 5, "processor_seconds": 0.5, "peak_bytes": 3e8} for stage in scaling.STAGES]
    (tmp_path / "scaling.json").write_text(json.dumps({"rows": measured}))
    monkeypatch.setattr(sys, "argv", ["scaling", "--tasks", "5", "10", "--output", str(tmp_path)])
    scaling.main()
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert rows[: len(measured)] == measured
    assert [(row["tasks"], row["stage"]) for row in rows[len(measured) :]] == [(10, stage) for stage in scaling.STAGES]
    assert all(row["peak_bytes"] > 1e7 for row in rows)
    assert (tmp_path / "scaling.png").stat().st_size > 5000


def test_growth_is_the_power_of_the_number_of_tasks():
    rows = [{"stage": "collect", "tasks": n, "seconds": 3.0 * n**2} for n in (10, 100, 1000)]
    assert scaling.exponents(rows, "seconds") == {"collect": 2.0}


def test_families_are_of_equal_size():
    assert torch.tensor(scaling.families(1000)).bincount().tolist() == [50] * 20
    assert torch.tensor(scaling.families(50)).bincount().tolist() == [5] * 10
