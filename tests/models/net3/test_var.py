"""The vector autoregression: it is ridge regression, whatever the blocks, and uses what a single series lacks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.models.net3.baselines import var
from graphlearn.models.net3.baselines.linear_ar import LinearAR
from graphlearn.models.net3.baselines.var import VAR
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.metrics import measure


def simulated(steps: int, series: int, seed: int = 0) -> np.ndarray:
    """A stable VAR(1) in which each series follows the one before it."""
    generator = np.random.default_rng(seed)
    follow = 0.2 * np.eye(series) + 0.75 * np.roll(np.eye(series), 1, axis=0)
    x = np.zeros((steps, series))
    for t in range(1, steps):
        x[t] = follow @ x[t - 1] + 0.2 * generator.normal(size=series)
    return x.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99), st.booleans())
def test_it_is_ridge_regression(window: int, series: int, horizon: int, seed: int, blocks: bool) -> None:
    x = np.random.default_rng(seed).normal(size=(60, series)).cumsum(axis=0).astype(np.float32)
    stop, scaler = 45, Scaler.fit(x, 45)
    base = LinearAR.fit(x, scaler, window, horizon, stop=stop)
    before, var.BLOCK_CELLS = var.BLOCK_CELLS, 40 if blocks else var.BLOCK_CELLS
    try:
        found = VAR.fit(base, stop, 55)
    finally:
        var.BLOCK_CELLS = before
    z = scaler.transform(x).astype(np.float64)
    starts = np.arange(stop - window - horizon + 1)
    factors = z @ found.basis.astype(np.float64)
    lags = [factors[starts + window - 1 - j] for j in range(found.lags)]
    features = np.concatenate([*lags, np.ones((len(starts), 1))], axis=1)
    predicted = scaler.transform(base.predict(starts)).astype(np.float64)
    for h in range(horizon):
        error = (z[starts + window + h] - predicted[:, h]) @ found.basis
        if np.isinf(found.ridge):
            expected = np.zeros((features.shape[1], error.shape[1]))
        else:
            penalty = np.sqrt(found.ridge) * np.eye(features.shape[1])
            rows = np.concatenate([features, penalty])
            targets = np.concatenate([error, np.zeros((features.shape[1], error.shape[1]))])
            expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
        np.testing.assert_allclose(found.coefficients[h], expected, atol=2e-3)
        answers = found.predict(starts[-3:])[:, h]
        by_hand = predicted[-3:, h] + features[-3:] @ expected @ found.basis.T
        np.testing.assert_allclose(answers, scaler.inverse(by_hand.astype(np.float32)), rtol=1e-2, atol=2e-2)


def test_it_uses_other_series() -> None:
    x = simulated(1200, 12)
    scaler, stop = Scaler.fit(x, 900), 900
    base = LinearAR.fit(x, scaler, 5, 2, stop=stop)
    fitted = VAR.fit(base, stop, 1050)
    starts = np.arange(1050, 1190)
    alone, together = (
        measure(model.predict, x, starts, 5, 2, scaler.scale).total["z_rmse"] for model in (base, fitted)
    )
    best = 0.2 / scaler.scale.mean()
    assert fitted.lags == 1 or together < 1.02 * best * 1.25
    assert together < 0.75 * alone
    assert fitted.read == 1.0


def test_missing_cells_count_as_expected() -> None:
    x = simulated(1200, 12)
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    scaler = Scaler.fit(x, 900)
    base = LinearAR.fit(x, scaler, 5, 1, stop=900)
    fitted = VAR.fit(base, 900, 1050)
    starts = np.arange(1050, 1190)
    alone, together = (
        measure(model.predict, x, starts, 5, 1, scaler.scale).total["z_rmse"] for model in (base, fitted)
    )
    assert together < 0.9 * alone


def test_many_series_have_low_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    hidden = simulated(400, 4)
    x = (hidden @ generator.normal(size=(4, 1500)) + 0.1 * generator.normal(size=(400, 1500))).astype(np.float32)
    scaler = Scaler.fit(x, 300)
    base = LinearAR.fit(x, scaler, 3, 1, stop=300)
    fitted = VAR.fit(base, 300, 350)
    K = fitted.basis.shape[1]
    assert K <= 200
    np.testing.assert_allclose(fitted.basis.T @ fitted.basis, np.eye(K), atol=1e-4)
    starts = np.arange(350, 396)
    alone, together = (
        measure(model.predict, x, starts, 3, 1, scaler.scale).total["z_rmse"] for model in (base, fitted)
    )
    assert together < alone
    monkeypatch.setattr(var, "MOMENTS", 200)
    assert VAR.fit(base, 300, 350).basis.shape[1] <= 8


def test_it_reads_only_the_latest_windows_when_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(var, "BLOCK_CELLS", 600)
    x = simulated(400, 6)
    base = LinearAR.fit(x, Scaler.fit(x, 300), 3, 1, stop=300)
    seconds = iter(np.linspace(1, 0, 8))
    fitted = VAR.fit(base, 300, 350, lambda: next(seconds, 0.0))
    assert 0 < fitted.read < 1
    assert np.isfinite(fitted.predict(np.arange(350, 390))).all()


def test_nothing_to_learn_from() -> None:
    empty = np.full((30, 3), np.nan, np.float32)
    base = LinearAR.fit(empty, Scaler.fit(empty), 2, 2, stop=20)
    fitted = VAR.fit(base, 20, 25)
    assert np.array_equal(fitted.predict(np.arange(3)), np.zeros((3, 2, 3)))
    x = simulated(60, 3)  # without a validation split, the grid is not searched
    base = LinearAR.fit(x, Scaler.fit(x), 2, 1, stop=40)
    assert VAR.fit(base, 40, 40).ridge == 100.0
