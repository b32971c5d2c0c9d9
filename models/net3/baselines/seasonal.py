"""Seasonal means of each series. Shapes: T time steps, C cycles, N = N1 x ... x NM series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import blocks, observed_cells
from graphlearn.types import BoolArray, FloatArray, IdArray


def fit_profile(
    values: FloatArray,
    scaler: Scaler,
    calendar: Calendar,
    shrinkage: float,
    stop: int | None = None,
    observed: BoolArray | None = None,
    rank: int = 0,
) -> list[FloatArray]:
    """The seasonal mean of each series, as one additive table per cycle, in z-scores.

    Cycles are fitted from the shortest to the longest, each to the residual of the ones before; a mean of n cells
    is multiplied by n / (n + shrinkage). With a rank, each table is replaced by its best approximation of that rank,
    so that series share a few seasonal shapes. shape: -> C tables [period, N1, ..., NM]
    """
    shape = values.shape[1:]
    tables = [np.zeros((p, *shape), np.float32) for p in calendar.periods]
    for c in np.argsort(calendar.periods, kind="stable"):
        total, count = np.zeros(tables[c].shape), np.zeros(tables[c].shape, np.float32)
        for lo, block in blocks(values, stop):
            phases = calendar.at(np.arange(lo, lo + len(block)))
            seen = observed_cells(block, observed, lo)
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
