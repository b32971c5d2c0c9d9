"""Prediction intervals. Shapes: B windows, H horizon, N = N1 x ... x NM series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.types import BoolArray, DoubleArray, FloatArray


@dataclass(frozen=True)
class Conformal:
    """Split-conformal intervals: half-width = quantile of |residual| / scale on validation cells, times the scale.

    Vovk et al. 2005; the quantile has the finite-sample correction ceil((n + 1)(1 - alpha)) / n. Residuals sorted once
    serve every level. sorted_residuals: H arrays, ascending, z-scored.
    """

    sorted_residuals: list[FloatArray]

    @staticmethod
    def fit(residuals: Sequence[FloatArray], at_most: int = 1_000_000) -> Conformal:
        """From absolute z-scored residuals of each horizon step without NaN; more than `at_most` are thinned."""
        out = []
        for row in residuals:
            kept = np.sort(np.abs(row[np.isfinite(row)]).astype(np.float32))
            out.append(kept if len(kept) <= at_most else kept[np.linspace(0, len(kept) - 1, at_most).astype(int)])
        return Conformal(out)

    def half_width(self, level: float) -> DoubleArray:
        """Half-widths in z-scores at coverage `level`, per horizon step; infinite where there are too few cells."""
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


def conformal_of(
    targets: Iterable[tuple[FloatArray, FloatArray, BoolArray]], scaler: Scaler, horizon: int
) -> Conformal:
    """Conformal intervals from (predicted, actual, mask), each [B, H, N...] in the user's units."""
    found: list[list[FloatArray]] = [[] for _ in range(horizon)]
    for predicted, actual, mask in targets:
        residual = np.abs(predicted - actual) / scaler.scale
        for h in range(horizon):
            found[h].append(residual[:, h][mask[:, h]])
    return Conformal.fit([np.concatenate(f) if f else np.zeros(0, np.float32) for f in found])
