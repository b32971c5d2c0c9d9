"""Tensor time series without a graph: scaling, time splits, index windows, masks, calendars, metrics, intervals.

A series tensor is one float32 array of shape [T, N1, ..., NM] (a memory map will do), NaN = not observed. It is read in
blocks of time steps; no function here makes a second array of its size. A batch is an array of start indices.

Shapes: T time steps, B windows, W window length, H horizon, N = N1 x ... x NM one number per series, C cycles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from graphlearn.errors import InputError
from graphlearn.types import FloatArray, IdArray

Part: TypeAlias = Literal["train", "valid", "test"]
Mask: TypeAlias = NDArray[np.bool_]
Double: TypeAlias = NDArray[np.float64]

BLOCK_CELLS = 1 << 22


def blocks(values: FloatArray, stop: int | None = None, start: int = 0) -> Iterator[tuple[int, FloatArray]]:
    """The tensor in blocks of whole time steps, each at most 4 million cells or one step: (first step, block)."""
    stop = len(values) if stop is None else stop
    rows = max(1, BLOCK_CELLS // max(1, int(np.prod(values.shape[1:]))))
    for lo in range(start, stop, rows):
        yield lo, np.asarray(values[lo : min(lo + rows, stop)])


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each series. shape: [N1, ..., NM] both, float32, in the user's units."""

    mean: FloatArray
    scale: FloatArray

    @staticmethod
    def fit(values: FloatArray, stop: int | None = None, observed: Mask | None = None) -> Scaler:
        """From the observed cells of the first `stop` steps (all without it).

        Constant series and series without a cell get scale 1, the latter mean 0. `observed` hides further cells.
        """
        shape = values.shape[1:]
        count, total = np.zeros(shape), np.zeros(shape)
        for lo, block in blocks(values, stop):
            seen = _seen(block, observed, lo)
            count += seen.sum(0)
            total += np.where(seen, block, 0).sum(0, dtype=np.float64)
        mean = total / np.maximum(count, 1)
        square = np.zeros(shape)
        for lo, block in blocks(values, stop):
            seen = _seen(block, observed, lo)
            square += np.square(np.where(seen, block - mean, 0)).sum(0)
        scale = np.sqrt(square / np.maximum(count, 1))
        flat = (scale <= 1e-6 * np.abs(mean)) | (scale < 1e-30)
        return Scaler(mean.astype(np.float32), np.where(flat, 1.0, scale).astype(np.float32))

    def transform(self, x: FloatArray) -> FloatArray:
        """Into z-scores. shape: [..., N1, ..., NM]"""
        return np.asarray((x - self.mean) / self.scale, np.float32)

    def inverse(self, z: FloatArray) -> FloatArray:
        """Back into the user's units. shape: [..., N1, ..., NM]"""
        return np.asarray(z * self.scale + self.mean, np.float32)


def _seen(block: FloatArray, observed: Mask | None, lo: int) -> Mask:
    seen: Mask = np.isfinite(block)
    return seen if observed is None else seen & observed[lo : lo + len(block)]


@dataclass(frozen=True)
class TimeSplit:
    """Train is [0, train_end), valid [train_end, valid_end), test [valid_end, length)."""

    train_end: int
    valid_end: int
    length: int

    @staticmethod
    def of(length: int, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> TimeSplit:
        """Cut by fractions of time; each border is rounded to the nearest step."""
        total = sum(fractions)
        train = round(length * fractions[0] / total)
        return TimeSplit(train, min(length, max(train, round(length * (fractions[0] + fractions[1]) / total))), length)

    def span(self, part: Part) -> tuple[int, int]:
        """First step of the part and the step after its last."""
        borders = (0, self.train_end, self.valid_end, self.length)
        k = ("train", "valid", "test").index(part)
        return borders[k], borders[k + 1]

    def starts(self, part: Part, window: int, horizon: int) -> IdArray:
        """Starts of the windows whose `horizon` targets all lie in the part; the inputs may lie before it.

        Window s reads steps s .. s + window - 1 and has targets s + window .. s + window + horizon - 1.
        """
        lo, hi = self.span(part)
        return np.arange(max(0, lo - window), max(0, hi - window - horizon + 1), dtype=np.int64)


Cells = TypeVar("Cells", FloatArray, Mask)


def gather(values: Cells, starts: IdArray, length: int, offset: int = 0) -> Cells:
    """Steps start + offset .. + length - 1 of each start; steps outside the tensor are NaN (False in a mask).

    shape: [T, N...], [B] -> [B, length, N...]
    """
    steps = np.asarray(starts, np.int64)[:, None] + offset + np.arange(length)
    inside = (steps >= 0) & (steps < len(values))
    out = np.asarray(values[np.clip(steps, 0, max(0, len(values) - 1))])
    if not inside.all():
        out[~inside] = np.nan if out.dtype.kind == "f" else False
    return out


@dataclass(frozen=True)
class Masks:
    """observed: what the model may see. train_target: what its loss counts. eval_target: what is measured.

    All bool, all of the shape of the values they belong to.
    """

    observed: Mask
    train_target: Mask
    eval_target: Mask


def forecast_masks(block: FloatArray, steps: IdArray, split: TimeSplit, part: Part = "test") -> Masks:
    """Masks of a block of the tensor that stands at the time steps `steps`.

    Every known cell may be seen; those of the train part are learnt from, those of `part` are measured.
    shape: [..., N1, ..., NM], steps has the leading dimensions
    """
    known: Mask = np.isfinite(block)
    place = np.asarray(steps).reshape(np.shape(steps) + (1,) * (block.ndim - np.ndim(steps)))
    lo, hi = split.span(part)
    return Masks(known, known & (place < split.train_end), known & (place >= lo) & (place < hi))


def recover_masks(values: FloatArray, hidden: float, seed: int) -> Masks:
    """Hide a random fraction of the known cells: they are measured, the others are seen and learnt from.

    shape: [T, N...] -> three of [T, N...]
    """
    known: Mask = np.isfinite(values)
    chosen: Mask = np.random.default_rng([seed, 1]).random(values.shape, dtype=np.float32) < hidden
    return Masks(known & ~chosen, known & ~chosen, known & chosen)


@dataclass(frozen=True)
class Calendar:
    """Where each time step stands in each cycle (day, week, year).

    phases: [C, L] int64 with 0 <= phases[c] < periods[c]; L >= T, and beyond T for steps that are to be forecast.
    """

    phases: IdArray
    periods: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.phases.ndim != 2 or len(self.phases) != len(self.periods):
            raise InputError(f"a calendar of {len(self.periods)} periods needs phases [{len(self.periods)}, steps]")
        for row, period in zip(self.phases, self.periods, strict=True):
            if period < 1 or (row.size and not 0 <= row.min() <= row.max() < period):
                raise InputError(f"phases of a cycle of {period} must lie in 0 .. {period - 1}")

    @staticmethod
    def none(length: int) -> Calendar:
        """No cycle at all."""
        return Calendar(np.zeros((0, length), np.int64), ())

    @staticmethod
    def cycles(length: int, periods: Sequence[int], shift: int = 0) -> Calendar:
        """Cycles of a fixed number of steps; step t has phase (t + shift) mod period."""
        steps = np.arange(length, dtype=np.int64) + shift
        return Calendar(np.array([steps % p for p in periods], np.int64).reshape(len(periods), length), tuple(periods))

    def at(self, steps: IdArray) -> IdArray:
        """Phases of the steps; beyond the end of the calendar cycles go on evenly. shape: [...] -> [..., C]"""
        steps = np.asarray(steps, np.int64)
        length = self.phases.shape[1]
        last = np.clip(steps, 0, length - 1)
        over = (steps - last)[..., None]
        phases = np.moveaxis(self.phases[:, last], 0, -1) + over
        return np.asarray(phases % np.array(self.periods, np.int64), np.int64)


def fit_profile(
    values: FloatArray,
    scaler: Scaler,
    calendar: Calendar,
    shrinkage: float,
    stop: int | None = None,
    observed: Mask | None = None,
    rank: int = 0,
) -> list[FloatArray]:
    """The seasonal mean of each series, as one additive table per cycle, in z-scores.

    Cycles are fitted from the shortest to the longest, each to what the ones before leave; a mean of n cells is
    multiplied by n / (n + shrinkage). With a rank, each table is replaced by its best approximation of that rank:
    series share a few seasonal shapes. shape: -> C tables [period, N1, ..., NM]
    """
    shape = values.shape[1:]
    tables = [np.zeros((p, *shape), np.float32) for p in calendar.periods]
    for c in np.argsort(calendar.periods, kind="stable"):
        total, count = np.zeros(tables[c].shape), np.zeros(tables[c].shape, np.float32)
        for lo, block in blocks(values, stop):
            phases = calendar.at(np.arange(lo, lo + len(block)))
            seen = _seen(block, observed, lo)
            left = scaler.transform(block) - profile_at(tables, phases)
            np.add.at(total, phases[:, c], np.where(seen, left, 0))
            np.add.at(count, phases[:, c], seen)
        table = (total / np.maximum(count + shrinkage, 1e-9)).reshape(len(total), -1)
        if 0 < rank < min(table.shape):
            u, s, v = np.linalg.svd(table, full_matrices=False)
            table = (u[:, :rank] * s[:rank]) @ v[:rank]
        tables[c][:] = table.reshape(total.shape)
    return tables


def profile_at(tables: Sequence[FloatArray], phases: IdArray) -> FloatArray | float:
    """Sum of the tables at the phases; 0 without a table. shape: [..., C] -> [..., N1, ..., NM]"""
    total: FloatArray | float = 0.0
    for c, table in enumerate(tables):
        total = total + table[phases[..., c]]
    return total


@dataclass
class Metrics:
    """Sums from which masked RMSE, MAE and MAPE per horizon step follow, in the user's units and z-scored."""

    scale: FloatArray
    horizon: int

    def __post_init__(self) -> None:
        self.sums = np.zeros((self.horizon, 7))

    def add(self, predicted: FloatArray, actual: FloatArray, mask: Mask) -> None:
        """Count a batch, given in the user's units. shape: [B, H, N...] each"""
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
        """One row per horizon step and, last, step 0 = all together.

        cells, rmse, mae, mape, z_rmse, z_mae; MAPE is in percent and leaves out true values of 0. A figure without a
        cell is NaN.
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


@dataclass(frozen=True)
class Conformal:
    """Split-conformal intervals: half-width = quantile of |residual| / scale on validation cells, times the scale.

    Vovk et al. 2005; the quantile has the finite-sample correction ceil((n + 1)(1 - alpha)) / n. Residuals sorted once
    serve every level. sorted_residuals: H arrays, ascending, z-scored.
    """

    sorted_residuals: list[FloatArray]

    @staticmethod
    def fit(residuals: Sequence[FloatArray], at_most: int = 1_000_000) -> Conformal:
        """From the absolute z-scored residuals of each horizon step, NaN left out; huge ones are thinned evenly."""
        out = []
        for row in residuals:
            kept = np.sort(np.abs(row[np.isfinite(row)]).astype(np.float32))
            out.append(kept if len(kept) <= at_most else kept[np.linspace(0, len(kept) - 1, at_most).astype(int)])
        return Conformal(out)

    def half_width(self, level: float) -> Double:
        """Half-widths in z-scores at coverage `level`, per horizon step; infinite where too few cells were seen."""
        out = np.full(len(self.sorted_residuals), np.inf)
        for h, row in enumerate(self.sorted_residuals):
            rank = int(np.ceil((len(row) + 1) * level - 1e-9))
            if 1 <= rank <= len(row):
                out[h] = row[rank - 1]
        return out

    def interval(self, predicted: FloatArray, scale: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds in the user's units. shape: [B, H, N...] -> two of [B, H, N...]"""
        half = self.half_width(level)[: predicted.shape[1]].reshape(-1, *(1,) * scale.ndim) * scale
        return (predicted - half).astype(np.float32), (predicted + half).astype(np.float32)


Predict: TypeAlias = Callable[[IdArray], FloatArray]


def measure(
    predict: Predict, values: FloatArray, starts: IdArray, window: int, horizon: int, scale: FloatArray, batch: int = 64
) -> Metrics:
    """Metrics of anything that maps window starts to forecasts [B, H, N...] in the user's units."""
    metrics = Metrics(scale, horizon)
    for lo in range(0, len(starts), batch):
        part = starts[lo : lo + batch]
        actual = gather(values, part, horizon, window)
        metrics.add(predict(part), actual, np.isfinite(actual))
    return metrics


def window_counts(window: int, horizon: int, split: TimeSplit) -> dict[Part, int]:
    """How many windows each part has: the check before training."""
    parts: tuple[Part, ...] = ("train", "valid", "test")
    return {part: len(split.starts(part, window, horizon)) for part in parts}
