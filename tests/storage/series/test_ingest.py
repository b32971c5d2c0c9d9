"""Series input: long format to a tensor, compared with a Python oracle, and errors."""

from __future__ import annotations

import datetime
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from cases import paths
from cases.storage import limited_file_size
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphlearn.errors import ArtifactError, InputError, OptionError, ResourceError, UserError, WorkspaceError
from graphlearn.events import Event, Note, silent
from graphlearn.storage.fingerprint import fingerprint
from graphlearn.storage.series import ingest as module
from graphlearn.storage.series.ingest import SeriesTensor, encode_series, read_series
from graphlearn.storage.series.report import SeriesReport

Row = tuple[Any, ...]
DATA = paths.DATA / "series"
MINUTE = datetime.timedelta(minutes=1)


@pytest.fixture
def cursor(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"threads": 2, "temp_directory": str(tmp_path / "spill")})
    connection.execute("SET TimeZone = 'UTC'")
    yield connection
    connection.close()


def encode(cursor: duckdb.DuckDBPyConnection, sql: str, **options: Any) -> SeriesTensor:
    """Encode the columns ts, k (or `modes`) and v."""
    options = {"time": "ts", "modes": ["k"], "value": "v", "emit": silent, **options}
    return encode_series(cursor, sql, **options)


def table(rows: list[str], columns: str = "ts, k, v") -> str:
    return f"SELECT * FROM (VALUES {', '.join(f'({row})' for row in rows)}) AS given({columns})"


def temporary_tables(cursor: duckdb.DuckDBPyConnection) -> int:
    return int(cursor.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchall()[0][0])


# --- the oracle ---------------------------------------------------------------------------------------------------

AGGREGATES = {
    "mean": lambda found: math.fsum(v for _, v in found) / len(found),
    "sum": lambda found: math.fsum(v for _, v in found),
    "min": lambda found: min(v for _, v in found),
    "max": lambda found: max(v for _, v in found),
    "count": lambda found: float(len(found)),
    "last": lambda found: max(found)[1],
}


def oracle(rows: list[Row], step: int, start: int, aggregate: str) -> tuple[dict[Row, float], dict[str, int]]:
    """Cells (step, keys...) with their values, and counts, computed row by row. Times are whole numbers."""
    complete = [row for row in rows if None not in row[:-1]]
    covered = [row for row in complete if row[0] >= start]
    found: dict[Row, list[tuple[int, float]]] = {}
    moved = 0
    for at, *keys, value in covered:
        if value is not None and math.isfinite(value):
            found.setdefault(((at - start) // step, *keys), []).append((at, value))
            moved += (at - start) % step != 0
    steps = (max(row[0] for row in covered) - start) // step + 1
    series: dict[Row, dict[int, float]] = {}
    cells = {cell: AGGREGATES[aggregate](readings) for cell, readings in found.items()}
    for (at, *keys), value in cells.items():
        series.setdefault(tuple(keys), {})[at] = value
    sizes = [len({row[i] for row in covered}) for i in range(1, len(rows[0]) - 1)]
    return cells, {
        "rows": len(rows),
        "null_rows": len(rows) - len(complete),
        "before_start": len(complete) - len(covered),
        "null_values": sum(row[-1] is None for row in covered),
        "nonfinite_values": sum(row[-1] is not None and not math.isfinite(row[-1]) for row in covered),
        "duplicate_rows": sum(len(readings) - 1 for readings in found.values()),
        "moved_rows": moved,
        "observed": len(cells),
        "steps": steps,
        "series": math.prod(sizes),
        "empty_series": math.prod(sizes) - len(series),
        "constant_series": sum(len({np.float32(v) for v in one.values()}) == 1 for one in series.values()),
        "late_series": sum(min(one) > 0 for one in series.values()),
        "gap_cells": sum(max(one) - min(one) + 1 - len(one) for one in series.values()),
        "empty_steps": steps - len({cell[0] for cell in cells}),
    }


KEYS = {
    "VARCHAR": st.sampled_from(["a", "B", "b", "é", "'", '"', "", " ", "NULL", "🦆"]),
    "BIGINT": st.one_of(st.integers(-3, 3), st.integers(-(1 << 63), (1 << 63) - 1)),
    "DOUBLE": st.sampled_from([0.0, 1.5, -2.5, float("inf")]),
    "BOOLEAN": st.booleans(),
}
ARROW = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_()}
TIMES = {"BIGINT": pa.int64(), "TIMESTAMP": pa.timestamp("us"), "TIMESTAMP_NS": pa.timestamp("ns")}
READINGS = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-1e6, 1e6, width=32))
VALUES = st.one_of(READINGS, READINGS, READINGS, st.sampled_from([None, math.nan, math.inf]))


@st.composite
def inputs(draw: st.DrawFn) -> tuple[str, list[str], list[Row], int, int, str]:
    kinds = draw(st.lists(st.sampled_from(list(KEYS)), max_size=3))
    pools = [draw(st.lists(KEYS[kind], min_size=1, max_size=3)) for kind in kinds]
    rare = st.sampled_from([True] * 9 + [False])
    at = st.integers(-30, 60)
    complete = st.tuples(at, *(st.sampled_from(pool) for pool in pools), VALUES)
    holed = st.tuples(st.one_of(st.none(), at), *(st.sampled_from([None, *pool]) for pool in pools), VALUES)
    rows = draw(st.lists(rare.flatmap(lambda whole: complete if whole else holed), min_size=6, max_size=60))
    start = draw(st.sampled_from([-40, -31, -30, -7, 0]))
    kind = draw(st.sampled_from(list(TIMES)))
    return kind, kinds, rows, draw(st.integers(1, 12)), start, draw(st.sampled_from(list(AGGREGATES)))


def register(cursor: duckdb.DuckDBPyConnection, kind: str, kinds: list[str], rows: list[Row]) -> None:
    """The rows as a view "given" (ts, k0, k1, ..., v); in temporal types, a tick is one second."""
    ats, *keys, values = zip(*rows, strict=True)
    per = {"BIGINT": 1, "TIMESTAMP": 10**6, "TIMESTAMP_NS": 10**9}[kind]
    columns = {"ts": pa.array([None if at is None else at * per for at in ats], pa.int64()).cast(TIMES[kind])}
    columns |= {f"k{i}": pa.array(part, ARROW[name]) for i, (part, name) in enumerate(zip(keys, kinds, strict=True))}
    cursor.register("given", pa.table({**columns, "v": pa.array(values, pa.float64())}))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs())
def test_the_series_equals_that_of_a_plain_loop(
    cursor: duckdb.DuckDBPyConnection, case: tuple[str, list[str], list[Row], int, int, str]
) -> None:
    kind, kinds, rows, step, start, aggregate = case
    register(cursor, kind, kinds, rows)
    modes = [f"k{i}" for i in range(len(kinds))]
    freq: Any = step if kind == "BIGINT" else datetime.timedelta(seconds=step)
    begin: Any = start if kind == "BIGINT" else datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=start)
    options = {"modes": modes, "freq": freq, "start": begin, "aggregate": aggregate}
    ats = {row[0] for row in rows if None not in row[:-1] and row[0] >= start}
    usable = any(None not in row and math.isfinite(row[-1]) and row[0] >= start for row in rows)
    if not usable or len(ats) < 2 or (max(ats) - start) // step == 0:  # nothing, or a single step
        with pytest.raises(UserError) as error:
            encode(cursor, "FROM given", **options)
        assert error.value.help
        return
    found = encode(cursor, "FROM given", **options)
    cells, counts = oracle(rows, step, start, aggregate)
    assert {name: getattr(found.report, name) for name in counts} == counts
    report = found.report
    parts = ("null_rows", "before_start", "null_values", "nonfinite_values", "duplicate_rows", "observed")
    assert report.rows == sum(getattr(report, part) for part in parts)
    keys = [mode.keys.keys.to_pylist() for mode in found.modes] if modes else []
    for known in keys:
        assert known == sorted(known, key=lambda key: key.encode() if isinstance(key, str) else key)
    decoded = {
        (int(t), *(known[i] for known, i in zip(keys, ids, strict=False))): found.values[(t, *ids)]
        for t, *ids in np.argwhere(~np.isnan(found.values))
    }
    assert decoded.keys() == cells.keys()
    for cell, value in cells.items():
        assert decoded[cell] == pytest.approx(np.float32(value), rel=1e-6, abs=1e-9)
    found.close()


@pytest.mark.parametrize("values", [(1e9, 1e9 + 3), (123456789, 123456790)])
def test_what_float32_would_flatten_is_refused_unless_it_is_only_counted(
    cursor: duckdb.DuckDBPyConnection, values: tuple[float, float]
) -> None:
    rows = [f"DATE '2024-01-0{day}', 'a', {value}::DOUBLE" for day, value in enumerate((*values, values[0]), 1)]
    with pytest.raises(InputError, match="would lose their detail in float32"):
        encode(cursor, table(rows))
    series = encode(cursor, table(rows), aggregate="count")
    assert series.values.ravel().tolist() == [1, 1, 1]
    series.close()


def test_the_order_of_rows_does_not_matter(cursor: duckdb.DuckDBPyConnection) -> None:
    chance = random.Random(3)
    rows = [(chance.randrange(50), chance.choice("abc"), chance.random()) for _ in range(3000)]
    results = []
    for _ in range(2):
        chance.shuffle(rows)
        register(cursor, "BIGINT", ["VARCHAR"], rows)
        parts = [encode(cursor, "FROM given", modes=["k0"], freq=2, aggregate=name) for name in AGGREGATES]
        results.append((np.stack([part.values for part in parts]), parts[0].fingerprint))
    assert np.array_equal(results[0][0], results[1][0], equal_nan=True)
    assert results[0][1] == results[1][1] == fingerprint(cursor, "FROM given")


@pytest.mark.parametrize("few", [0, 1 << 20])
def test_repeated_cells_are_merged_looked_up_or_grouped(
    cursor: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(module, "_FEW", few)
    monkeypatch.setattr(module, "BATCH_ROWS", 2048)
    sql = "SELECT (i // 10)::BIGINT AS ts, i % 5 AS k, (i % 7)::DOUBLE AS v FROM range(20000) AS t(i)"
    found = encode(cursor, sql, freq=1)
    expected = np.array([[((10 * t + k) % 7 + (10 * t + k + 5) % 7) / 2 for k in range(5)] for t in range(2000)])
    assert np.array_equal(found.values, expected.astype(np.float32))
    assert found.report.duplicate_rows == 10000
    assert temporary_tables(cursor) == 0
    assert cursor.execute("SELECT count(*) FROM duckdb_views() WHERE view_name LIKE 'graphlearn%'").fetchall() == [(0,)]


def test_survey_over_blocks(cursor: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = (
        "SELECT i AS ts, k, k * (i % 3) AS v FROM range(40) t(i), range(3) s(k) WHERE i >= 5 * k AND i NOT IN (20, 21)"
    )
    whole = encode(cursor, sql, freq=1).report
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert encode(cursor, sql, freq=1).report == whole
    assert (whole.constant_series, whole.late_series, whole.gap_cells, whole.empty_steps) == (1, 2, 6, 2)


# --- stored and read again ----------------------------------------------------------------------------------------


def test_write_and_read(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    sql = (
        "SELECT (DATE '2024-01-31' + to_months(i))::DATE AS ts, chr(97 + k::INT) AS \"My Key\", k::HUGEINT AS k, "
        "i + k AS v FROM range(9) t(i), range(2) s(k)"
    )
    found = encode(cursor, sql, modes=["My Key", "k"], freq="1 month")
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    again.mkdir()
    found.write(first)
    stored = read_series(first)
    stored.write(again)
    for one in (stored, read_series(again)):
        assert isinstance(one.values, np.memmap)
        assert np.array_equal(one.values, found.values, equal_nan=True)
        assert not one.values.flags.writeable
        assert (one.axis, one.report, one.fingerprint) == (found.axis, found.report, found.fingerprint)
        assert (one.time_name, one.value_name) == ("ts", "v")
        assert [mode.name for mode in one.modes] == ["My Key", "k"]
        assert [mode.keys.keys.to_pylist() for mode in one.modes] == [m.keys.keys.to_pylist() for m in found.modes]
        assert one.modes[1].keys.type == "HUGEINT"
    times = cursor.execute(f"SELECT key FROM '{first}/time.parquet' ORDER BY id").fetchall()
    assert [key for (key,) in times][:3] == [datetime.date(2024, m, d) for m, d in ((1, 31), (2, 29), (3, 31))]
    assert found.mode("MY KEY") == 0
    with pytest.raises(OptionError, match="no mode My_Key") as error:
        found.mode("My_Key")
    assert error.value.help == "did you mean: My Key?"
    found.close()
    with pytest.raises(ValueError, match="closed file"):
        found.write(first)


def test_nothing_is_left_in_the_folder(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    found = encode(cursor, table(["1, 'a', 2", "2, 'a', 3"]), freq=1, folder=folder)
    assert list(folder.iterdir()) == []
    assert found.values.tolist() == [[2], [3]]


def test_a_damaged_series_is_refused(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    encode(cursor, table(["1, 'a', 2", "2, 'a', 3"]), freq=1).write(tmp_path)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name, content in whole.items():
        if name == "time.parquet":  # not read by the engine
            continue
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ArtifactError, match="missing or damaged"):
            read_series(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(ArtifactError, match="missing or damaged"):
            read_series(tmp_path)
        (tmp_path / name).write_bytes(content)
    newer = whole["series.json"].replace(b'"format_version": 2', b'"format_version": 9')
    (tmp_path / "series.json").write_bytes(newer)
    with pytest.raises(ArtifactError, match="newer"):
        read_series(tmp_path)


def test_full_disk(cursor: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    sql = "SELECT i AS ts, k, 1.0 AS v FROM range(2000) t(i), range(100) s(k)"
    with limited_file_size(1 << 18), pytest.raises(WorkspaceError, match="disk is full"):
        encode(cursor, sql, freq=1, folder=tmp_path)
    assert temporary_tables(cursor) == 0
    found = encode(cursor, sql, freq=1, folder=tmp_path)
    with limited_file_size(1 << 18), pytest.raises(WorkspaceError, match="disk is full"):
        found.write(tmp_path)


# --- reports and errors -------------------------------------------------------------------------------------------


def test_report_for_people(cursor: duckdb.DuckDBPyConnection) -> None:
    events: list[Event] = []
    rows = [f"TIMESTAMP '2024-01-01' + INTERVAL {5 * i} MINUTE, 'a', {i}::DOUBLE" for i in range(20)]
    rows += ["TIMESTAMP '2024-01-01 00:02', 'a', 4", "NULL, 'a', 1", "TIMESTAMP 'infinity', 'a', 1"]
    rows += ["TIMESTAMP '2024-01-01 00:10', 'b', 'nan'", "TIMESTAMP '2024-01-01 00:10', 'c', NULL"]
    found = encode(cursor, table(rows), emit=events.append)
    assert found.report.line() == "25 rows: 20 steps of 5 minutes x 3 k, 33.33% observed"
    assert [(e.message, e.level) for e in events if isinstance(e, Note)] == [
        ("inferred freq = 5 minutes, the most common distance between time stamps", "info"),
        ("dropped 2 rows with a NULL time or key", "warning"),
        ("1 NULL value: not observed", "info"),
        ("1 NaN or infinite value: not observed", "warning"),
        ("moved 1 reading to the start of its step", "info"),
        ("merged 1 reading into others with the same step and keys (aggregate = 'mean')", "warning"),
        ("2 series without any reading", "warning"),
    ]
    assert found.report.lines()[1] == "from 2024-01-01 00:00:00 to 2024-01-01 01:35:00"
    assert found.values[0].tolist()[0] == 2.0
    assert SeriesReport.from_json({**found.report.to_json(), "new": 1}) == found.report
    assert found.report.to_json()["density"] == pytest.approx(1 / 3)


def test_an_outlying_stamp_is_refused_not_allocated(cursor: duckdb.DuckDBPyConnection) -> None:
    rows = ["TIMESTAMP '2024-01-01', 'a', 1", "TIMESTAMP '2024-01-02', 'a', 1", "TIMESTAMP '290000-01-01', 'a', 1"]
    with pytest.raises(ResourceError, match="outlying"):
        encode(cursor, table(rows), freq="1 millisecond")
    ends = ["(-9223372036854775808)::BIGINT, 'a', 1", "9223372036854775807, 'a', 1"]
    with pytest.raises(ResourceError, match="outlying"):
        encode(cursor, table([*ends, "0, 'a', 1"]), freq=1)
    with pytest.raises(ResourceError, match="outlying"):
        encode(cursor, table(["0::BIGINT, 'a', 1", "7, 'a', 1"]), freq=1, start=-9223372036854775808)
    with pytest.raises(InputError, match="too far apart"):
        encode(cursor, table(ends))


BAD = {
    "unknown column": (
        "SELECT 1 AS tss, 'a' AS k, 1 AS v",
        {},
        'no column "ts", which option time names',
        "did you mean: tss?",
    ),
    "unknown mode": (
        "SELECT 1 AS ts, 'a' AS site, 1 AS v",
        {"modes": ["sites"]},
        'no column "sites", which option modes',
        "did you mean: site?",
    ),
    "extra": (
        "SELECT 1 AS ts, 'a' AS k, 2 AS level, 1 AS v",
        {},
        "columns that no option names: level",
        "add them to modes",
    ),
    "text value": ("SELECT 1 AS ts, 'a' AS k, 'x' AS v", {}, "value column v is VARCHAR", "v::DOUBLE"),
    "text time": ("SELECT '2024' AS ts, 'a' AS k, 1 AS v", {}, "time column ts is VARCHAR", "ts::TIMESTAMP"),
    "time of day": ("SELECT TIME '10:00' AS ts, 'a' AS k, 1 AS v", {}, "time column ts is TIME,", "cast it"),
    "interval key": (
        "SELECT 1 AS ts, INTERVAL 1 DAY AS k, 1 AS v",
        {},
        "k is INTERVAL, which cannot be a key",
        "k::VARCHAR",
    ),
    "no rows": ("SELECT 1 AS ts, 'a' AS k, 1 AS v WHERE false", {}, "no rows", "WHERE"),
    "all NULL times": ("SELECT NULL::DATE AS ts, 'a' AS k, 1 AS v", {}, "has a NULL time or key", "joins"),
    "all NULL": (
        "SELECT i AS ts, 'a' AS k, NULL::INT AS v FROM range(9) t(i)",
        {},
        "no row has a usable value: 9 NULL",
        "computed",
    ),
    "NaN key": ("SELECT i AS ts, 'nan'::DOUBLE AS k, 1 AS v FROM range(9) t(i)", {}, "k is NaN in 9 rows", "isnan"),
    "huge": ("SELECT i AS ts, 'a' AS k, 1e39 AS v FROM range(9) t(i)", {}, "beyond what float32 holds", "nullif"),
    "huge sum": (
        "SELECT i // 2 AS ts, 'a' AS k, 3e38 AS v FROM range(9) t(i)",
        {"aggregate": "sum"},
        "beyond what float32",
        "divide",
    ),
    "one stamp": ("SELECT 1 AS ts, k, 1 AS v FROM range(9) t(k)", {}, "single time step, 1", "two"),
    "one step": (
        "SELECT i AS ts, 'a' AS k, 1 AS v FROM range(9) t(i)",
        {"freq": 1000},
        r"all readings \(0 to 8\) fall into one step",
        "shorter",
    ),
    "irregular": (
        "SELECT i * i * i * i AS ts, 'a' AS k, 1 AS v FROM range(99) t(i)",
        {},
        "stamps are irregular",
        "INTERVAL 1 HOUR",
    ),
    "zero": (
        "SELECT DATE '2024-01-01' AS ts, 'a' AS k, 1 AS v",
        {"freq": datetime.timedelta(0)},
        "must be positive",
        "INTERVAL",
    ),
    "negative": (
        "SELECT DATE '2024-01-01' AS ts, 'a' AS k, 1 AS v",
        {"freq": "-1 month"},
        "must be positive",
        "INTERVAL",
    ),
    "no interval": (
        "SELECT DATE '2024-01-01' AS ts, 'a' AS k, 1 AS v",
        {"freq": "often"},
        "'often' is not an interval",
        "INTERVAL",
    ),
    "number for dates": (
        "SELECT DATE '2024-01-01' AS ts, 'a' AS k, 1 AS v",
        {"freq": 5},
        "time is DATE, but freq = 5",
        "INTERVAL",
    ),
    "interval for numbers": (
        "SELECT 1 AS ts, 'a' AS k, 1 AS v",
        {"freq": "1 day"},
        "time is INTEGER, but freq = 1 day",
        "number",
    ),
    "zero number": ("SELECT 1 AS ts, 'a' AS k, 1 AS v", {"freq": 0}, "freq = 0 must be positive", "1 or more"),
    "mixed": (
        "SELECT DATE '2024-01-01' AS ts, 'a' AS k, 1 AS v",
        {"freq": "1 month 1 day"},
        "mixes months with days",
        "not both",
    ),
    "late start": (
        "SELECT i AS ts, 'a' AS k, 1 AS v FROM range(9) t(i)",
        {"start": 99},
        "there is no reading at or after start",
        "earlier",
    ),
    "no start": (
        "SELECT i AS ts, 'a' AS k, 1 AS v FROM range(9) t(i)",
        {"start": "x"},
        "start = x is not of type BIGINT",
        "like the values of ts",
    ),
    "aggregate": (
        "SELECT i AS ts, 'a' AS k, 1 AS v FROM range(9) t(i)",
        {"aggregate": "avg"},
        "no aggregate 'avg'",
        "mean",
    ),
    "twice": (
        "SELECT i AS ts, 'a' AS k, 1 AS v FROM range(9) t(i)",
        {"modes": ["k", "TS"]},
        'name the column "TS" twice',
        "each column once",
    ),
    "huge key": ("SELECT 1::HUGEINT AS ts, 'a' AS k, 1 AS v", {}, "time column ts is HUGEINT", "BIGINT"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(cursor: duckdb.DuckDBPyConnection, name: str) -> None:
    sql, options, message, help = BAD[name]
    with pytest.raises(UserError, match=message) as error:
        encode(cursor, sql, **options)
    assert help in (error.value.help or "")
    if isinstance(error.value, InputError):
        assert error.value.role == "series"
    else:
        assert isinstance(error.value, OptionError)
        assert error.value.key in ("time", "freq", "start", "aggregate", "modes")
    assert temporary_tables(cursor) == 0


def test_collation_and_case_of_names(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("SET default_collation = 'nocase'")
    found = encode(cursor, table(["1, 'a', 2", "1, 'A', 3", "2, 'a', 4"], '"Ts", "K", "V"'), freq=1)
    assert found.modes[0].keys.keys.to_pylist() == ["A", "a"]
    assert found.values[0].tolist() == [3, 2]
    assert (found.time_name, found.modes[0].name, found.value_name) == ("Ts", "K", "V")


@pytest.mark.parametrize(
    ("keys", "type_name"),
    [
        ("('b'::ENUM('b', 'a')), ('a')", "VARCHAR"),
        ("(DATE '2024-01-01'), (DATE '2023-01-01')", "DATE"),
        ("(1.5::DECIMAL(9, 2)), (2)", "DECIMAL(12,2)"),
        ("({'x': 1, 'y': 'a'}), ({'x': 2, 'y': 'b'})", None),
        ("([1, 2]), ([3])", "INTEGER[]"),
        ("('\\x01'::BLOB), ('\\x02'::BLOB)", "BLOB"),
        ("(uuid()), (uuid())", "UUID"),
        ("(TIMESTAMPTZ '2024-01-01 00:00:00+00'), (TIMESTAMPTZ '2025-01-01 00:00:00+00')", "TIMESTAMP WITH TIME ZONE"),
    ],
)
def test_keys_of_any_type(cursor: duckdb.DuckDBPyConnection, keys: str, type_name: str | None) -> None:
    cursor.execute(f"CREATE TABLE keyed AS SELECT i AS ts, k, i AS v FROM range(3) t(i), (VALUES {keys}) s(k)")
    found = encode(cursor, "FROM keyed")
    expected = [key for (key,) in cursor.execute("SELECT DISTINCT k FROM keyed ORDER BY k").fetchall()]
    if type_name == "VARCHAR":
        expected = sorted(expected)
    assert found.values.shape == (3, 2)
    assert not np.isnan(found.values).any()
    assert [str(k) for k in found.modes[0].keys.keys.to_pylist()] == [str(k) for k in expected] or type_name in (
        "TIMESTAMP WITH TIME ZONE",
    )
    assert type_name is None or found.modes[0].keys.type == type_name


# --- real data and size -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not on this machine")
@pytest.mark.parametrize(
    ("file", "modes", "value", "freq", "shape"),
    [
        ("climate/readings", ["site", "variable"], "value", "1 month", (156, 125, 16)),
        ("chickenpox/readings", ["place"], "value", "7 days", (521, 20)),
        ("los_loop/speed", ["sensor"], "speed", "5 minutes", (2016, 207)),
    ],
)
def test_real_data(
    cursor: duckdb.DuckDBPyConnection, file: str, modes: list[str], value: str, freq: str, shape: tuple[int, ...]
) -> None:
    sql = f"FROM '{DATA}/{file}.parquet'"
    found = encode(cursor, sql, modes=modes, value=value)
    assert found.values.shape == shape
    assert (found.report.freq, found.report.freq_inferred) == (freq, True)
    assert (found.report.duplicate_rows, found.report.moved_rows, found.report.density) == (0, 0, 1)
    at, *keys, reading = cursor.execute(f"{sql} LIMIT 1 OFFSET 5000").fetchall()[0]
    ids = [mode.keys.keys.to_pylist().index(key) for mode, key in zip(found.modes, keys, strict=True)]
    assert found.values[(found.axis.position(at), *ids)] == np.float32(reading)


MEMORY = """
import sys, duckdb, pyarrow
from graphlearn.events import silent
from graphlearn.storage.series.ingest import encode_series
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) << 10
connection = duckdb.connect(config={"threads": 2, "temp_directory": sys.argv[1], "memory_limit": "256MB"})
connection.execute("SET enable_progress_bar = false")
connection.execute("FROM range(10)").fetchall()
before = peak()
sql = '''SELECT TIMESTAMP '2024-01-01' + to_minutes(15 * (i % 35040)) AS ts, 's' || (i // 35040) AS sensor,
i::FLOAT AS value FROM range(35040 * 3000) AS t(i) WHERE i < 35040 * 200 OR i % 9 = 0'''
found = encode_series(connection, sql, time="ts", modes=["sensor"], value="value", freq="15 minutes",
                      folder=sys.argv[1], memory_limit=200 << 20, emit=silent)
print((peak() - before) / found.values.nbytes, found.values.shape)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_stays_below_twice_the_array(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratio, shape = done.stdout.split(" ", 1)
    assert shape.strip() == "(35040, 3000)"
    assert float(ratio) < 2
