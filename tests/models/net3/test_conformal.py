"""Prediction intervals: their coverage on data of which it is known, and what their spread depends on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphlearn.models.net3.conformal import (
    HALF_LIFE,
    MEMORY,
    PRIOR,
    Conformal,
    RecentErrors,
    floor_of,
    static,
)
from graphlearn.models.net3.data.scaler import Scaler


def test_the_quantile_has_the_finite_sample_correction() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        scores = np.abs(generator.normal(size=19))
        quantile = Conformal.fit([scores]).quantile(0.9)[0]
        assert quantile == pytest.approx(np.sort(scores)[17], rel=1e-6)  # ceil(20 * 0.9) = 18th of 19
        covered.append(abs(generator.normal()) <= quantile)
    assert 0.85 < np.mean(covered) < 0.95
    assert np.isinf(Conformal.fit([np.ones(5)]).quantile(0.99)[0])
    assert np.isinf(Conformal.fit([np.full(3, np.nan)]).quantile(0.5)[0])


def test_an_interval_is_quantile_times_spread_times_scale_above_the_floor() -> None:
    floor = np.array([0, -np.inf, 0], np.float32)
    two = Conformal.fit([np.arange(1.0, 10), np.arange(10.0, 19)], floor=floor)
    spread = np.full((1, 2, 3), 2, np.float32)
    lower, upper = two.interval(np.ones((1, 2, 3), np.float32), spread, np.array([1, 2, 4], np.float32), 0.5)
    assert upper[0].tolist() == [[11, 21, 41], [29, 57, 113]]
    assert lower[0].tolist() == [[0, -19, 0], [0, -55, 0]]
    unbounded = two.interval(np.ones((1, 2, 3), np.float32), spread, np.ones(3, np.float32), 0.99)
    assert np.isinf(unbounded).all(), "an unknown lower bound is not the floor"


def test_the_floor_is_zero_where_no_reading_of_the_train_split_is_negative() -> None:
    x = np.array([[0, 1, np.nan, -1], [2, np.nan, np.nan, 5], [-3, 1, 1, 1]], np.float32)
    assert floor_of(x, 2).tolist() == [0, 0, -np.inf, -np.inf]
    assert floor_of(x).tolist() == [-np.inf, 0, 0, -np.inf]
    assert floor_of(x, None, np.arange(3)[:, None] != np.array([2, 9, 9, 0]))[[0, 3]].tolist() == [0, 0]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 99))
def test_recent_errors_are_weighted_by_age(horizon: int, series: int, batches: list[int], seed: int) -> None:
    generator, total = np.random.default_rng(seed), sum(batches)
    errors = np.abs(generator.normal(size=(total, horizon, series))).astype(np.float32)
    errors[generator.random(errors.shape) < 0.3] = np.nan
    recent, found = RecentErrors(), []
    for lo, n in zip(np.cumsum([0, *batches]), batches, strict=False):
        found.append(recent.add(np.arange(lo, lo + n), errors[lo : lo + n]))
    spread = np.concatenate(found)
    for s in {0, total // 2, total - 1}:
        for h in range(horizon):
            # the target of window u at step h is read at the origin u + h + 1
            known = [(u, 0.5 ** ((s - u - h - 1) / HALF_LIFE)) for u in range(total) if 0 <= s - u - h - 1 < MEMORY]
            weight, sums = np.zeros(series), np.zeros(series)
            for u, w in known:
                seen = np.isfinite(errors[u, h])
                weight[seen] += w
                sums[seen] += w * errors[u, h][seen]
            mean = sums.sum() / weight.sum() if weight.sum() else 1.0
            np.testing.assert_allclose(spread[s, h], (sums + PRIOR * mean) / (weight + PRIOR), rtol=1e-4)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_forecast_intervals_cover_exchangeable_errors(level: float) -> None:
    """Series of different spread: the coverage is the nominal one, of each of them."""
    generator = np.random.default_rng(1)
    scale = np.exp(0.5 * generator.normal(size=40)).astype(np.float32)
    errors = np.abs(generator.normal(size=(1000, 1, 40)) * scale).astype(np.float32)
    recent = RecentErrors()
    spread = np.concatenate([recent.add(np.arange(k, k + 50), errors[k : k + 50]) for k in range(0, 1000, 50)])
    scores = (errors / spread)[100:500].ravel()
    half = Conformal.fit([scores]).quantile(level)[0] * spread[500:]
    inside = (errors[500:] <= half).mean(axis=(0, 1))
    assert inside.mean() == pytest.approx(level, abs=0.01)
    assert np.abs(inside - level).max() < 0.07  # 500 errors each: a standard deviation of 0.018
    assert (
        np.abs((errors[500:] <= np.quantile(errors[:500], level)).mean(axis=(0, 1)) - level).max()
        > 2 * np.abs(inside - level).max()
    )


def test_forecast_intervals_follow_a_drift() -> None:
    generator = np.random.default_rng(2)
    size = np.linspace(1, 5, 1000)[:, None, None]
    errors = np.abs(generator.normal(size=(1000, 1, 20)) * size).astype(np.float32)
    spread = RecentErrors().add(np.arange(1000), errors)
    fitted = Conformal.fit([(errors / spread)[64:200].ravel()]).quantile(0.9)[0]
    assert (errors[200:] <= fitted * spread[200:]).mean() == pytest.approx(0.9, abs=0.02)
    assert (errors[200:] <= np.quantile(errors[:200], 0.9)).mean() < 0.65


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_intervals_of_a_recovery_cover_held_out_cells(level: float) -> None:
    generator = np.random.default_rng(3)
    spread = np.exp(generator.normal(size=60))
    actual = (generator.normal(size=(400, 1, 60)) * spread).astype(np.float32)
    held = generator.random(actual.shape) < 0.1
    scaler = Scaler(np.zeros(60, np.float32), np.ones(60, np.float32))
    zero = np.zeros_like(actual)
    found = static([(zero[:200], actual[:200], held[:200]), (zero[200:], actual[200:], held[200:])], scaler)
    assert found.spread is not None
    lower, upper = found.interval(zero, found.spread, scaler.scale, level)
    inside = ((actual >= lower) & (actual <= upper))[~held]
    assert inside.mean() == pytest.approx(level, abs=0.015)
    nothing = static([], scaler)
    assert nothing.spread is not None
    assert np.isfinite(nothing.spread).all()
    assert np.isinf(nothing.quantile(0.5)).all()
