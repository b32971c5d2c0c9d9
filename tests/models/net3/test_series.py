"""The arrays of time series models: scaling, splits, windows, masks, calendars, metrics, intervals, baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graphlearn.errors import InputError
from graphlearn.models.net3.baselines.interpolate import interpolate
from graphlearn.models.net3.baselines.linear_ar import LinearAR, choose_shrinkage
from graphlearn.models.net3.baselines.low_rank import choose_rank, low_rank
from graphlearn.models.net3.baselines.naive import LastValue, SeasonalNaive
from graphlearn.models.net3.baselines.seasonal import fit_profile, profile_at
from graphlearn.models.net3.data import tensor
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.scaler import Scaler
from graphlearn.models.net3.data.tensor import gather
from graphlearn.models.net3.data.time_split import TimeSplit
from graphlearn.models.net3.metrics import BLOCKS, LEVELS, MOST_BLOCKS, Metrics, block_length, measure
from graphlearn.types import Split

CELL = st.one_of(st.floats(-1000, 1000, width=32), st.just(float("nan")))
TENSOR = st.tuples(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=CELL)
)
QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(TENSOR, st.integers(0, 12))
def test_scaler(x: np.ndarray, stop: int) -> None:
    scaler = Scaler.fit(x, stop)
    for i in np.ndindex(x.shape[1:]):
        known = x[:stop][(slice(None), *i)].astype(np.float64)
        known = known[np.isfinite(known)]
        mean = known.mean() if len(known) else 0
        assert scaler.mean[i] == pytest.approx(mean, rel=1e-5, abs=1e-4)
        if len(set(known)) < 2:
            assert scaler.scale[i] == 1
        elif known.std() > 1e-3 * max(1, abs(mean)):
            assert scaler.scale[i] == pytest.approx(known.std(), rel=1e-3)
    assert np.isfinite(scaler.scale).all()
    back = scaler.inverse(scaler.transform(x))
    assert np.allclose(back, x, rtol=1e-4, atol=1e-2, equal_nan=True)


def test_blocks_do_not_change_what_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
    calendar = Calendar.cycles(50, (7, 3))
    whole = Scaler.fit(x, 40)
    tables = fit_profile(x, whole, calendar, 2.0, 40)
    monkeypatch.setattr(tensor, "BLOCK_CELLS", 25)
    again = Scaler.fit(x, 40)
    assert np.allclose(whole.mean, again.mean, atol=1e-6)
    assert np.allclose(whole.scale, again.scale, atol=1e-6)
    for a, b in zip(tables, fit_profile(x, whole, calendar, 2.0, 40), strict=True):
        assert np.allclose(a, b, atol=1e-5)


@QUICK
@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 5), st.floats(0.1, 0.9), st.floats(0, 0.1))
def test_splits_and_starts(length: int, window: int, horizon: int, train: float, valid: float) -> None:
    split = TimeSplit.of(length, (train, valid, 1 - train - valid))
    assert 0 <= split.train_end <= split.valid_end <= split.length == length
    for part in Split:
        lo, hi = split.span(part)
        expected = [s for s in range(length) if s + window >= lo and s + window + horizon <= hi]
        assert split.starts(part, window, horizon).tolist() == expected


def test_split_of_the_spec() -> None:
    assert TimeSplit.of(156) == TimeSplit(125, 140, 156)
    assert TimeSplit.of(521, (0.8, 0, 0.2)) == TimeSplit(417, 417, 521)


@QUICK
@given(TENSOR, st.lists(st.integers(-5, 15), min_size=1, max_size=4), st.integers(1, 5), st.integers(-3, 3))
def test_gather(x: np.ndarray, starts: list[int], length: int, offset: int) -> None:
    found = gather(x, np.array(starts), length, offset)
    for b, start in enumerate(starts):
        for k in range(length):
            t = start + offset + k
            expected = x[t] if 0 <= t < len(x) else np.full(x.shape[1:], np.nan)
            assert np.array_equal(found[b, k], expected, equal_nan=True)


def test_gather_reads_a_memory_map_and_masks(tmp_path: Path) -> None:
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(100, 4))
    x[:] = np.arange(400).reshape(100, 4)
    found = gather(x, np.array([0, 98]), 3)
    assert not isinstance(found, np.memmap) or found.base is not x
    assert found[0, 2].tolist() == [8, 9, 10, 11]
    assert np.isnan(found[1, 2]).all()
    assert gather(np.ones((2, 3), bool), np.array([1]), 2).tolist() == [[[True] * 3, [False] * 3]]


def test_calendar_goes_on_after_its_end() -> None:
    calendar = Calendar.cycles(10, (7, 4), shift=2)
    assert calendar.at(np.array([0, 9, 10, 16])).tolist() == [[2, 2], [4, 3], [5, 0], [4, 2]]
    assert calendar.at(np.array([[-3, 0]])).tolist() == [[[6, 3], [2, 2]]]
    assert Calendar.none(5).at(np.arange(3)).shape == (3, 0)
    with pytest.raises(InputError, match=r"0 \.\. 3"):
        Calendar(np.array([[4]]), (4,))
    with pytest.raises(InputError, match="2 periods"):
        Calendar(np.array([[1]]), (4, 2))


def test_profile_is_a_shrunk_seasonal_mean() -> None:
    x = np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32)
    x[::5, 1] = np.nan
    scaler, calendar = Scaler.fit(x), Calendar.cycles(60, (4,))
    (table,) = fit_profile(x, scaler, calendar, 3.0, 50)
    z = scaler.transform(x)[:50]
    for phase in range(4):
        for n in range(2):
            cells = z[phase::4, n][np.isfinite(z[phase::4, n])]
            assert table[phase, n] == pytest.approx(cells.sum() / (len(cells) + 3), abs=1e-5)
    assert np.array_equal(profile_at([table], calendar.at(np.array([[5]]))), table[None, None, 1])
    assert profile_at([], calendar.at(np.arange(3))) == 0


def test_profile_of_a_rank() -> None:
    x = np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32)
    scaler, calendar = Scaler.fit(x), Calendar.cycles(60, (6,))
    (full,), (flat,) = (fit_profile(x, scaler, calendar, 0.0, rank=r) for r in (0, 2))
    values = np.linalg.svd(full, compute_uv=False)
    assert np.linalg.norm(full - flat) == pytest.approx(np.linalg.norm(values[2:]), rel=1e-4)
    assert np.linalg.matrix_rank(flat, tol=1e-4) == 2


def test_chosen_shrinkage() -> None:
    generator = np.random.default_rng(0)
    calendar = Calendar.cycles(240, (12,))
    shapes = generator.normal(size=(12, 1)) * generator.normal(size=(1, 30))
    strong = (shapes[np.arange(240) % 12] * 3 + generator.normal(size=(240, 30)) * 0.3).astype(np.float32)
    weak = np.cumsum(generator.normal(size=(240, 30)), 0).astype(np.float32)
    assert choose_shrinkage(strong, 2, 1, calendar, ranks=(0,))[0] == 1
    assert choose_shrinkage(strong * 0.1 + generator.normal(size=strong.shape), 2, 1, calendar, seasons=(1.0,))[1] == 5
    assert choose_shrinkage(weak.astype(np.float32), 2, 1, calendar)[0] > 16
    hidden = np.ones(strong.shape, bool)
    hidden[::2] = False
    broken = np.where(hidden, strong, np.float32(1e5))
    assert choose_shrinkage(strong, 2, 1, calendar, observed=hidden) == choose_shrinkage(
        broken, 2, 1, calendar, observed=hidden
    )


def test_longer_cycles_fit_what_shorter_ones_leave() -> None:
    calendar = Calendar.cycles(400, (12, 4))
    shape = np.random.default_rng(0).normal(size=12)
    x = shape[np.arange(400) % 12][:, None].astype(np.float32)
    scaler = Scaler.fit(x)
    tables = fit_profile(x, scaler, calendar, 0.0)
    assert np.allclose(profile_at(tables, calendar.at(np.arange(400))), scaler.transform(x), atol=1e-4)
    assert np.allclose(tables[1][:, 0], [scaler.transform(x)[p::4].mean() for p in range(4)], atol=1e-4)


PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)).flatmap(
    lambda s: st.tuples(arrays(np.float32, s, elements=CELL), arrays(np.float32, s, elements=CELL), arrays(bool, s))
)


@QUICK
@given(PAIRS)
def test_metrics(pair: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    actual, predicted, mask = pair
    predicted = np.nan_to_num(predicted)
    scale = np.linspace(1, 2, actual.shape[2]).astype(np.float32)
    metrics = Metrics(scale, actual.shape[1])
    for b in range(len(actual)):  # in batches of one
        metrics.add(predicted[b : b + 1], actual[b : b + 1], mask[b : b + 1])
    mask = mask & np.isfinite(actual)
    rows = metrics.rows()
    assert [r["step"] for r in rows] == [*range(1, actual.shape[1] + 1), 0]
    for h, row in enumerate(rows):
        part = slice(h, h + 1) if h < actual.shape[1] else slice(None)
        chosen = mask[:, part]
        a, p = actual[:, part][chosen].astype(np.float64), predicted[:, part][chosen]
        error, z = p - a, ((p - a) / np.broadcast_to(scale, mask[:, part].shape)[chosen])
        assert row["cells"] == len(a)
        if not len(a):
            assert np.isnan([row["rmse"], row["mae"], row["mape"], row["z_rmse"], row["z_mae"]]).all()
            continue
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
        assert row["mae"] == pytest.approx(np.mean(np.abs(error)))
        assert row["z_rmse"] == pytest.approx(np.sqrt(np.mean(z**2)))
        assert row["z_mae"] == pytest.approx(np.mean(np.abs(z)))
        some = a != 0
        if some.any():
            assert row["mape"] == pytest.approx(100 * np.mean(np.abs(error[some] / a[some])))


@QUICK
@given(TENSOR, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_naive_forecasts(x: np.ndarray, window: int, horizon: int, period: int) -> None:
    scaler, starts = Scaler.fit(x), np.arange(len(x))
    last = LastValue(x, scaler, window, horizon).predict(starts)
    seasonal = SeasonalNaive(x, scaler, window, horizon, period, reach=2).predict(starts)
    for s in starts:
        now = s + window
        for i in np.ndindex(x.shape[1:]):
            known = [x[(t, *i)] for t in range(s, min(now, len(x))) if np.isfinite(x[(t, *i)])]
            expected = known[-1] if known else scaler.mean[i]
            for h in range(horizon):
                assert last[(s, h, *i)] == expected
                past = [t for t in range(now + h, -1, -period) if t < now][:2]
                cells = [x[(t, *i)] for t in past if t < len(x) and np.isfinite(x[(t, *i)])]
                assert seasonal[(s, h, *i)] == (cells[0] if cells else expected)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("towards", [False, True])
def test_linear_ar_is_ridge_regression(shared: bool, towards: bool) -> None:
    generator = np.random.default_rng(0)
    x = np.cumsum(generator.normal(size=(70, 2, 2)), axis=0).astype(np.float32)
    x[generator.random(x.shape) < 0.1] = np.nan
    W, H, stop, ridge = 3, 2, 60, 5.0
    scaler, calendar = Scaler.fit(x, stop), Calendar.cycles(70, (6,))
    profile = fit_profile(x, scaler, calendar, 1.0, stop)
    model = LinearAR.fit(
        x,
        scaler,
        W,
        H,
        ridge=ridge,
        shared=shared,
        towards_shared=towards,
        stop=stop,
        calendar=calendar,
        profile=profile,
    )
    season = profile_at(profile, calendar.at(np.arange(72)))
    z = scaler.transform(x) - season[:70]
    filled = np.where(np.isfinite(z), z, 0)

    def solve(series_ids: list[tuple[int, int]], h: int, centre: np.ndarray, bias_penalty: float) -> np.ndarray:
        a, b = [], []
        for i in series_ids:
            for s in range(stop - W - H + 1):
                if np.isfinite(z[(s + W + h, *i)]):
                    a.append([*filled[(slice(s, s + W), *i)], 1.0])
                    b.append(z[(s + W + h, *i)])
        A, y = np.array(a, np.float64), np.array(b, np.float64)
        penalty = np.diag([ridge] * W + [bias_penalty])
        return centre + np.linalg.solve(A.T @ A + penalty, A.T @ (y - A @ centre))

    everyone = list(np.ndindex(2, 2))
    for h in range(H):
        common = solve(everyone, h, np.zeros(W + 1), 1e-6)
        for i in everyone:
            own = solve([i], h, common, ridge) if towards else solve([i], h, np.zeros(W + 1), 1e-6)
            expected = common if shared else own
            found = model.coefficients[:, h] if shared else model.coefficients[(*i, slice(None), h)]
            assert np.allclose(found, expected, atol=1e-3)
            for s in (0, 41, 67):
                lags = np.r_[filled[(slice(s, s + W), *i)], np.zeros(max(0, s + W - 70)), 1]
                value = lags @ expected + season[(min(s + W + h, 71), *i)]
                if s + W + h <= 71:
                    assert model.predict(np.array([s]))[(0, h, *i)] == pytest.approx(
                        value * scaler.scale[i] + scaler.mean[i], abs=2e-2
                    )


def test_linear_ar_without_data_and_in_blocks() -> None:
    empty = np.full((30, 3), np.nan, np.float32)
    model = LinearAR.fit(empty, Scaler.fit(empty), 2, 2)
    assert np.array_equal(model.predict(np.arange(3)), np.zeros((3, 2, 3)))
    assert LinearAR.fit(empty, Scaler.fit(empty), 40, 2).coefficients.shape == (3, 41, 2)
    wide = np.random.default_rng(0).normal(size=(40, 70_000)).astype(np.float32)  # several blocks of windows
    scaler = Scaler.fit(wide)
    parts = LinearAR.fit(wide, scaler, 3, 1).coefficients[:5]
    assert np.allclose(parts, LinearAR.fit(wide[:, :5], Scaler.fit(wide[:, :5]), 3, 1).coefficients, atol=1e-5)


@QUICK
@given(PAIRS, st.integers(1, 5))
def test_metrics_by_block_and_by_series(pair: tuple[np.ndarray, np.ndarray, np.ndarray], block: int) -> None:
    """They add up to those of all cells, and a block holds the windows in their order."""
    actual, predicted, mask = pair
    predicted = np.nan_to_num(predicted)
    scale = np.linspace(1, 2, actual.shape[2]).astype(np.float32)
    bounds = {level: (predicted - np.float32(level), predicted + np.float32(level)) for level in LEVELS}
    metrics = Metrics(scale, actual.shape[1], block)
    for b in range(len(actual)):
        part = slice(b, b + 1)
        within = {level: (lower[part], upper[part]) for level, (lower, upper) in bounds.items()}
        metrics.add(predicted[part], actual[part], mask[part], within)
    assert len(metrics.blocks) == -(-len(actual) // block)
    np.testing.assert_allclose(metrics.blocks.sum(axis=0), metrics.sums)
    np.testing.assert_allclose(metrics.series.sum(axis=0), metrics.sums.sum(axis=0))
    seen = mask & np.isfinite(actual)
    cells = [seen[k : k + block].sum() for k in range(0, len(actual), block)]
    assert metrics.blocks[:, :, 0].sum(axis=1).tolist() == cells
    inside = ((actual >= bounds[0.9][0]) & (actual <= bounds[0.9][1]))[seen]
    if seen.any():
        assert metrics.total["coverage_90"] == pytest.approx(inside.mean())
    else:
        assert "coverage_90" not in metrics.total


@QUICK
@given(st.integers(1, 20_000), st.integers(1, 200), st.integers(1, 48), st.integers(1, 500))
def test_blocks_are_as_long_as_the_dependence_but_enough(windows: int, window: int, horizon: int, season: int) -> None:
    length = block_length(windows, window, horizon, season)
    assert length >= max(horizon, windows ** (1 / 3) - 1e-9)
    assert windows / length <= MOST_BLOCKS
    assert length >= max(window + horizon, season) or windows < (BLOCKS + 1) * max(length, 10)


def test_measure_counts_every_cell_once() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[12, 1] = np.nan
    scaler, starts = Scaler.fit(x), np.arange(10, 30)
    rows = measure(LastValue(x, scaler, 2, 2).predict, x, starts, 2, 2, scaler.scale, batch=7).rows()
    assert [r["cells"] for r in rows] == [59, 60, 119]  # step 12 is a target of one start at one horizon only


@pytest.mark.parametrize("shape", [(40, 25), (25, 40)])
def test_low_rank_completes_low_rank_data(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(shape[0], 2)) @ generator.normal(size=(2, shape[1]))).astype(np.float32)
    seen = generator.random(shape) < 0.7
    fit = low_rank(np.where(seen, x, np.nan), seen, 2, rounds=500, tolerance=1e-6)
    assert np.abs(fit - x)[~seen].max() < 0.05
    assert np.linalg.matrix_rank(fit, tol=1e-2) == 2
    soft = low_rank(x, seen, 25, shrinkage=0.2)
    full = np.where(seen, x, soft)
    values = np.linalg.svd(full, compute_uv=False)
    cut = 0.2 * np.linalg.svd(np.where(seen, x, 0), compute_uv=False)[0]
    assert np.allclose(np.linalg.svd(soft, compute_uv=False), np.maximum(values - cut, 0), atol=0.05)
    assert choose_rank(x, seen, (1, 2, 8))[0] == 2
    noisy = x + generator.normal(size=shape).astype(np.float32)
    rank, shrinkage = choose_rank(noisy, seen, (20,), shrinkages=(0.0, 0.2))
    assert (rank, shrinkage) == (20, 0.2)


@QUICK
@given(TENSOR)
def test_interpolation_is_that_of_numpy(x: np.ndarray) -> None:
    found = interpolate(x)
    for i in np.ndindex(x.shape[1:]):
        series = x[(slice(None), *i)]
        known = np.flatnonzero(np.isfinite(series))
        expected = np.interp(np.arange(len(x)), known, series[known]) if len(known) else np.zeros(len(x))
        np.testing.assert_allclose(found[(slice(None), *i)], expected, rtol=1e-5, atol=1e-3)


def test_low_rank_of_nothing() -> None:
    assert np.array_equal(low_rank(np.full((4, 3), np.nan, np.float32), np.zeros((4, 3), bool), 2), np.zeros((4, 3)))
