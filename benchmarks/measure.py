"""Measuring variants of one computation side by side: times as ratios within one run, and peak memory.

Machines are noisy and slow down over minutes, so the variants take turns: every round runs each of them once, in an
order that rotates, and a ratio is the median over rounds of the ratio within a round. On the CPU the time is processor
time, which with one thread is what a variant costs, whatever else the machine is doing.
"""

import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["interleaved_seconds", "peak_allocated", "peak_memory", "print_row", "ratio"]

Run = Callable[[], object]


def _now() -> float:
    """Return the time (seconds) on the clock that counts, when all work asked for so far is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def interleaved_seconds(variants: Mapping[str, Run], rounds: int, warmup: int = 2) -> dict[str, list[float]]:
    """Return the seconds that each variant took in each of `rounds` rounds, after `warmup` rounds that do not count."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = _now()
            variants[name]()
            taken = _now() - start
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Mapping[str, list[float]], variant: str, over: str) -> float:
    """Return how many times as long `variant` takes as `over`: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(seconds[variant], seconds[over], strict=True))


def peak_memory(run: Run) -> int | None:
    """Return the memory (bytes) that `run` needs at its peak on top of what is in use before it.

    On a GPU this is allocated memory, elsewhere resident memory, which Linux alone can reset: None on other systems.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if sys.platform != "linux":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but kept would hide what `run` takes
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def peak_allocated(run: Run) -> int:
    """Return the bytes of tensors that `run` holds at its peak on top of what it finds.

    Unlike resident memory this is the same at every run and on every machine: on the CPU the profiler counts each
    allocation. What `run` frees but did not allocate is not subtracted.
    """
    if torch.cuda.is_available():
        return peak_memory(run) or 0
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}.")


def print_row(**row: Any) -> None:
    """Print one result as one line of JSON."""
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}))
    sys.stdout.flush()
