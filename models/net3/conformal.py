"""Prediction intervals. Shapes: B windows, H horizon, N = N1 x ... x NM series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import blocks
from graphlearn.types import BoolArray, DoubleArray, FloatArray, IdArray

HALF_LIFE = 16.0
"""Time steps after which an error counts half as much in the spread of recent errors."""
MEMORY = 64
"""Time steps after which it no longer counts."""
PRIOR = 1.0
"""The weight of the mean over all series in the spread of one, in errors of the newest step."""
STATIC_PRIOR = 10.0
"""The same for a spread over all validation cells."""
SMALLEST = 1e-6
AT_MOST = 10_000
"""The number of scores that are kept per step ahead."""


@dataclass(frozen=True)
class Conformal:
    """Split-conformal intervals: half-width = quantile of the scores of the validation split, times a spread.

    A score is |residual| / spread, both in z-scores, so that a series that is hard to predict gets wider intervals (Lei
    et al. 2018, section 5.2). The quantile of each step has the finite-sample correction ceil((n + 1) * level) / n
    (Vovk et al. 2005), and sorted scores serve every level. scores: H arrays, ascending. `spread`: of the series of a
    recovery, [N1, ..., NM]; that of a forecast is `RecentErrors` at its origin. `floor`: what no value is below.
    """

    scores: list[FloatArray]
    spread: FloatArray | None = None
    floor: FloatArray | None = None

    @staticmethod
    def fit(
        scores: Sequence[FloatArray],
        spread: FloatArray | None = None,
        floor: FloatArray | None = None,
    ) -> Conformal:
        """From scores of each horizon step; more than AT_MOST are thinned evenly."""
        out = []
        for row in scores:
            kept = np.sort(row[np.isfinite(row)].astype(np.float32))
            out.append(kept if len(kept) <= AT_MOST else kept[np.linspace(0, len(kept) - 1, AT_MOST).astype(int)])
        return Conformal(out, spread, floor)

    def quantile(self, level: float) -> DoubleArray:
        """The score below which the share `level` lies, per horizon step; infinite where there are too few."""
        out = np.full(len(self.scores), np.inf)
        for h, row in enumerate(self.scores):
            rank = int(np.ceil((len(row) + 1) * level - 1e-9))
            if 1 <= rank <= len(row):
                out[h] = row[rank - 1]
        return out

    def interval(
        self, predicted: FloatArray, spread: FloatArray, scale: FloatArray, level: float
    ) -> tuple[FloatArray, FloatArray]:
        """Lower and upper bounds in the user's units; no bound is below the floor.

        shape: predicted [B, H, N...], spread [B, H, N...] or [N...], scale [N...] -> two of [B, H, N...]
        """
        wide = self.quantile(level)[: predicted.shape[1]].reshape(-1, *(1,) * scale.ndim)
        half = (wide * np.maximum(spread, SMALLEST) * scale).astype(np.float32)
        lower, upper = (self.clip(predicted + sign * half) for sign in (-1, 1))
        return np.where(np.isfinite(half), lower, np.float32(-np.inf)), upper

    def clip(self, x: FloatArray) -> FloatArray:
        """At least the floor of each series. shape: [..., N1, ..., NM]"""
        return x if self.floor is None else np.maximum(x, self.floor)


def floor_of(values: FloatArray, stop: int | None = None, observed: BoolArray | None = None) -> FloatArray:
    """0 for series without a negative value before `stop` (counts, prices, speeds), -inf for others.

    shape: [T, N1, ..., NM] -> [N1, ..., NM]
    """
    least = np.full(values.shape[1:], np.nan, np.float32)
    for lo, block in blocks(values, stop):
        seen = np.isfinite(block) if observed is None else observed[lo : lo + len(block)] & np.isfinite(block)
        least = np.fmin(least, np.fmin.reduce(np.where(seen, block, np.float32(np.nan)), axis=0))
    return np.where(least >= 0, np.float32(0), np.float32(-np.inf))


@dataclass
class RecentErrors:
    """The spread of each series and step ahead at the origin of a forecast: a weighted mean of its latest |residuals|.

    The weight of an error halves every `HALF_LIFE` steps since the target was read and is 0 after `MEMORY`, so that the
    spread follows the series from calm to busy hours, and drifts with it; the mean over all series, with the weight
    `PRIOR`, steadies it. Only what is known at the origin is used. (On weights that decay with age, see Barber et al.
    2023.)
    """

    starts: IdArray = field(default_factory=lambda: np.zeros(0, np.int64))
    errors: FloatArray | None = None

    def add(self, starts: IdArray, errors: FloatArray) -> FloatArray:
        """The spread at the origins of consecutive batches of windows, ascending; their errors count from then on.

        shape: starts [B], errors [B, H, N...] (|residual| in z-scores, NaN if unknown) -> [B, H, N...]
        """
        B, H = errors.shape[:2]
        flat = errors.reshape(B, H, -1)
        known = flat if self.errors is None else np.concatenate([self.errors, flat])
        times = np.concatenate([self.starts, starts])
        ages = starts[:, None] - times
        out = np.empty(flat.shape, np.float32)
        for h in range(H):
            age = ages - (h + 1)  # steps since the target of step h + 1 was read
            weight = np.where((age >= 0) & (age < MEMORY), 0.5 ** (age / HALF_LIFE), 0).astype(np.float32)
            seen = np.isfinite(known[:, h])
            total, count = weight @ np.where(seen, known[:, h], np.float32(0)), weight @ seen.astype(np.float32)
            everyone = count.sum(axis=1)
            mean = np.where(everyone > 0, total.sum(axis=1) / np.where(everyone > 0, everyone, 1), 1)
            out[:, h] = (total + PRIOR * mean[:, None]) / (count + PRIOR)
        kept = times > times[-1] - MEMORY - H
        self.starts, self.errors = times[kept], known[kept]
        return np.maximum(out, SMALLEST).reshape(errors.shape)


def static(
    targets: Iterable[tuple[FloatArray, FloatArray, BoolArray]], scaler: Scaler, floor: FloatArray | None = None
) -> Conformal:
    """Intervals of a recovery, from (predicted, actual, mask) of held-out cells, each [B, 1, N...].

    The spread of a series is its mean |residual|, shrunk towards that of all series. For the score of a cell, it is
    computed without that cell, as for a cell that was never known.
    """
    places, errors = [np.zeros(0, np.int64)], [np.zeros(0)]
    for predicted, actual, mask in targets:
        residual = np.abs(predicted - actual) / scaler.scale
        places.append(np.flatnonzero(mask) % scaler.scale.size)
        errors.append(residual[mask].astype(np.float64))
    at, known = np.concatenate(places), np.concatenate(errors)
    count, total = (np.bincount(at, weights, scaler.scale.size) for weights in (None, known))
    prior = STATIC_PRIOR * max(float(known.mean()) if len(known) else 1.0, SMALLEST)
    spread = ((total + prior) / (count + STATIC_PRIOR)).astype(np.float32).reshape(scaler.scale.shape)
    others = (total[at] - known + prior) / (count[at] - 1 + STATIC_PRIOR)
    return Conformal.fit([(known / others).astype(np.float32)], spread, floor)
