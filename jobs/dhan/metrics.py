"""Metrics of the model and its baselines, one row per method and split, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from graphlearn.jobs.metrics import HITS_AT_1, HITS_AT_10, MRR, Metric, MetricTable
from graphlearn.text import number

METHOD = "dhan"
METRICS = (
    Metric(name="macro_f1", label="macro-F1", headline=True),
    Metric(name="micro_f1", label="micro-F1"),
    Metric(name="accuracy", label="accuracy", summary=False),
    MRR,
    Metric(name="ndcg_10", label="NDCG@10"),
    HITS_AT_1,
    HITS_AT_10,
    Metric(name="auc", label="AUC"),
    Metric(name="nmi", label="NMI", headline=True),
    Metric(name="ari", label="ARI"),
)
NAMES = tuple(metric.name for metric in METRICS)
TABLE = MetricTable(keys=(pa.field("method", pa.string()), pa.field("split", pa.string())), metrics=METRICS)
"""`evaluate('m')`: metrics that the task does not have are NULL; count is of nodes, or of links."""
_COUNTS = ("count", "nodes", "edges")
_ORDER = ("test", "all", "valid", "train")


def finite(measured: Mapping[str, float]) -> dict[str, float]:
    """The metrics among what was measured, without NaN and infinity; none of an empty split."""
    if "nmi" not in measured and any(measured.get(name) == 0 for name in _COUNTS):
        return {}
    return {name: float(measured[name]) for name in NAMES if name in measured and math.isfinite(measured[name])}


def metric_row(method: str, split: str, measured: Mapping[str, float]) -> dict[str, Any]:
    """One record; empty if nothing was measured."""
    found = finite(measured)
    count = next((int(measured[name]) for name in _COUNTS if name in measured), None)
    return {"method": method, "split": str(split), **found, "count": count} if found else {}


def final_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The model's metrics on the test split, or on the one that there is."""
    mine = sorted((row for row in rows if row["method"] == METHOD), key=lambda row: _ORDER.index(row["split"]))
    return {name: mine[0][name] for name in NAMES if mine and mine[0].get(name) is not None}


def deciding(rows: Sequence[Mapping[str, Any]]) -> Metric | None:
    """The metric by which methods are compared."""
    headlines = [metric for metric in METRICS if metric.headline]
    return next((metric for metric in headlines if any(row.get(metric.name) is not None for row in rows)), None)


def baselines_of(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The baselines on the split that the model is measured on, the best first."""
    metric = deciding(rows)
    if metric is None:
        return []
    split = "test" if any(row["split"] == "test" for row in rows) else "all"
    others = [row for row in rows if row["method"] != METHOD and row["split"] == split and row.get(metric.name)]
    return sorted(others, key=lambda row: -row[metric.name])


def verdict(rows: Sequence[Mapping[str, Any]]) -> tuple[bool, str]:
    """(whether the model beats every baseline, a sentence that says so)."""
    metric, others, ours = deciding(rows), baselines_of(rows), final_metrics(rows)
    if metric is None or metric.name not in ours or not others:
        return True, ""
    best, mine = others[0], ours[metric.name]
    theirs = best[metric.name]
    where = {"test": "the test split", "all": "all nodes"}[best["split"]]
    compared = f"{metric.label} {number(mine)} against {number(theirs)} on {where}"
    if mine > theirs:
        return True, f"{METHOD} beats the best baseline, {best['method']}: {compared}"
    does = "is no better than" if mine == theirs else "loses to"
    if best["method"].startswith("MLP"):
        advice = "the links add nothing to the features, or the relations are the wrong ones"
    else:
        advice = "check the features and the relations, or train longer"
    return False, f"{METHOD} {does} a baseline, {best['method']}: {compared}; {advice}"
