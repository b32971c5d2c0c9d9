"""`graphlearn doctor`: versions, devices, memory and disk."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click

from graphlearn import __version__
from graphlearn.jobs.machine import gemm_flops, memory_available
from graphlearn.jobs.registry import broken, names
from graphlearn.printing import print_fields, to_json_line
from graphlearn.processors import cores
from graphlearn.text import human_bytes
from graphlearn.types import Json

NEEDED = ("torch", "duckdb", "pyarrow", "numpy", "numba", "safetensors", "networkx", "rich", "click")
OPTIONAL = {
    "matplotlib": ("plot", "pictures of runs"),
    "tensorboard": ("tensorboard", "TensorBoard event files"),
    "torch_geometric": ("pyg", "to_pyg and from_pyg"),
    "dgl": ("dgl", "to_dgl; only for Python 3.11"),
    "ray": ("ray", "not used by this version"),
}
"""Modules that are used if they are installed: the extra that installs them, and what for."""


def diagnose(workspace: Path) -> Json:
    """The diagnosis as a JSON-serialisable record. Measures the processor for 50 ms."""
    import torch

    home = next((folder for folder in (workspace.absolute().parent, Path.cwd()) if folder.is_dir()), Path("/"))
    return {
        "graphlearn": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in NEEDED},
        "optional": {name: _version(name) if find_spec(name) else None for name in OPTIONAL},
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gemm_gflops": round(gemm_flops() / 1e9, 1),
        "memory_free": memory_available(),
        "disk_free": shutil.disk_usage(home).free,
        "disk": str(home),
        "devices": _devices(),
        "types": names(),
        "broken": {name: error.message for name, error in broken().items()},
        "workspace": _workspace(workspace),
    }


def print_diagnosis(workspace: Path, *, as_json: bool) -> None:
    """Print `diagnose`."""
    found = diagnose(workspace)
    if as_json:
        click.echo(to_json_line(found))
        return
    optional = [
        f"{name} {number}"
        if number
        else f"no {name} ({OPTIONAL[name][1]}: pip install 'graphlearn[{OPTIONAL[name][0]}]')"
        for name, number in found["optional"].items()
    ]
    gpus = [
        f"{d['name']}, {human_bytes(d['memory_free'])} of {human_bytes(d['memory'])} free" for d in found["devices"]
    ]
    print_fields(
        {
            "graphlearn": f"{__version__} on Python {found['python']} ({sys.executable})",
            "platform": found["platform"],
            "packages": ", ".join(f"{name} {number or 'MISSING'}" for name, number in found["packages"].items()),
            "optional": "\n".join(optional),
            "processor": f"{found['cores']} cores, {found['gemm_gflops']:.0f} GFLOP/s in a float32 matrix product",
            "memory": f"{human_bytes(found['memory_free'])} free",
            "disk": f"{human_bytes(found['disk_free'])} free in {found['disk']}",
            "gpu": "\n".join(gpus) or "none available to torch; models train on the CPU",
            "model types": ", ".join(found["types"]),
            "broken": "\n".join(found["broken"].values()) or None,
            "workspace": found["workspace"],
        }
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[Json]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append({"name": torch.cuda.get_device_name(index), "memory": total, "memory_free": free})
    return found


def _workspace(path: Path) -> str:
    from graphlearn.storage.artifacts import ArtifactStore
    from graphlearn.storage.runs import list_runs
    from graphlearn.storage.workspace import folder_of

    folder = folder_of(path)
    if not path.exists() and not folder.exists():
        return f"{path} does not exist yet"
    stored = [(artifact.model, artifact.damage) for artifact in ArtifactStore(folder).models()]
    damaged = [f"{model}: {damage}" for model, damage in stored if damage]
    running = [str(run["run"]) for run in list_runs(folder) if run.get("status") == "running"]
    parts = [f"{path} with {len(stored)} model{'s' if len(stored) != 1 else ''} in {folder}"]
    parts += [f"unusable: {text}" for text in damaged]
    parts += [f"running now: {run}" for run in running]
    return "\n".join(parts)
