"""The size of a series, measured in one scan: it is that of the encoded series."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from cases.scans import count_scans

from graphlearn.errors import InputError, OptionError, ResourceError
from graphlearn.events import silent
from graphlearn.storage.fingerprint import fingerprint
from graphlearn.storage.series.graph import encode_mode_graph
from graphlearn.storage.series.ingest import SeriesTensor, encode_series
from graphlearn.storage.series.sizes import SeriesSizes, measure_series

COLUMNS: dict[str, Any] = {"time": "ts", "modes": ["k"], "value": "v"}
DAILY = (
    "SELECT (DATE '2020-01-01' + i::INT) AS ts, k, i AS v FROM range(100) t(i), range(7) s(k) "
    "WHERE (i + k) % 2 = 0 -- a comment"
)


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'Europe/Berlin'")
        yield connection


def measure(cursor: duckdb.DuckDBPyConnection, sql: str, **options: Any) -> SeriesSizes:
    return measure_series(cursor, sql, **(COLUMNS | options))


def encode(cursor: duckdb.DuckDBPyConnection, sql: str, **options: Any) -> SeriesTensor:
    return encode_series(cursor, sql, emit=silent, **(COLUMNS | options))


def temporary_tables(cursor: duckdb.DuckDBPyConnection) -> int:
    return int(cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall()[0][0])


def test_sizes_equal_those_of_the_encoded_series(cursor: duckdb.DuckDBPyConnection) -> None:
    sizes, found = measure(cursor, DAILY), encode(cursor, DAILY)
    assert (sizes.rows, sizes.steps, sizes.modes, sizes.freq) == (350, 100, {"k": 7}, "1 day")
    assert (sizes.time, sizes.value) == ("ts", "v")
    assert sizes.bytes == found.values.nbytes
    assert sizes.density == found.report.density == 0.5
    assert sizes.fingerprint == found.fingerprint == fingerprint(cursor, DAILY)
    late = measure(cursor, DAILY, start="2020-04-01", freq="1 day")
    assert (late.steps, late.rows, late.density) == (9, 350, 31 / 63)
    rows = "FROM (VALUES (1, 'old', 1), (5, 'a', 1), (6, 'a', 1)) AS given(ts, k, v)"
    assert measure(cursor, rows, start=5, freq=1).modes == {"k": 1}  # 'old' ends before the start
    assert encode(cursor, rows, start=5, freq=1).values.shape == (2, 1)
    assert temporary_tables(cursor) == 0


def test_sizes_are_checked_without_a_cursor(cursor: duckdb.DuckDBPyConnection) -> None:
    sizes = pickle.loads(pickle.dumps(measure(cursor, DAILY)))
    assert sizes == measure(cursor, DAILY)
    with pytest.raises(ResourceError, match=r"100 steps of 1 day x 7 k = 700 cells.*the budget is 0 MiB"):
        sizes.check_memory(2799, "the budget")
    sizes.check_memory(2800, "the budget")
    sizes.check_rows()
    with pytest.raises(ResourceError, match=r"50\.00% of them observed"):
        encode(cursor, DAILY, limit=1000)


def test_an_empty_query_has_sizes(cursor: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT 1 AS ts, 'a' AS k, 1 AS v WHERE false"
    sizes = measure(cursor, sql)
    assert (sizes.rows, sizes.steps, sizes.modes, sizes.bytes, sizes.density) == (0, 0, {"k": 0}, 0, 0.0)
    assert sizes.fingerprint == fingerprint(cursor, sql)
    with pytest.raises(InputError, match="the query has no rows"):
        sizes.check_rows()
    assert temporary_tables(cursor) == 0


STAMPS = {
    "DATE": "DATE '2023-01-01' + i::INTEGER",
    "TIMESTAMP": "TIMESTAMP '2023-01-01 00:07' + to_hours(i)",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ '2023-01-01 00:00:00+01' + to_days(i::INTEGER)",
    "BIGINT": "i * 10",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "freq": {"freq": True},
    "start": {"start": True},
    "both": {"freq": True, "start": True},
}
GIVEN = {
    "DATE": ("1 week", "2023-02-01"),
    "TIMESTAMP": ("2 hours", "2023-01-02 12:07:00"),
    "TIMESTAMP WITH TIME ZONE": ("1 month", "2023-02-01 00:00:00+01"),
    "BIGINT": (20, 100),
}


@pytest.mark.parametrize("given", OPTIONS)
@pytest.mark.parametrize("kind", STAMPS)
def test_measuring_and_encoding_scan_the_query_once(cursor: duckdb.DuckDBPyConnection, kind: str, given: str) -> None:
    freq, start = GIVEN[kind]
    options: dict[str, Any] = {
        "modes": ["site", "kind"],
        "freq": freq if "freq" in OPTIONS[given] else None,
        "start": start if "start" in OPTIONS[given] else None,
    }
    rows = f"SELECT {STAMPS[kind]} AS ts, 'b' || i % 3 AS site, i % 2 AS kind, sin(i) AS v FROM range(400) t(i)"
    counted = count_scans(cursor, "given", rows)
    for sql in ("FROM given", "SELECT v * 2 AS v, site, ts, kind FROM given WHERE site <> 'x' ORDER BY v"):
        sizes = measure(cursor, sql, **options)
        assert counted.taken() == (1, 400)
        series = encode(cursor, sql, **options)
        assert counted.taken() == (1, 400)
        assert sizes.fingerprint == series.fingerprint
        assert (sizes.steps, *sizes.modes.values()) == series.values.shape
        series.close()


def test_repeated_cells_and_many_stamps_cost_no_second_scan(cursor: duckdb.DuckDBPyConnection) -> None:
    counted = count_scans(cursor, "given", "SELECT i // 2 AS ts, 'a' AS k, 1e5 + i AS v FROM range(5000) t(i)")
    measure(cursor, "FROM given")
    assert counted.taken() == (1, 5000)
    encode(cursor, "FROM given", aggregate="last").close()
    assert counted.taken() == (1, 5000)


def test_the_graph_of_a_mode_is_scanned_once(cursor: duckdb.DuckDBPyConnection) -> None:
    series = encode(cursor, DAILY)
    edges = count_scans(
        cursor, "edges", "SELECT i % 7 AS source, (i + 1) % 7 AS target, 0.5 AS weight FROM range(9) t(i)"
    )
    graph = encode_mode_graph(cursor, "FROM edges", series.modes[0], emit=silent)
    assert edges.taken() == (1, 9)
    assert (len(graph.source), graph.report.duplicate_rows) == (7, 2)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ("(1, 'a', 1), (NULL, 'a', 2)", {"freq": 0}, "must be positive"),
        ("(1, 'a', 1), (2, 'a', 2)", {"start": "soon"}, "start = soon is not of type INTEGER"),
        ("(1, 'a', 1), (2, 'a', 2)", {"start": 9}, "there is no reading at or after start"),
        ("(1, 'a', 1), (1, 'b', 2)", {}, "single time step"),
        ("(1, 'a', NULL::INTEGER), (2, 'b', NULL)", {}, "no row has a usable value"),
        ("(1, 'a', 1e39), (2, 'b', 1)", {}, "beyond what float32 holds"),
    ],
)
def test_unusable_input_is_refused_when_it_is_measured(
    cursor: duckdb.DuckDBPyConnection, rows: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((InputError, OptionError), match=message):
        measure(cursor, f"FROM (VALUES {rows}) AS given(ts, k, v)", **options)
    assert temporary_tables(cursor) == 0
