"""What a forecast or a filled gap is worth without a network: last value, seasonal naive, linear AR, iterative SVD.

Forecasters have `predict(starts)` -> [B, H, N1, ..., NM] in the user's units, as `series.measure` wants it.
Shapes: as in series.py; F = window + 1 features of the linear model (lags, oldest first, and a constant).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from graphlearn.models.net3.series import (
    Calendar,
    Double,
    Mask,
    Scaler,
    fit_profile,
    gather,
    measure,
    profile_at,
)
from graphlearn.types import FloatArray, IdArray


def carry_forward(x: FloatArray, start: FloatArray) -> FloatArray:
    """The last known value of each series at the end of the window, `start` where there is none.

    shape: [B, W, N...], [N...] -> [B, N...]
    """
    out = np.broadcast_to(start, x[:, 0].shape).astype(np.float32)
    for w in range(x.shape[1]):
        out = np.where(np.isfinite(x[:, w]), x[:, w], out)
    return out


@dataclass(frozen=True)
class LastValue:
    """Every step ahead is the last known value in the window; the train mean where the window holds none."""

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
    """The known value a whole number of periods before, up to `reach` of them; then as LastValue.

    Only values from before the forecast are used: it may look further back than the window.
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


@dataclass(frozen=True)
class LinearAR:
    """Direct multi-step linear regression on the window, in z-scores less the seasonal profile.

    A missing lag counts as the series' mean (0). coefficients: [N1, ..., NM, F, H] or, shared by all series, [F, H].
    """

    values: FloatArray
    scaler: Scaler
    calendar: Calendar
    profile: Sequence[FloatArray]
    window: int
    coefficients: Double

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
        observed: Mask | None = None,
    ) -> LinearAR:
        """Ridge in closed form on windows whose targets lie before `stop`.

        `ridge` is added to the diagonal of the z-scored Gram matrix (not for the constant), so it weighs like that many
        observations. With `towards_shared`, the coefficients of a series shrink towards the shared ones, not to 0.
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
    observed: Mask | None = None,
    at_most: int = 512,
) -> tuple[float, int, float]:
    """Seasonal shrinkage and rank, and AR ridge, that best forecast the last eighth of the steps before `stop`.

    Both are fitted on the first seven eighths, on at most so many series, evenly spread. A season of 1e9 means
    none. Shrinkage and rank are chosen together with the first ridge, the ridge for the best of them.
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
        return found if np.isfinite(found) else np.inf

    widest = min(max(calendar.periods, default=0), len(chosen))
    pairs = [(s, r) for s in seasons for r in ranks if r == ranks[0] or (r < widest and s < SEASONS[-1])]
    season, rank = min(pairs, key=lambda p: score(p[0], p[1], ridges[0])) if len(pairs) > 1 and widest else pairs[0]
    return season, rank, min(ridges, key=lambda r: score(season, rank, r)) if len(ridges) > 1 else ridges[0]


def low_rank(
    x: FloatArray, observed: Mask, rank: int, *, shrinkage: float = 0.0, rounds: int = 100, tolerance: float = 1e-4
) -> FloatArray:
    """Iterative SVD: fill missing cells with the best approximation of that rank, again and again.

    Hard impute with `shrinkage` 0, soft impute (Mazumder, Hastie, Tibshirani 2010) above: `shrinkage` times the largest
    singular value of the data is taken off every singular value. Cells start at 0, so centre the columns before. Stops
    when the approximation moves by less than `tolerance` of its norm. shape: [T, P], [T, P] -> [T, P]
    """
    data = np.where(observed, x, 0).astype(np.float32)
    wide = data.shape[0] <= data.shape[1]
    if not wide:
        data, observed = np.ascontiguousarray(data.T), observed.T
    rank = max(1, min(rank, len(data)))
    filled, fit = data.copy(), np.zeros_like(data)
    cut = 0.0
    for _ in range(rounds):
        square, vectors = np.linalg.eigh(filled @ filled.T)
        if shrinkage and not cut:
            cut = shrinkage * float(np.sqrt(max(square[-1], 0)))
        top, basis = np.sqrt(np.maximum(square[-rank:], 0)), vectors[:, -rank:]
        keep = np.maximum(top - cut, 0) / np.maximum(top, 1e-12)
        last, fit = fit, (basis * keep) @ (basis.T @ filled)
        filled = np.where(observed, data, fit)
        if np.linalg.norm(fit - last) <= tolerance * max(float(np.linalg.norm(fit)), 1e-12):
            break
    return fit if wide else fit.T


def choose_rank(
    x: FloatArray, observed: Mask, ranks: Sequence[int], *, shrinkages: Sequence[float] = (0.0,), seed: int = 0
) -> tuple[int, float]:
    """The rank and shrinkage with the least squared error on a tenth of the observed cells, held out at random.

    shape: [T, P], [T, P]
    """
    held = observed & (np.random.default_rng([seed, 2]).random(x.shape) < 0.1)
    best = (np.inf, ranks[0], shrinkages[0])
    for shrinkage in shrinkages:
        for rank in ranks:
            fit = low_rank(x, observed & ~held, rank, shrinkage=shrinkage, rounds=50, tolerance=1e-3)
            best = min(best, (float(np.square(np.where(held, fit - np.where(held, x, 0), 0)).sum()), rank, shrinkage))
    return best[1], best[2]
