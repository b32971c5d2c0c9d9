"""Errors of forecasts and of filled gaps. Shapes: B windows, H horizon, N = N1 x ... x NM series, G blocks, S sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphlearn.models.net3.data.tensor import gather
from graphlearn.types import BoolArray, DoubleArray, FloatArray, IdArray

LEVELS = (0.8, 0.9, 0.95)
"""Nominal levels of intervals whose coverage is measured."""
BLOCKS = 10
"""Blocks of windows that there should be at least, unless their targets overlap."""
MOST_BLOCKS = 1000
ERRORS = 7
"""The sums from which errors follow; after them come, for each level, the bounded cells and those inside."""
WIDTH = ERRORS + 2 * len(LEVELS)
Bounds: TypeAlias = Mapping[float, tuple[FloatArray, FloatArray]]
"""Lower and upper bounds of intervals by level. shape: [B, H, N...] each"""


def block_length(windows: int, window: int, horizon: int, season: int = 1) -> int:
    """Consecutive windows that are resampled together for a confidence interval: a block bootstrap.

    Errors of neighbouring windows depend on each other: their targets and inputs overlap, and a rush hour is hard to
    forecast from start to end. Blocks that are long compared with this dependence can be treated as independent
    (Carlstein 1986; Künsch 1989). They have the length of a window with its horizon, or of the shortest season if that
    is longer, unless fewer than 10 blocks would be left: then a tenth of the windows, but at least the horizon, within
    which targets overlap, and the cube root of the number of windows, the optimal order (Hall, Horowitz and Jing 1995).
    """
    usual = min(max(window + horizon, season), windows // BLOCKS)
    return max(1, horizon, usual, math.ceil(math.cbrt(windows)), -(-windows // MOST_BLOCKS))


@dataclass
class Metrics:
    """Accumulates masked RMSE, MAE and MAPE per horizon step, in the user's units and on z-scores.

    With a `block` length, sums are also kept for each block of so many windows (`blocks`, [G, H, S], added in order of
    time) and for each series (`series`, [N, S]); and the coverage of intervals, if there are any.
    """

    scale: FloatArray
    horizon: int
    block: int | None = None
    windows: int = 0
    sums: DoubleArray = field(init=False)
    series: DoubleArray = field(init=False)
    _blocks: list[DoubleArray] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.horizon, WIDTH))
        self.series = np.zeros((self.scale.size if self.block else 0, WIDTH))

    @property
    def blocks(self) -> DoubleArray:
        """The sums of each block. shape: [G, H, S]"""
        return np.stack(self._blocks) if self._blocks else np.zeros((0, self.horizon, WIDTH))

    def add(self, predicted: FloatArray, actual: FloatArray, mask: BoolArray, bounds: Bounds | None = None) -> None:
        """Add a batch, in the user's units. shape: [B, H, N...] each"""
        axes = (0, *range(2, predicted.ndim))
        places = (self.windows + np.arange(len(predicted))) // (self.block or 1)
        self.windows += len(predicted)
        while self.block and len(self._blocks) <= places.max(initial=-1):
            self._blocks.append(np.zeros((self.horizon, WIDTH)))
        for s, part in enumerate(self._parts(predicted, actual, mask, bounds)):
            self.sums[:, s] += part.sum(axis=axes, dtype=np.float64)
            if self.block:
                self.series[:, s] += part.sum(axis=(0, 1), dtype=np.float64).ravel()
                by_window = part.reshape(*part.shape[:2], -1).sum(axis=2, dtype=np.float64)
                for place, row in zip(places, by_window, strict=True):
                    self._blocks[place][:, s] += row

    def _parts(
        self, predicted: FloatArray, actual: FloatArray, mask: BoolArray, bounds: Bounds | None
    ) -> Iterator[BoolArray | FloatArray | DoubleArray]:
        """What is summed, cell by cell. shape: [B, H, N...] each"""
        mask = mask & np.isfinite(actual)
        error = np.where(mask, predicted.astype(np.float64) - np.where(mask, actual, 0), 0)
        z = error / self.scale
        size = np.where(mask, np.abs(actual, dtype=np.float64), 0)
        nonzero = size > 0
        share = np.where(nonzero, np.abs(error) / np.where(nonzero, size, 1), 0)
        yield from (mask, error**2, np.abs(error), z**2, np.abs(z), nonzero, share)
        for lower, upper in (bounds or {}).values():
            bounded = mask & np.isfinite(upper)
            yield bounded
            yield bounded & (actual >= lower) & (actual <= upper)

    def rows(self) -> list[dict[str, float]]:
        """step, cells and `figures` of each horizon step, and finally of step 0, all steps together.

        Without bounds, there is no coverage.
        """
        total = np.concatenate([self.sums, self.sums.sum(0, keepdims=True)])
        bounded = self.sums[:, ERRORS].any()
        found = {
            name: values.tolist()
            for name, values in figures(total).items()
            if bounded or not name.startswith("coverage")
        }
        steps = [*range(1, self.horizon + 1), 0]
        return [
            {"step": float(step), "cells": float(total[k, 0])} | {name: values[k] for name, values in found.items()}
            for k, step in enumerate(steps)
        ]

    @property
    def total(self) -> dict[str, float]:
        """The row of all steps together."""
        return self.rows()[-1]


def figures(sums: DoubleArray) -> dict[str, DoubleArray]:
    """rmse, mae, mape, z_rmse, z_mae, coverage_80, coverage_90, coverage_95; NaN without a cell.

    MAPE is in percent and omits true values of 0. shape: [..., S] -> [...] each
    """
    n, square, size, z_square, z_size, nonzero, share, *covered = np.moveaxis(sums, -1, 0)
    some, any_size = np.where(n > 0, n, np.nan), np.where(nonzero > 0, nonzero, np.nan)
    found = {"rmse": np.sqrt(square / some), "mae": size / some, "mape": 100 * share / any_size}
    found |= {"z_rmse": np.sqrt(z_square / some), "z_mae": z_size / some}
    for level, bounded, inside in zip(LEVELS, covered[::2], covered[1::2], strict=True):
        found[f"coverage_{100 * level:g}"] = inside / np.where(bounded > 0, bounded, np.nan)
    return found


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
