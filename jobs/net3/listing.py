"""What `graphlearn show` prints of a model of series: what was counted, its graphs, its errors and the baselines'."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq

from graphlearn.jobs.labels import SERIES, title
from graphlearn.jobs.net3.metrics import METRICS, read_metrics
from graphlearn.printing import print_table
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.series.report import SeriesReport
from graphlearn.text import counted, number
from graphlearn.types import Json

STEPS_SHOWN = 12


def is_series(path: Path) -> bool:
    """Whether a stored version is a model of series."""
    return (path / METRICS).exists()


def series_fields(artifact: Artifact) -> dict[str, object]:
    """Names and values for people: the task, the series and what was counted in it, the graphs, the verdict."""
    manifest = artifact.manifest
    report = SeriesReport.from_json(manifest.get("counts", {}))
    options: Json = manifest.get("options", {})
    task = options.get("task")
    if task == "recover":
        does = f"recover, {options.get('recovery')}, window {options.get('window')}"
    else:
        does = f"{task}, window {options.get('window')}, horizon {options.get('horizon')}"
    return {
        "task": does,
        "series": report.line(),
        "time": f"{report.first} to {report.last}",
        "counted": "\n".join(message for message, _ in report.notes()) or None,
        "graphs": ", ".join(_graphs(artifact.path, list(report.modes), manifest)) or "none given",
        "verdict": manifest.get("verdict") or None,
    }


def _graphs(path: Path, modes: list[str], manifest: Json) -> list[str]:
    made = {name.lower(): kind for name, kind in manifest.get("options", {}).get("graphs", {}).items()}
    found = []
    for mode in manifest.get("graphs", []):
        name = modes[mode] if mode < len(modes) else "series"
        edges = pq.read_metadata(path / f"graph_{mode}.parquet").num_rows
        found.append(f"{name}: {counted(edges, 'edge')}{f' ({made[name.lower()]})' if name.lower() in made else ''}")
    return found


def print_series_metrics(path: Path, protocol: str | None) -> None:
    """The model and every baseline, the best first; of a longer horizon also their RMSE step by step."""
    rows = read_metrics(path / METRICS)
    total = [row for row in rows if row["step"] is None]
    if not total:
        return
    total.sort(key=lambda row: (row["split"], row["z_rmse"]))
    sys.stdout.write(f"\nmetrics ({protocol})\n" if protocol else "\nmetrics\n")
    print_table(
        ("method", "split", *map(title, SERIES), "cells"),
        [(row["method"], row["split"], *(row[name] for name in SERIES), row["cells"]) for row in total],
    )
    split = total[0]["split"]
    methods = [row["method"] for row in total if row["split"] == split]
    by_step = {(row["step"], row["method"]): row["rmse"] for row in rows if row["split"] == split and row["step"]}
    steps = sorted({step for step, _ in by_step})
    if not steps:
        return
    shown = [step for step in steps if len(steps) <= STEPS_SHOWN or step in _spread(steps)]
    sys.stdout.write(f"\nRMSE by step ahead ({split} split)\n")
    print_table(("step", *methods), [(step, *(by_step.get((step, m)) for m in methods)) for step in shown])


def _spread(steps: list[int]) -> set[int]:
    """Some of the steps, evenly, with the first and the last."""
    last = len(steps) - 1
    return {steps[round(k * last / (STEPS_SHOWN - 1))] for k in range(STEPS_SHOWN)}


def baseline_of(path: Path) -> str:
    """The best baseline and its RMSE, on the part that the model is measured on; empty without one."""
    rows = read_metrics(path / METRICS) if is_series(path) else []
    split = "test" if any(row["split"] == "test" for row in rows) else "valid"
    # the model's own rows come first
    others = [r for r in rows if r["split"] == split and r["step"] is None and r["method"] != rows[0]["method"]]
    best = min(others, key=lambda row: row["z_rmse"], default=None)
    return f"{number(best['rmse'])} {best['method']}" if best else ""
