"""Errors of forecasts and of filled gaps. Shapes: B windows, H horizon, N = N1 x ... x NM series."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphlearn.models.net3.data.tensor import gather
from graphlearn.types import BoolArray, FloatArray, IdArray


@dataclass
class Metrics:
    """Accumulates masked RMSE, MAE and MAPE per horizon step, in the user's units and on z-scores."""

    scale: FloatArray
    horizon: int

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.horizon, 7))

    def add(self, predicted: FloatArray, actual: FloatArray, mask: BoolArray) -> None:
        """Add a batch, in the user's units. shape: [B, H, N...] each"""
        axes = (0, *range(2, predicted.ndim))
        mask = mask & np.isfinite(actual)
        error = np.where(mask, predicted.astype(np.float64) - np.where(mask, actual, 0), 0)
        z = error / self.scale
        size = np.where(mask, np.abs(actual, dtype=np.float64), 0)
        nonzero = size > 0
        share = np.where(nonzero, np.abs(error) / np.where(nonzero, size, 1), 0)
        parts = (mask, error**2, np.abs(error), z**2, np.abs(z), nonzero, share)
        self.sums += np.stack([p.sum(axis=axes, dtype=np.float64) for p in parts], axis=1)

    def rows(self) -> list[dict[str, float]]:
        """One row per horizon step, and finally step 0 for all steps together.

        cells, rmse, mae, mape, z_rmse, z_mae; MAPE is in percent and omits true values of 0. Without a cell
        a metric is NaN.
        """
        out = []
        for step, sums in enumerate([*self.sums, self.sums.sum(0)], start=1):
            n, square, size, z_square, z_size, nonzero, share = (float(v) for v in sums)
            some, any_size = n or np.nan, nonzero or np.nan
            figures = {"rmse": np.sqrt(square / some), "mae": size / some, "mape": 100 * share / any_size}
            figures |= {"z_rmse": np.sqrt(z_square / some), "z_mae": z_size / some}
            place = {"step": float(step if step <= self.horizon else 0), "cells": n}
            out.append(place | {k: float(v) for k, v in figures.items()})
        return out

    @property
    def total(self) -> dict[str, float]:
        """The row of all steps together."""
        return self.rows()[-1]


Predict: TypeAlias = Callable[[IdArray], FloatArray]


def measure(
    predict: Predict, values: FloatArray, starts: IdArray, window: int, horizon: int, scale: FloatArray, batch: int = 64
) -> Metrics:
    """Metrics of any function from window starts to forecasts [B, H, N...] in the user's units."""
    metrics = Metrics(scale, horizon)
    for lo in range(0, len(starts), batch):
        part = starts[lo : lo + batch]
        actual = gather(values, part, horizon, window)
        metrics.add(predict(part), actual, np.isfinite(actual))
    return metrics
