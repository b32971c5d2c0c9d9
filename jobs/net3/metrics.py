"""Metrics of forecasts and recoveries: of the model and every baseline, by step ahead and over all steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from graphlearn.jobs.metrics import FEWEST, TOO_FEW, Metric, Verdict, verdict
from graphlearn.models.core.bootstrap import Sample
from graphlearn.types import DoubleArray, Split

if TYPE_CHECKING:
    from graphlearn.models.net3.metrics import Metrics

METHOD = "net3"
"""The model itself among the methods that are measured."""
Z_RMSE = Metric(name="z_rmse", label="RMSE (z)", higher_is_better=False, interval=True)
ERRORS = (
    Metric(name="rmse", label="RMSE", higher_is_better=False, headline=True, interval=True),
    Metric(name="mae", label="MAE", higher_is_better=False),
    Metric(name="mape", label="MAPE", unit="%", higher_is_better=False),
    Z_RMSE,
    Metric(name="z_mae", label="MAE (z)", higher_is_better=False, summary=False),
)
"""RMSE and MAE are in the units of the readings, those marked (z) in standard deviations over the train split."""
COVERAGE = tuple(
    Metric(name=f"coverage_{level}", label=f"in {level} % interval", summary=level == 90) for level in (80, 90, 95)
)
"""The share of the test cells inside the prediction interval of a nominal level; of the model only."""
NET3_METRICS = (*ERRORS, *COVERAGE)
FIGURES = tuple(metric.name for metric in NET3_METRICS)
BySplit: TypeAlias = Mapping[Split, "Metrics"]


@dataclass(frozen=True)
class StepFigures:
    """From sums of all steps ahead to metrics: `rmse` of all steps together, `rmse:3` of step 3. shape: [..., H * S]"""

    horizon: int

    def __call__(self, sums: DoubleArray) -> dict[str, DoubleArray]:
        from graphlearn.models.net3.metrics import figures

        by_step = sums.reshape(*sums.shape[:-1], self.horizon, -1)
        found = dict(figures(by_step.sum(-2)))
        for name, values in figures(by_step).items():
            found |= {f"{name}:{step}": values[..., step - 1] for step in range(1, self.horizon + 1)}
        return found


def sample(metrics: Metrics) -> Sample:
    """The sums of blocks of windows, which are resampled together; see `block_length`."""
    blocks = metrics.blocks
    return Sample(blocks.reshape(len(blocks), math.prod(blocks.shape[1:])), StepFigures(metrics.horizon))


def metric_rows(method: str, split: str, metrics: Metrics) -> list[dict[str, Any]]:
    """One record per step ahead, and one (step None) for all of them; none without a cell to measure."""
    steps = ["", *(f":{step}" for step in range(1, metrics.horizon + 1) if metrics.horizon > 1)]
    wanted = {f"{metric.name}{step}": metric for step in steps for metric in NET3_METRICS if metric.interval}
    summed = sample(metrics)
    bounds, blocks = summed.intervals(list(wanted)), len(summed.sums)
    out = []
    for row in metrics.rows():
        if row["cells"]:
            step = int(row["step"]) or None
            cells = int(row["cells"])
            record: dict[str, Any] = {"method": method, "split": split, "step": step, "cells": cells}
            record["too_few"] = cells < TOO_FEW or blocks < FEWEST
            for metric in NET3_METRICS:
                value = row.get(metric.name, math.nan)
                record[metric.name] = value if math.isfinite(value) else None
                found = bounds.get(metric.name if step is None or len(steps) == 1 else f"{metric.name}:{step}")
                if found is not None:
                    record |= zip(metric.bounds, found, strict=True)
            out.append(record)
    return out if len(out) != 2 else [out[0] | {"step": None}]


def headline(rows: Sequence[dict[str, Any]], method: str) -> dict[str, float]:
    """The metrics of a method over all steps, on the test split or, if that is empty, on the validation split."""
    names = [name for metric in NET3_METRICS for name in (metric.name, *metric.bounds)]
    for split in ("test", "valid"):
        for row in rows:
            if row["method"] == method and row["split"] == split and row["step"] is None:
                return {name: row[name] for name in names if row.get(name) is not None} | {"count": row["cells"]}
    return {}


def compared(ours: BySplit, baselines: Mapping[str, BySplit], advice: str, *, cut: bool) -> Verdict | None:
    """The model and its best baseline by z-scored RMSE, on the test split or, if that is empty, on validation."""
    split = Split.TEST if ours[Split.TEST].total["cells"] else Split.VALID
    where = f"on the {'test' if split == Split.TEST else 'validation'} split"
    others = {name: sample(found[split]) for name, found in baselines.items()}
    return verdict(METHOD, Z_RMSE, sample(ours[split]), others, where, advice=advice, cut=cut)
