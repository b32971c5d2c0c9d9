"""The machine that the figures were measured on."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime

import torch

from graphlearn.jobs.machine import gemm_flops
from graphlearn.processors import cores


def describe() -> str:
    """One line: processor, cores, matrix product rate, versions, date, commit."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            processor = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor}, {cores()} cores, {gemm_flops() / 1e9:.0f} GFLOP/s (float32 matrix product), {gpu}, "
        f"torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip() or 'unknown'}"
    )
