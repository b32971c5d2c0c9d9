"""Vector autoregression: a linear forecast from the lags of all series, which a single series' AR cannot use.

Shapes: T steps, N series, B windows, H horizon, K components, P lags, F = P * K + 1 features (the last is constant).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from graphlearn.models.net3.baselines.linear_ar import LinearAR
from graphlearn.models.net3.baselines.seasonal import profile_at
from graphlearn.models.net3.data.tensor import BLOCK_CELLS, gather
from graphlearn.types import DoubleArray, FloatArray, IdArray

LAGS = (1, 3, 5)
COMPONENTS = (5, 10, 20, 50, 100, 200)
RIDGES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
SAMPLE = 1024
"""Time steps from which the components are computed."""
MOMENTS = 1 << 25
"""The largest number of cross moments kept, H * F * K."""


@dataclass(frozen=True)
class VAR:
    """A linear AR of every series, plus a linear forecast of its errors from the lags of all series.

    The lags are those of the first K principal components of the data (z-scores minus seasonal means). With K = N, this
    is a VAR whose ridge penalty draws it towards the AR instead of 0, as the prior of Litterman (1986) does; with K < N
    it has low rank (diffusion indexes, Stock and Watson 2002). basis: [N, K], orthonormal; coefficients: [H, F, K].
    `read`: the share of the training windows that it was fitted on.
    """

    base: LinearAR
    basis: FloatArray
    lags: int
    coefficients: DoubleArray
    ridge: float
    read: float = 1.0

    @staticmethod
    def fit(base: LinearAR, stop: int, valid_stop: int, left: Callable[[], float] = lambda: np.inf) -> VAR:
        """Fit on windows with targets before `stop`; choose lags, components and ridge on those before `valid_stop`.

        Only sums of products are kept, so memory does not grow with T. A missing lag or target counts as its expected
        value, and moments are divided by the share of known targets. Without a validation split, the grid is not
        searched. `left`: seconds of CPU time that may still be used; after half of them, only the latest windows have
        been read.
        """
        W, H = base.window, base.coefficients.shape[-1]
        N = int(np.prod(base.values.shape[1:]))
        lags = [p for p in LAGS if p <= W]
        most = int(np.sqrt(MOMENTS / (H * lags[-1])))
        sizes = sorted({min(k, N, max(1, most)) for k in COMPONENTS})
        basis = _components(base, stop, sizes[-1])
        sizes = sorted({min(k, basis.shape[1]) for k in sizes})
        P, K = lags[-1], basis.shape[1]
        valid = _Sums.empty(H, P, K)
        valid.add(base, basis, range(max(0, stop - W), max(0, valid_stop - W - H + 1)))
        train, windows = _Sums.empty(H, P, K), range(max(0, stop - W - H + 1))
        enough = left() / 2
        train.add(base, basis, windows, enough=lambda: left() < enough)
        best: tuple[float, int, int, float, DoubleArray] = (
            0.0,
            1,
            sizes[0],
            np.inf,
            np.zeros((H, sizes[0] + 1, sizes[0])),
        )
        grid = [(p, k) for k in sizes for p in lags]
        if not valid.count:
            grid = [(lags[0], min(20, K))]
        for p, k in grid:
            chosen = np.r_[[j * K + i for j in range(p) for i in range(k)], P * K].astype(np.int64)
            level, directions = np.linalg.eigh(train.gram[np.ix_(chosen, chosen)])
            moment = directions.T @ train.moment[:, chosen, :k].transpose(1, 0, 2).reshape(len(chosen), -1)
            check = valid.moment[:, chosen, :k].transpose(1, 0, 2).reshape(len(chosen), -1)
            for ridge in RIDGES if valid.count else (100.0,):
                found = directions @ (moment / (np.maximum(level, 0) + ridge)[:, None])
                change = float(np.sum(found * (valid.gram[np.ix_(chosen, chosen)] @ found - 2 * check)))
                if change < best[0] or not valid.count:  # of the squared error on the validation split
                    coefficients = found.reshape(len(chosen), H, k).transpose(1, 0, 2)
                    best = (change, p, k, ridge, coefficients)
            if not left():
                break
        _, p, k, ridge, coefficients = best
        return VAR(base, basis[:, :k], p, coefficients, ridge, train.count / max(1, len(windows)))

    def predict(self, starts: IdArray) -> FloatArray:
        """shape: [B] -> [B, H, N...]"""
        base = self.base
        deviations, _ = _deviations(base, np.asarray(starts, np.int64))
        x = _features(deviations[:, : base.window] @ self.basis, self.lags)
        z = np.einsum("bf,hfk->bhk", x, self.coefficients, optimize=True) @ self.basis.T
        out = base.predict(starts)
        return np.asarray(out + z.reshape(out.shape) * base.scaler.scale, np.float32)


@dataclass
class _Sums:
    """Sums over windows: gram [F, F] of the features, moment [H, F, K] with the components of the AR's errors."""

    gram: DoubleArray
    moment: DoubleArray
    lags: int
    count: int = 0

    @staticmethod
    def empty(H: int, P: int, K: int) -> _Sums:
        return _Sums(np.zeros((P * K + 1, P * K + 1)), np.zeros((H, P * K + 1, K)), P)

    def add(self, base: LinearAR, basis: FloatArray, starts: range, enough: Callable[[], bool] = lambda: False) -> None:
        """Add windows, the latest first, until `enough`."""
        W, H = base.window, len(self.moment)
        size = max(1, BLOCK_CELLS // max(1, len(basis) * (W + H)))
        moment, known, cells = np.zeros_like(self.moment), 0, 0
        for chunk in _backwards(starts, size):
            deviations, seen = _deviations(base, chunk)
            shape = (len(chunk), H, len(basis))
            predicted = base.scaler.transform(base.predict(chunk)).reshape(shape)
            actual = base.scaler.transform(gather(base.values, chunk, H, W)).reshape(shape)
            error = np.where(np.isfinite(actual), actual - predicted, np.float32(0))
            x = _features(deviations[:, :W] @ basis, self.lags)
            self.gram += x.T @ x
            moment += np.einsum("bf,bhk->hfk", x, error @ basis, optimize=True)
            known, cells = known + int(seen[:, W:].sum()), cells + seen[:, W:].size
            self.count += len(chunk)
            if enough():
                break
        self.moment += moment * (cells / max(1, known))


def _backwards(starts: range, size: int) -> Iterator[IdArray]:
    for hi in range(starts.stop, starts.start, -size):
        yield np.arange(max(starts.start, hi - size), hi, dtype=np.int64)


def _features(factors: FloatArray, lags: int) -> DoubleArray:
    """The newest `lags` steps of windows, newest first, and a constant. shape: [B, W, K] -> [B, lags * K + 1]"""
    newest = factors[:, ::-1][:, :lags].reshape(len(factors), -1)
    return np.concatenate([newest, np.ones((len(factors), 1))], axis=1)


def _deviations(base: LinearAR, starts: IdArray) -> tuple[FloatArray, FloatArray]:
    """z-scores minus seasonal means, 0 where missing, of windows and their targets; and which are known.

    shape: [B] -> two of [B, W + H, N]
    """
    length = base.window + base.coefficients.shape[-1]
    z = base.scaler.transform(gather(base.values, starts, length))
    season = profile_at(base.profile, base.calendar.at(starts[:, None] + np.arange(length)))
    seen = np.isfinite(z)
    out = np.where(seen, z - season, np.float32(0)).astype(np.float32)
    return out.reshape(len(starts), length, -1), seen.reshape(len(starts), length, -1)


def _components(base: LinearAR, stop: int, most: int) -> FloatArray:
    """The first principal components of at most SAMPLE steps before `stop`. shape: [N, K], K <= most"""
    steps = np.unique(np.linspace(0, max(0, stop - 1), min(stop, SAMPLE)).astype(np.int64))
    z = base.scaler.transform(np.asarray(base.values[steps])) - profile_at(base.profile, base.calendar.at(steps))
    data = np.where(np.isfinite(z), z, 0).reshape(len(steps), -1).astype(np.float64)
    if data.shape[1] <= len(steps):
        vectors = np.linalg.eigh(data.T @ data)[1][:, ::-1]
        return np.ascontiguousarray(vectors[:, :most], np.float32)
    values, left = np.linalg.eigh(data @ data.T)
    kept = values[::-1] > max(1e-9 * max(float(values[-1]), 0.0), 1e-12)
    vectors = data.T @ left[:, ::-1][:, kept][:, :most]
    norms = np.linalg.norm(vectors, axis=0)
    if not len(norms):
        return np.eye(data.shape[1], 1, dtype=np.float32)
    return np.ascontiguousarray(vectors / norms, np.float32)
