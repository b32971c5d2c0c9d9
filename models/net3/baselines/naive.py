"""Baselines without parameters. Shapes: B windows, W window length, H horizon, N = N1 x ... x NM series.

Forecasters have `predict(starts)` -> [B, H, N1, ..., NM] in the user's units, as `metrics.measure` expects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import gather
from graphlearn.types import FloatArray, IdArray


def carry_forward(x: FloatArray, start: FloatArray) -> FloatArray:
    """The last known value of each series at the end of the window, `start` if there is none.

    shape: [B, W, N...], [N...] -> [B, N...]
    """
    out = np.broadcast_to(start, x[:, 0].shape).astype(np.float32)
    for w in range(x.shape[1]):
        out = np.where(np.isfinite(x[:, w]), x[:, w], out)
    return out


@dataclass(frozen=True)
class LastValue:
    """Every step ahead is the last known value in the window or, if there is none, the training mean."""

    values: FloatArray
    scaler: Scaler
    window: int
    horizon: int

    def predict(self, starts: IdArray) -> FloatArray:
        """shape: [B] -> [B, H, N...]"""
        last = carry_forward(gather(self.values, starts, self.window), self.scaler.mean)
        return np.repeat(last[:, None], self.horizon, axis=1)


@dataclass(frozen=True)
class SeasonalNaive:
    """The latest known value a whole number of periods earlier, at most `reach`; then as LastValue.

    Only values before the forecast are used, which may lie before the window.
    """

    values: FloatArray
    scaler: Scaler
    window: int
    horizon: int
    period: int
    reach: int = 4

    def predict(self, starts: IdArray) -> FloatArray:
        """shape: [B] -> [B, H, N...]"""
        out = LastValue(self.values, self.scaler, self.window, self.horizon).predict(starts)
        for h in range(self.horizon):
            first = -(-(h + 1) // self.period)
            for k in range(first + self.reach - 1, first - 1, -1):
                past = gather(self.values, starts, 1, self.window + h - k * self.period)[:, 0]
                out[:, h] = np.where(np.isfinite(past), past, out[:, h])
        return out
