"""The benchmarks' own measuring: turns, ratios, and memory on top of what is in use."""

import sys

import pytest
import torch
from benchmarks.measure import interleaved_seconds, peak_allocated, peak_memory, ratio


def test_variants_take_turns_in_rotating_order() -> None:
    ran: list[str] = []
    variants = {name: lambda name=name: ran.append(name) for name in "abc"}
    seconds = interleaved_seconds(variants, rounds=3, warmup=1)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert ["".join(sorted(ran[i : i + 3])) for i in range(0, 12, 3)] == ["abc"] * 4
    assert {"".join(ran[i : i + 3]) for i in range(3, 12, 3)} == {"abc", "bca", "cab"}


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert ratio({"a": [2.0, 30.0, 8.0], "b": [1.0, 10.0, 1.0]}, "a", over="b") == 3.0


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="resident memory, on Linux only")
def test_peak_memory_counts_what_is_freed_again() -> None:
    megabyte = 2**20
    taken = peak_memory(lambda: torch.ones(64 * megabyte // 4).sum())
    assert taken is not None
    assert 60 * megabyte < taken < 90 * megabyte


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts exactly what is asked for on the CPU only")
def test_peak_allocated_is_exact() -> None:
    old = [torch.ones(1000)]

    def run() -> None:
        old.clear()  # not allocated here, so not subtracted
        held = torch.ones(5000)
        (held + held).sum()
        del held
        torch.ones(6000)

    # 5,000 floats held, 5,000 more for their sum, and the sum of that as a last one.
    assert 40_000 <= peak_allocated(run) <= 40_000 + 64
