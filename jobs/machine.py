"""This machine: free memory, processor speed, cores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

BASE_MEMORY = 600 << 20
"""Bytes used by a process that has imported everything."""


@dataclass(frozen=True)
class Machine:
    """The machine that a plan is timed for. `gemm`: multiplications and additions per second in a matrix product."""

    gemm: float


def this_machine() -> Machine:
    """The machine that this process runs on, measured for 50 ms."""
    return Machine(gemm_flops())


def memory_available() -> int:
    """Bytes that this process can still allocate: the free memory of the machine or, if less, of its control group."""
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            room = int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):
            continue
        free = min(free, max(0, room))
    return free


@lru_cache(maxsize=1)
def gemm_flops() -> float:
    """Floating point operations per second of a float32 matrix product on all cores, measured for 50 ms."""
    import torch

    a, b = torch.randn(1000, 400), torch.randn(400, 1000)
    torch.mm(a, b)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 0.05:
        torch.mm(a, b)
        count += 1
    return count * 2 * 1000 * 400 * 1000 / (time.perf_counter() - started)
