"""Figures of models of graphs as a table: the model and its baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.jobs.labels import LABELS
from graphlearn.storage.files import disk_errors
from graphlearn.text import number

METRICS = "graph_metrics.parquet"
METHOD = "dhan"
FIGURES = (
    "macro_f1", "micro_f1", "accuracy", "mrr", "ndcg_10", "hits_at_1", "hits_at_10", "auc", "nmi", "ari"
)  # fmt: skip
DECIDES = ("macro_f1", "mrr", "nmi")
"""The figure that tells which of two methods is better, by task."""
_COUNTS = ("count", "nodes", "edges")

SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("split", pa.string()),
        *((name, pa.float64()) for name in FIGURES),
        ("count", pa.int64()),
        ("protocol", pa.string()),
    ]
)
"""Columns of `evaluate('m')`: figures that the task does not have are NULL; count is of nodes, or of links."""


def figures(measured: Mapping[str, float]) -> dict[str, float]:
    """The figures among what was measured, finite ones only; none of an empty part."""
    if "nmi" not in measured and any(measured.get(name) == 0 for name in _COUNTS):
        return {}
    return {name: float(measured[name]) for name in FIGURES if name in measured and math.isfinite(measured[name])}


def metric_row(method: str, split: str, measured: Mapping[str, float]) -> dict[str, Any]:
    """One record; empty when nothing was measured."""
    found = figures(measured)
    count = next((int(measured[name]) for name in _COUNTS if name in measured), None)
    return {"method": method, "split": split, **found, "count": count} if found else {}


def headline(rows: list[dict[str, Any]], method: str) -> dict[str, float]:
    """The figures of a method on the test part, or whatever part there is."""
    mine = [row for row in rows if row["method"] == method]
    mine.sort(key=lambda row: ("test", "all", "valid", "train").index(row["split"]))
    return {name: mine[0][name] for name in FIGURES if mine and mine[0].get(name) is not None}


def decider(rows: list[dict[str, Any]]) -> str | None:
    """The figure by which methods are compared."""
    return next((name for name in DECIDES if any(row.get(name) is not None for row in rows)), None)


def baselines_of(rows: list[dict[str, Any]], method: str = METHOD) -> list[dict[str, Any]]:
    """The baselines on the split that the model is measured on, the best first."""
    name = decider(rows)
    split = "test" if any(row["split"] == "test" for row in rows) else "all"
    others = [row for row in rows if row["method"] != method and row["split"] == split and row.get(name or "")]
    return sorted(others, key=lambda row: -row[name]) if name else []


def verdict(rows: list[dict[str, Any]], method: str = METHOD) -> tuple[bool, str]:
    """(whether the model beats every baseline, a sentence that says so)."""
    name, others, ours = decider(rows), baselines_of(rows, method), headline(rows, method)
    if name is None or name not in ours or not others:
        return True, ""
    best = others[0]
    where = {"test": "the test part", "all": "all nodes"}[best["split"]]
    compared = f"{LABELS[name]} {number(ours[name])} against {number(best[name])} on {where}"
    if ours[name] > best[name]:
        return True, f"{method} beats the best baseline, {best['method']}: {compared}"
    does = "is no better than" if ours[name] == best[name] else "loses to"
    if best["method"].startswith("MLP"):
        advice = "the links tell nothing that the features do not, or the relations are the wrong ones"
    else:
        advice = "look at the features and the relations, or train longer"
    return False, f"{method} {does} a baseline, {best['method']}: {compared}; {advice}"


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
