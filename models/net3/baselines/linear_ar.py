"""Linear autoregression: a baseline, and the initial value of the network's linear skip.

Shapes: B windows, H horizon, N = N1 x ... x NM series; F = window + 1 features: the lags, oldest first, and a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from graphlearn.models.net3.baselines.seasonal import fit_profile, profile_at
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import gather
from graphlearn.models.net3.metrics import measure
from graphlearn.types import BoolArray, DoubleArray, FloatArray, IdArray


@dataclass(frozen=True)
class LinearAR:
    """Direct multi-step linear regression on the window, in z-scores minus the seasonal means.

    A missing lag counts as the series' mean (0). coefficients: [N1, ..., NM, F, H] or, shared by all series, [F, H].
    """

    values: FloatArray
    scaler: Scaler
    calendar: Calendar
    profile: Sequence[FloatArray]
    window: int
    coefficients: DoubleArray

    @staticmethod
    def fit(
        values: FloatArray,
        scaler: Scaler,
        window: int,
        horizon: int,
        *,
        ridge: float = 1.0,
        shared: bool = False,
        towards_shared: bool = False,
        stop: int | None = None,
        calendar: Calendar | None = None,
        profile: Sequence[FloatArray] = (),
        observed: BoolArray | None = None,
    ) -> LinearAR:
        """Ridge in closed form on windows whose targets lie before `stop`.

        `ridge` is added to the diagonal of the z-scored Gram matrix (not for the constant), so it counts as that many
        observations. With `towards_shared`, coefficients of a series shrink towards the shared ones, not to 0.
        """
        calendar = Calendar.none(len(values)) if calendar is None else calendar
        shape = values.shape[1:]
        n, F = int(np.prod(shape)), window + 1
        gram, moment = np.zeros((horizon, n, F, F)), np.zeros((horizon, n, F))
        pooled_gram, pooled_moment = np.zeros((horizon, F, F)), np.zeros((horizon, F))
        stop = len(values) if stop is None else min(stop, len(values))
        rows = max(1, (1 << 22) // max(1, n * F))
        for lo in range(0, max(0, stop - window - horizon + 1), rows):
            count = min(rows, stop - window - horizon + 1 - lo)
            steps = np.arange(lo, lo + count + window + horizon - 1)
            z = scaler.transform(np.asarray(values[lo : lo + len(steps)])) - profile_at(profile, calendar.at(steps))
            z = z.reshape(len(steps), n)
            seen = np.isfinite(z)
            if observed is not None:
                seen &= observed[lo : lo + len(steps)].reshape(len(steps), n)
            filled = np.where(seen, z, np.float32(0))
            lags = sliding_window_view(filled[: count + window - 1], window, axis=0).transpose(1, 0, 2)
            x = np.concatenate([lags, np.ones((n, count, 1), np.float32)], axis=2)
            for h in range(horizon):
                part = slice(window + h, window + h + count)
                weight = seen[part].T[:, :, None]
                left = (x if weight.all() else x * weight).transpose(0, 2, 1)
                here, there = left @ x, (left @ filled[part].T[:, :, None])[:, :, 0]
                if not shared:
                    gram[h] += here
                    moment[h] += there
                pooled_gram[h] += here.sum(0, dtype=np.float64)
                pooled_moment[h] += there.sum(0, dtype=np.float64)
        penalty = np.diag(np.r_[np.full(window, max(ridge, 1e-6)), 1e-6])
        common = np.linalg.solve(pooled_gram + penalty, pooled_moment[..., None])[..., 0]
        if shared:
            return LinearAR(values, scaler, calendar, profile, window, common.T.copy())
        if towards_shared:
            moment -= np.einsum("hnfg,hg->hnf", gram, common)
            penalty[-1, -1] = max(ridge, 1e-6)
        own = np.linalg.solve(gram + penalty, moment[..., None])[..., 0]
        own += common[:, None] if towards_shared else 0
        return LinearAR(values, scaler, calendar, profile, window, own.transpose(1, 2, 0).reshape(*shape, F, horizon))

    def predict(self, starts: IdArray) -> FloatArray:
        """shape: [B] -> [B, H, N...]"""
        W, H = self.window, self.coefficients.shape[-1]
        steps = np.asarray(starts, np.int64)[:, None] + np.arange(W + H)
        season = profile_at(self.profile, self.calendar.at(steps))
        z = self.scaler.transform(gather(self.values, starts, W))
        if not isinstance(season, float):
            z = z - season[:, :W]
        z = np.where(np.isfinite(z), z, np.float32(0))
        shared = "wh" if self.coefficients.ndim == 2 else "...wh"
        out = np.einsum(f"bw...,{shared}->bh...", z, self.coefficients[..., :W, :])
        out += np.moveaxis(self.coefficients[..., W, :], -1, 0).reshape(
            H, *(z.shape[2:] if self.coefficients.ndim > 2 else (1,) * (z.ndim - 2))
        )
        if not isinstance(season, float):
            out += season[:, W:]
        return self.scaler.inverse(out)


SEASONS = (1.0, 4.0, 16.0, 64.0, 1e9)
SEASON_RANKS = (0, 20, 10, 5)
RIDGES = (10.0, 100.0, 1000.0)
SELECTED_ON = 512
"""The number of series on which `choose_shrinkage` selects."""


def choose_shrinkage(
    values: FloatArray,
    window: int,
    horizon: int,
    calendar: Calendar,
    *,
    seasons: Sequence[float] = SEASONS,
    ranks: Sequence[int] = SEASON_RANKS,
    ridges: Sequence[float] = RIDGES,
    stop: int | None = None,
    observed: BoolArray | None = None,
    at_most: int = SELECTED_ON,
    advance: Callable[[], None] = lambda: None,
) -> tuple[float, int, float]:
    """The seasonal shrinkage and rank and the AR ridge with the least error on the last eighth of the steps before
    `stop`, fitted on the first seven eighths.

    At most `at_most` series are used, evenly spread. A season of 1e9 amounts to none. Shrinkage and rank are selected
    with the first ridge, then the ridge with those. `advance` is called after each of `fits_to_choose` fits.
    """
    stop = len(values) if stop is None else stop
    n = int(np.prod(values.shape[1:]))
    chosen = np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(np.int64))
    part = np.asarray(values[:stop].reshape(stop, n)[:, chosen])
    if observed is not None:
        part = np.where(observed[:stop].reshape(stop, n)[:, chosen], part, np.float32(np.nan))
    border = stop - stop // 8
    starts = np.arange(max(0, border - window), max(0, stop - window - horizon + 1))
    scaler = Scaler.fit(part, border)

    def score(season: float, rank: int, ridge: float) -> float:
        profile = fit_profile(part, scaler, calendar, season, border, rank=rank)
        how = {"towards_shared": True, "stop": border, "calendar": calendar, "profile": profile}
        model = LinearAR.fit(part, scaler, window, horizon, ridge=ridge, **how)  # type: ignore[arg-type]
        found = measure(model.predict, part, starts, window, horizon, scaler.scale).total["z_rmse"]
        advance()
        return found if np.isfinite(found) else np.inf

    pairs = _pairs(calendar, len(chosen), seasons, ranks)
    season, rank = min(pairs, key=lambda p: score(p[0], p[1], ridges[0])) if len(pairs) > 1 else pairs[0]
    return season, rank, min(ridges, key=lambda r: score(season, rank, r)) if len(ridges) > 1 else ridges[0]


def fits_to_choose(
    series: int, calendar: Calendar, seasons: Sequence[float], ranks: Sequence[int], ridges: Sequence[float]
) -> int:
    """The number of models that `choose_shrinkage` fits."""
    tried = (len(_pairs(calendar, min(series, SELECTED_ON), seasons, ranks)), len(ridges))
    return sum(n for n in tried if n > 1)


def _pairs(calendar: Calendar, series: int, seasons: Sequence[float], ranks: Sequence[int]) -> list[tuple[float, int]]:
    """The seasonal shrinkages and ranks to try: only the first of each without a calendar."""
    widest = min(max(calendar.periods, default=0), series)
    if not widest:
        return [(seasons[0], ranks[0])]
    return [(s, r) for s in seasons for r in ranks if r == ranks[0] or (r < widest and s < SEASONS[-1])]
