"""Versions of a series: ids of keys, the axis and the borders of its splits are stable."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphlearn.errors import ArtifactError, InputError, OptionError
from graphlearn.events import silent
from graphlearn.storage.series.ingest import encode_series
from graphlearn.storage.series.tensor import SeriesTensor, read_series


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute("SET TimeZone = 'Europe/Berlin'")
        yield connection


def encode(cursor: duckdb.DuckDBPyConnection, sql: str, base: SeriesTensor | None = None, **given: Any) -> SeriesTensor:
    options: dict[str, Any] = {"time": "ts", "modes": ["k"], "value": "v", "emit": silent, "base": base, **given}
    return encode_series(cursor, sql, **options)


def store(series: SeriesTensor, folder: Path) -> SeriesTensor:
    folder.mkdir(exist_ok=True)
    series.write(folder)
    return read_series(folder)


ROWS = st.lists(
    st.tuples(st.integers(-4, 30), st.sampled_from("abcdef"), st.integers(-9, 9).map(float)), min_size=1, max_size=20
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_versions_keep_keys_and_steps(
    cursor: duckdb.DuckDBPyConnection,
    tmp_path_factory: pytest.TempPathFactory,
    versions: list[list[tuple[int, str, float]]],
    chance: random.Random,
) -> None:
    base: SeriesTensor | None = None
    keys: list[str] = []
    first = [(0, "b", 1.0), (2, "b", 2.0), (4, "d", 3.0)]
    for rows in [first, *versions]:
        last = max(row[0] for row in rows)
        cursor.register("given", pa.table(dict(zip(("ts", "k", "v"), map(list, zip(*rows, strict=True)), strict=True))))
        query = "SELECT ts::BIGINT AS ts, k, v::DOUBLE AS v FROM given"
        if last < 2:
            with pytest.raises(InputError, match="before the second step of the model, 2"):
                encode(cursor, query, base)
            continue
        series = encode(cursor, query, base, freq=2, start=0, aggregate="sum")
        covered = [row for row in rows if row[0] >= 0]
        keys += sorted({key for _, key, _ in covered} - set(keys))
        assert series.modes[0].keys.keys.to_pylist() == keys
        assert (series.axis.start, series.axis.freq.ticks, len(series.axis)) == (0, 2, last // 2 + 1)
        expected = np.full((last // 2 + 1, len(keys)), np.nan, np.float32)
        for ts, key, value in covered:
            cell = ts // 2, keys.index(key)
            expected[cell] = np.nan_to_num(expected[cell]) + value
        np.testing.assert_array_equal(series.values, expected)
        assert series.report.before_start == len(rows) - len(covered)
        assert series.report.vanished_keys == len(set(keys) - {key for _, key, _ in covered})
        chance.shuffle(rows)
        cursor.register("given", pa.table(dict(zip(("ts", "k", "v"), map(list, zip(*rows, strict=True)), strict=True))))
        again = encode(cursor, query, base, freq=2, start=0, aggregate="sum")
        np.testing.assert_array_equal(again.values, series.values)
        assert again.report == series.report
        if base is None:
            series = replace(series, borders=(1, 2))
        base = store(series, tmp_path_factory.mktemp("version"))
        assert base.borders == (1, 2)


MONTHS = "SELECT DATE '2020-01-31' AS ts, 'a' AS k, 1 AS v UNION ALL SELECT DATE '2020-02-29', 'a', 2"
DAYS = "SELECT TIMESTAMPTZ '2020-03-28 00:00:00+01' + to_days(i::INTEGER) AS ts, 'a' AS k, i AS v FROM range({}) t(i)"
NANOS = "SELECT make_timestamp_ns(i * 500) AS ts, 'a' AS k, i AS v FROM range({}) t(i)"


@pytest.mark.parametrize(
    ("before", "after", "freq"),
    [
        (MONTHS, f"{MONTHS} UNION ALL SELECT DATE '2020-06-15', 'a', 3", "1 month"),
        (DAYS.format(3), DAYS.format(9), "1 day"),
        (NANOS.format(3), NANOS.format(7), None),
    ],
)
def test_the_axis_is_continued(
    cursor: duckdb.DuckDBPyConnection, tmp_path: Path, before: str, after: str, freq: str | None
) -> None:
    base = store(encode(cursor, before, freq=freq), tmp_path)
    series, whole = encode(cursor, after, base), encode(cursor, after, freq=base.axis.freq_text if freq else None)
    assert series.axis == replace(base.axis, steps=len(whole.axis))
    assert series.axis.stamps().equals(whole.axis.stamps())
    np.testing.assert_array_equal(series.values, whole.values)
    assert not series.report.freq_inferred


def test_a_series_without_keys(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    base = store(encode(cursor, "SELECT i AS ts, i AS v FROM range(3) t(i)", modes=[]), tmp_path)
    assert base.borders is None
    series = encode(cursor, "SELECT i AS ts, i AS v FROM range(1, 5) t(i)", base, modes=[])
    np.testing.assert_array_equal(series.values[:, 0], [np.nan, 1, 2, 3, 4])
    assert series.report.vanished_keys == 0


def test_what_does_not_continue_a_series_is_refused(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    base = store(encode(cursor, DAYS.format(3), freq="1 day"), tmp_path / "1")
    with pytest.raises(InputError, match="the time column is DATE, but the steps of the model are TIMESTAMP WITH"):
        encode(cursor, "SELECT DATE '2020-03-28' AS ts, 'a' AS k, 1 AS v", base)
    with pytest.raises(InputError, match="the keys of k are VARCHAR in the model, but INTEGER in the query") as caught:
        encode(cursor, f"SELECT * REPLACE (7 AS k) FROM ({DAYS.format(9)})", base)
    assert caught.value.role == "series"
    with pytest.raises(OptionError, match="the modes of the model are k"):
        encode(cursor, f"SELECT * RENAME (k AS j) FROM ({DAYS.format(9)})", base, modes=["j"])
    late = "VALUES ('2030-01-01 00:00:00+01'::TIMESTAMPTZ, 'a', NULL), ('2000-01-01 00:00:00+01'::TIMESTAMPTZ, 'a', 1)"
    with pytest.raises(InputError, match="there is no reading at or after the first step of the model"):
        encode(cursor, f"FROM ({late}) t(ts, k, v)", base)
    cursor.execute("SET TimeZone = 'Asia/Tokyo'")
    with pytest.raises(InputError, match="the time zone Europe/Berlin, but that of the session is Asia/Tokyo"):
        encode(cursor, DAYS.format(9), base)


def test_damaged_borders(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    store(encode(cursor, MONTHS), tmp_path)
    text = (tmp_path / "series.json").read_text()
    assert '"borders": null' in text
    (tmp_path / "series.json").write_text(text.replace('"borders": null', '"borders": [1]'))
    with pytest.raises(ArtifactError, match="borders are"):
        read_series(tmp_path)
