"""Forecast and recovery metrics as a table: the model and every baseline, for each horizon step and all together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.models.net3.metrics import Metrics
from graphlearn.storage.files import disk_errors

METRICS = "series_metrics.parquet"
FIGURES = ("rmse", "mae", "mape", "z_rmse", "z_mae")

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("split", pa.string()),
        ("step", pa.int32()),
        *((name, pa.float64()) for name in FIGURES),
        ("cells", pa.int64()),
        ("protocol", pa.string()),
    ]
)
"""Columns of `evaluate('m')`: step NULL is all steps together; MAPE in percent; z_… on z-scores of the train part."""


def metric_rows(method: str, split: str, metrics: Metrics) -> list[dict[str, Any]]:
    """One record a horizon step, and one (step None) for all of them; without a cell to measure, none."""
    out = []
    for row in metrics.rows():
        if row["cells"]:
            figures = {name: row[name] if math.isfinite(row[name]) else None for name in FIGURES}
            place = {"method": method, "split": split, "step": int(row["step"]) or None, "cells": int(row["cells"])}
            out.append({**place, **figures})
    return out if len(out) != 2 else [out[0] | {"step": None}]


def headline(rows: list[dict[str, Any]], method: str) -> dict[str, float]:
    """The figures of a method over all steps on the test part (on valid when there is no test)."""
    for split in ("test", "valid"):
        for row in rows:
            if row["method"] == method and row["split"] == split and row["step"] is None:
                return {name: row[name] for name in FIGURES if row[name] is not None} | {"count": row["cells"]}
    return {}


def verdict(rows: list[dict[str, Any]], method: str) -> tuple[bool, str]:
    """(whether the model beats every baseline, a sentence that says so), by z-scored RMSE on the held-out part."""
    split = "test" if any(row["split"] == "test" for row in rows) else "valid"
    total = {row["method"]: row for row in rows if row["split"] == split and row["step"] is None}
    mine = total.pop(method, None)
    if mine is None or not total:
        return True, ""
    best = min(total, key=lambda name: total[name]["z_rmse"] or math.inf)
    ours, theirs = mine["z_rmse"], total[best]["z_rmse"]
    figures = f"z-scored RMSE {ours:.4g} against {theirs:.4g} on the {split} part"
    if ours < theirs:
        return True, f"{method} beats the best baseline, {best}: {figures}"
    if ours == theirs:
        return False, f"{method} is no better than a baseline, {best}: {figures}"
    return (
        False,
        f"{method} loses to a baseline, {best}: {figures}; use the baseline, or change window, graphs or epochs",
    )


def metrics_table(rows: list[dict[str, Any]], protocol: str) -> pa.Table:
    """The records as `evaluate('m')` gives them."""
    return pa.Table.from_pylist([{**row, "protocol": protocol} for row in rows], schema=SCHEMA)


def write_metrics(path: Path, rows: list[dict[str, Any]], protocol: str) -> None:
    """Write the records as a file of a stored model."""
    with disk_errors(path):
        pq.write_table(metrics_table(rows, protocol), path, compression="zstd")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a stored model."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
