"""The processors that this process may use, and how its idle threads wait."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from graphlearn.control_groups import PROC, control_groups

SPINS = "1000"
"""How often an idle OpenMP thread looks for work before it sleeps: about 50 microseconds.

The default of GNU OpenMP, 300,000, keeps a processor busy for milliseconds after every parallel loop. When a thread of
the same loop has to wait for a processor that another program uses, that multiplies the CPU time of training.
"""


def cores(proc: Path = PROC) -> int:
    """The number of processors that this process may use: its affinity and the quotas of its control groups."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(proc))]))


def default_threads() -> int:
    """The number of threads for work that can use any number: OMP_NUM_THREADS if set, but not more than `cores()`."""
    with suppress(ValueError):
        wanted = int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])
        if wanted >= 1:
            return min(wanted, cores())
    return cores()


def spin_briefly() -> None:
    """Let idle threads sleep after a moment. Works only before torch is imported, and keeps what the user has set."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def _quotas(proc: Path) -> Iterator[float]:
    """Processors' worth of time that control groups allow."""
    for version, folder in control_groups("cpu", proc):
        with suppress(OSError, ValueError):  # no limit: no file, "max" or -1
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0 and int(period) > 0:
                yield int(quota) / int(period)
