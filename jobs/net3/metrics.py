"""Metrics of forecasts and recoveries: of the model and every baseline, by step ahead and over all steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphlearn.jobs.metrics import Metric

if TYPE_CHECKING:
    from graphlearn.models.net3.metrics import Metrics

METHOD = "net3"
"""The model itself among the methods that are measured."""
NET3_METRICS = (
    Metric(name="rmse", label="RMSE", higher_is_better=False, headline=True),
    Metric(name="mae", label="MAE", higher_is_better=False),
    Metric(name="mape", label="MAPE", unit="%", higher_is_better=False),
    Metric(name="z_rmse", label="RMSE (z)", higher_is_better=False),
    Metric(name="z_mae", label="MAE (z)", higher_is_better=False, summary=False),
)
"""RMSE and MAE are in the units of the readings, those marked (z) in standard deviations over the train split."""
FIGURES = tuple(metric.name for metric in NET3_METRICS)


def metric_rows(method: str, split: str, metrics: Metrics) -> list[dict[str, Any]]:
    """One record per step ahead, and one (step None) for all of them; none without a cell to measure."""
    out = []
    for row in metrics.rows():
        if row["cells"]:
            figures = {name: row[name] if math.isfinite(row[name]) else None for name in FIGURES}
            place = {"method": method, "split": split, "step": int(row["step"]) or None, "cells": int(row["cells"])}
            out.append({**place, **figures})
    return out if len(out) != 2 else [out[0] | {"step": None}]


def headline(rows: Sequence[dict[str, Any]], method: str) -> dict[str, float]:
    """The metrics of a method over all steps, on the test split or, if that is empty, on the validation split."""
    for split in ("test", "valid"):
        for row in rows:
            if row["method"] == method and row["split"] == split and row["step"] is None:
                return {name: row[name] for name in FIGURES if row[name] is not None} | {"count": row["cells"]}
    return {}


def verdict(rows: Sequence[dict[str, Any]], method: str) -> tuple[bool, str]:
    """Whether a method beats all others by z-scored RMSE on the test or validation split, and a sentence about it."""
    split = "test" if any(row["split"] == "test" for row in rows) else "valid"
    total = {row["method"]: row for row in rows if row["split"] == split and row["step"] is None}
    mine = total.pop(method, None)
    if mine is None or not total:
        return True, ""
    best = min(total, key=lambda name: total[name]["z_rmse"] or math.inf)
    ours, theirs = mine["z_rmse"], total[best]["z_rmse"]
    figures = (
        f"z-scored RMSE {ours:.4g} against {theirs:.4g} on the {'test' if split == 'test' else 'validation'} split"
    )
    if ours < theirs:
        return True, f"{method} beats the best baseline, {best}: {figures}"
    if ours == theirs:
        return False, f"{method} is no better than a baseline, {best}: {figures}"
    return (
        False,
        f"{method} loses to a baseline, {best}: {figures}; use the baseline, or change window, graphs or epochs",
    )
