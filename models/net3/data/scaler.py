"""z-scores of each series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphlearn.models.net3.data.tensor import blocks, observed_cells
from graphlearn.types import BoolArray, FloatArray


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation of each series. shape: [N1, ..., NM] both, float32, in the user's units."""

    mean: FloatArray
    scale: FloatArray

    @staticmethod
    def fit(values: FloatArray, stop: int | None = None, observed: BoolArray | None = None) -> Scaler:
        """From the observed cells of the first `stop` steps, by default of all.

        Constant series and series without a cell get scale 1, the latter also mean 0. `observed` masks further cells.
        """
        shape = values.shape[1:]
        count, total = np.zeros(shape), np.zeros(shape)
        for lo, block in blocks(values, stop):
            seen = observed_cells(block, observed, lo)
            count += seen.sum(0)
            total += np.where(seen, block, 0).sum(0, dtype=np.float64)
        mean = total / np.maximum(count, 1)
        square = np.zeros(shape)
        for lo, block in blocks(values, stop):
            seen = observed_cells(block, observed, lo)
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
