"""This machine: free memory, processor speed, cores."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from graphlearn.jobs.costs import Costs
from graphlearn.processors import default_threads
from graphlearn.storage.memory import memory_available as memory_available  # noqa: PLC0414, offered here too

LOADAVG = Path("/proc/loadavg")
REFERENCE = 0.48e-3
"""CPU seconds of the reference machine in `pace`."""
BASE_MEMORY = 600 << 20
"""Bytes used by a process that has imported everything."""


@dataclass(frozen=True)
class Machine:
    """The machine that a plan is timed for.

    `gemm`: multiplications and additions per second of one core in a matrix product. `cores`: those that this process
    may use. `load`: threads of other programs per core of the machine. `pace`: seconds for work that takes the
    reference machine one. `cuda`: like `gemm`, for its GPU; 0 without one. `costs`: of operators in recent runs.
    """

    gemm: float
    cores: int = 1
    load: float = 0.0
    pace: float = 1.0
    cuda: float = 0.0
    costs: Costs = field(default_factory=Costs)

    def share(self, threads: int) -> float:
        """The share of a core that each of our threads gets, if all threads of the machine get the same."""
        return 1 / max(1.0, self.load + threads / self.cores)

    def device(self, kinds: Sequence[str]) -> str:
        """The first of these kinds of devices that the machine has; the last one if it has none of them."""
        return next((kind for kind in kinds if kind == "cpu" or (kind == "cuda" and self.cuda)), kinds[-1])


def this_machine() -> Machine:
    """The machine that this process runs on, measured for 60 ms, with the costs of its recent runs."""
    return Machine(
        gemm=core_gemm(), cores=default_threads(), load=load(), pace=pace(), cuda=cuda_gemm(), costs=Costs.load()
    )


def load(loadavg: Path = LOADAVG) -> float:
    """Threads of other programs that want to run, per core of the machine: as many as now, or as in the last minute.

    The lesser of the two counts: a run that has just ended is still part of the last minute.
    """
    found = [os.getloadavg()[0]] if hasattr(os, "getloadavg") else [0.0]
    with suppress(OSError, ValueError, IndexError):  # only Linux tells how many threads are running
        running = []
        for _ in range(10):
            time.sleep(0.002)
            running.append(int(loadavg.read_text().split()[3].partition("/")[0]))
        found.append(statistics.median(running) - 1)  # without this one
    return max(0.0, min(found)) / (os.cpu_count() or 1)


@lru_cache(maxsize=1)
def core_gemm() -> float:
    """Floating point operations per second of a float32 matrix product on one core, as if it had that core alone."""
    import torch

    from graphlearn.models.core.threads import threads

    a, b = torch.randn(500, 200), torch.randn(200, 500)

    def once() -> float:
        started = time.thread_time()
        torch.mm(a, b)
        return time.thread_time() - started

    with threads(1):  # the fastest, since other programs slow down the rest
        return 2 * 500 * 200 * 500 / max(1e-9, min(once() for _ in range(30)))


@lru_cache(maxsize=1)
def pace() -> float:
    """Seconds that this machine takes in the interpreter for what takes the reference machine one."""

    def once() -> float:
        started = time.thread_time()
        sum(i * i for i in range(20_000))
        return time.thread_time() - started

    return min(once() for _ in range(30)) / REFERENCE


@lru_cache(maxsize=1)
def cuda_gemm() -> float:
    """Floating point operations per second of a float32 matrix product on the GPU; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    a = torch.randn(4096, 4096, device="cuda")
    float((a @ a)[0, 0])  # reading a result waits for the device
    started = time.perf_counter()
    for _ in range(4):
        a @ a
    float((a @ a)[0, 0])
    return 5 * 2 * 4096**3 / (time.perf_counter() - started)


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
