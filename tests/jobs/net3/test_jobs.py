"""TYPE net3 in SQL: answers, unusual inputs and errors; its metrics are compared with SQL."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphlearn.events import Event, Note, silent
from graphlearn.jobs.functions import Call, planned
from graphlearn.jobs.registry import family
from graphlearn.session import Session, connect
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source

SMALL = "epochs = 2, window = 3, dim = 3, core_limit = 3, learnt_rank = 2, baseline_share = 0"
READINGS = """
CREATE TABLE readings AS
SELECT DATE '2024-01-01' + t::INTEGER AS ts, 's' || s AS site, 'v' || v AS variable,
       (10 * s + v + sin(t * 0.7 + s) + (t * 31 + s * 7 + v * 3) % 11 / 50)::DOUBLE AS value
FROM range(60) a(t), range(4) b(s), range(2) c(v);
CREATE TABLE gappy AS SELECT * REPLACE (CASE WHEN hash(ts, site, variable) % 10 > 1 THEN value END AS value)
FROM readings;
CREATE TABLE roads AS SELECT 's' || i AS source, 's' || (i + 1) % 4 AS target, 1.0 + i AS weight FROM range(4) t(i);
"""
WAVE = "sin(t * 0.7 + k) AS value FROM range(40) a(t), range(3) b(k)"


def model(query: str = "FROM readings", options: str = "", name: str = "m", *, graphs: str = "") -> str:
    """CREATE MODEL with small options, in addition to those given."""
    body = f"(series AS ({query}), {graphs})" if graphs else query
    given = {part.partition("=")[0].strip() for part in options.split(",")}
    rest = [part for part in SMALL.split(", ") if part.partition("=")[0].strip() not in given]
    listed = ", ".join(filter(None, [options, *rest]))
    return f"CREATE OR REPLACE MODEL {name} TYPE net3 OPTIONS ({listed}) AS {body}"


def rows(session: Session, sql: str) -> list[tuple[Any, ...]]:
    return session.sql(sql).fetchall()  # type: ignore[union-attr]


def columns(session: Session, call: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, *_ in rows(session, f"DESCRIBE FROM {call}")]


def columns_before(session: Session, statement: str, function: str) -> list[tuple[str, str]]:
    """The columns of a call on a model that does not exist yet, as in the dry run of a job file."""
    bound = session._binder.model(parse(Source("<sql>", statement))[0])  # type: ignore[arg-type]
    shape = family("net3").shape(bound.request, bound.columns)
    with session.workspace.cursor() as cursor:
        cursor.register("answer", planned(bound.request, shape, Call(function, None, {}, session.workspace.cursor)))
        return [(name, kind) for name, kind, *_ in cursor.execute("DESCRIBE FROM answer").fetchall()]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with connect(tmp_path / "w.duckdb", emit=silent) as opened:
        opened.connection.execute(READINGS)
        yield opened


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with connect(tmp_path_factory.mktemp("net3") / "w.duckdb", emit=silent) as opened:
        opened.connection.execute(READINGS)
        opened.sql(
            model(options="horizon = 2, graphs = {'variable': 'pearson'}", name="ahead", graphs="site AS (FROM roads)")
        )
        opened.sql(model("FROM gappy", "task = 'recover', hidden = 0.2", "smooth"))
        opened.sql(model("FROM gappy", "task = 'recover', recovery = 'causal', hidden = 0.2", "causal"))
        opened.sql(
            "CREATE MODEL kge TYPE distmult OPTIONS (dim = 4, epochs = 1, batch_size = 4) AS "
            "SELECT source AS head, 'r' AS relation, target AS tail FROM roads"
        )
        yield opened


# answers


def test_a_forecast_has_every_series_at_every_step(trained: Session) -> None:
    found = rows(trained, "FROM forecast('ahead', horizon := 5) ORDER BY ALL")
    assert len(found) == 5 * 8
    assert {(row[0], row[6]) for row in found} == {(datetime.date(2024, 3, k), k) for k in range(1, 6)}
    assert {row[1:3] for row in found} == {(f"s{s}", f"v{v}") for s in range(4) for v in range(2)}
    assert all(row[4] < row[3] < row[5] for row in found)
    assert len(rows(trained, "FROM forecast('ahead')")) == 2 * 8
    short = rows(trained, "FROM forecast('ahead', horizon := 1) ORDER BY ALL")
    assert [row[:4] for row in short] == [row[:4] for row in found[:8]]


def test_the_first_steps_do_not_depend_on_the_requested_horizon(trained: Session) -> None:
    far = rows(trained, "SELECT ts, site, variable, value FROM forecast('ahead', horizon := 40) WHERE step <= 2")
    near = rows(trained, "SELECT ts, site, variable, value FROM forecast('ahead')")
    assert sorted(far) == sorted(near)
    assert rows(trained, "SELECT count(*) FROM forecast('ahead', horizon := 40) WHERE value IS NULL") == [(0,)]


def test_at_is_the_start_of_a_forecast(trained: Session) -> None:
    for at in ("DATE '2024-01-20'", "'2024-01-20'", "TIMESTAMP '2024-01-20 13:00:00'"):
        found = rows(trained, f"SELECT DISTINCT ts FROM forecast('ahead', at := {at}) ORDER BY ts")
        assert found == [(datetime.date(2024, 1, 21),), (datetime.date(2024, 1, 22),)]
    end, none = ("FROM forecast('ahead', at := DATE '2024-02-29')", "FROM forecast('ahead', at := NULL)")
    assert rows(trained, end) == rows(trained, none) == rows(trained, "FROM forecast('ahead')")
    assert rows(trained, "SELECT count(value) FROM forecast('ahead', at := DATE '2024-01-01')") == [(16,)]


def test_a_forecast_does_not_use_readings_after_at(session: Session) -> None:
    options = "freq = INTERVAL 1 DAY, split = [0.5, 0.2, 0.3]"
    session.sql(model(options=options, name="a"))
    session.sql(model("SELECT * REPLACE (IF(ts > DATE '2024-02-20', -value, value) AS value) FROM readings", options))
    asked = "SELECT site, variable, value FROM forecast('{}', at := DATE '2024-02-20') ORDER BY ALL"
    assert rows(session, asked.format("a")) == rows(session, asked.format("m"))
    later = "SELECT site, variable, value FROM forecast('{}', at := DATE '2024-02-24') ORDER BY ALL"
    assert rows(session, later.format("a")) != rows(session, later.format("m"))


@pytest.mark.parametrize("call", ["forecast('ahead', horizon := 4", "recover('smooth', every := true"])
def test_a_higher_level_makes_wider_intervals(trained: Session, call: str) -> None:
    widths = [
        rows(trained, f"SELECT avg(upper - lower) FROM {call}, level := {level})")[0][0] for level in (0.5, 0.8, 0.9)
    ]
    assert 0 < widths[0] < widths[1] < widths[2]


def test_intervals_have_the_stated_coverage_on_the_validation_split(trained: Session) -> None:
    held = (
        "FROM forecast('ahead', at := DATE '2024-02-{:02}', level := 0.8) f JOIN readings r USING (ts, site, variable)"
    )
    inside = [
        rows(trained, f"SELECT count(*), count(*) FILTER (r.value BETWEEN lower AND upper) {held.format(day)}")[0]
        for day in range(17, 22)  # the validation split is February 18 to 23
    ]
    share = sum(n for _, n in inside) / sum(n for n, _ in inside)
    assert sum(n for n, _ in inside) == 80
    assert 0.75 <= share <= 0.95


def test_too_few_known_cells_give_no_interval_but_a_note(trained: Session, session: Session) -> None:
    heard: list[Event] = []
    session._emit = heard.append
    session._binder.warn = lambda text, _: heard.append(Note(message=text, level="warning"))
    session.sql(model(options="split = [0.9, 0.0, 0.1]"))
    assert rows(session, "SELECT count(value), count(lower), count(upper) FROM forecast('m')") == [(8, 0, 0)]
    assert any("no interval for 1 of 1 steps" in e.message for e in heard if isinstance(e, Note))
    assert rows(trained, "SELECT count(lower) FROM forecast('ahead', horizon := 9) WHERE step > 6") == [(0,)]


@pytest.mark.parametrize("name", ["smooth", "causal"])
def test_recover_answers_for_missing_cells_or_for_all(trained: Session, name: str) -> None:
    missing = rows(trained, "SELECT ts, site, variable FROM gappy WHERE value IS NULL ORDER BY ALL")
    found = rows(trained, f"FROM recover('{name}') ORDER BY ALL")
    assert [row[:3] for row in found] == missing
    assert all(row[4] < row[3] < row[5] and row[6] is False for row in found)
    every = rows(
        trained, f"SELECT count(*), count(value), count(*) FILTER (observed) FROM recover('{name}', every := 1=1)"
    )
    assert every == [(480, 480, 480 - len(missing))]


CALLS = {
    "ahead": ("forecast", [("lower", "FLOAT"), ("upper", "FLOAT"), ("step", "INTEGER")]),
    "smooth": ("recover", [("lower", "FLOAT"), ("upper", "FLOAT"), ("observed", "BOOLEAN")]),
}
KEYS = [("ts", "DATE"), ("site", "VARCHAR"), ("variable", "VARCHAR"), ("value", "FLOAT")]


@pytest.mark.parametrize("name", CALLS)
def test_columns(trained: Session, name: str) -> None:
    function, last = CALLS[name]
    assert columns(trained, f"{function}('{name}')") == KEYS + last
    task = f"task = '{function}'"
    assert columns_before(trained, model("FROM gappy", task, "new"), function) == KEYS + last
    assert columns_before(trained, model("FROM gappy", task, "new"), "evaluate") == columns(
        trained, f"evaluate('{name}')"
    )
    errors = ["rmse", "rmse_low", "rmse_high", "mae", "mape", "z_rmse", "z_rmse_low", "z_rmse_high", "z_mae"]
    covered = ["coverage_80", "coverage_90", "coverage_95"]
    first, last = [("method", "VARCHAR"), ("split", "VARCHAR")], [("too_few", "BOOLEAN"), ("protocol", "VARCHAR")]
    step = [("step", "INTEGER")] if function == "forecast" else []  # a recovery has no step ahead
    figures = [(figure, "DOUBLE") for figure in [*errors, *covered]]
    assert columns(trained, f"evaluate('{name}')") == [*first, *step, *figures, ("cells", "BIGINT"), *last]
    figures = [(figure, "DOUBLE") for figure in [*(e for e in errors if e[-3:] not in ("low", "igh")), *covered]]
    by_series = f"evaluate('{name}', by := 'series')"
    assert columns(trained, by_series) == [*first, *KEYS[1:3], *figures, ("cells", "BIGINT"), *last]


DAY = "DATE '2024-01-01' + t::INTEGER"
STRANGE = {
    "uuid": (f"SELECT {DAY} AS ts, ('0000000{{}}-0000-0000-0000-00000000000' || k)::UUID AS k, {WAVE}", ""),
    "date key": (f"SELECT {DAY} AS ts, DATE '2020-01-01' + k::INTEGER AS k, {WAVE}", "time = 'ts'"),
    "big integers": (f"SELECT t AS ts, k::HUGEINT * 170141183460469231731687303715884105 AS k, {WAVE}", "time = 'ts'"),
    "quotes": (f"SELECT t AS ts, 'it''s \"q\" é🌍 ' || k AS k, {WAVE}", "time = 'ts'"),
    "enum": (f"SELECT t AS ts, ('a' || k)::ENUM('a0', 'a1', 'a2') AS k, {WAVE}", "time = 'ts'"),
    "our names": (
        f'SELECT t AS step, k AS "select", 1 AS lower, 2 AS forecast_lower, 3 AS observed, {WAVE}',
        "time = 'step', value = 'value'",
    ),
    "internal names": (
        f"SELECT t AS ts, k AS id, 1 AS key, 2 AS cell, 3 AS stamp, 4 AS raw, {WAVE}",
        "time = 'ts', value = 'value'",
    ),
    "other case": (
        f"SELECT t AS Zeit, k AS Ort, {WAVE}",
        "time = 'ZEIT', modes = ['ORT'], value = 'VALUE', graphs = {'oRT': 'chain'}",
    ),
    "no modes": (f"SELECT {DAY} AS ts, sin(t) AS value FROM range(40) a(t)", ""),
    "three modes": (
        f"SELECT t AS ts, k, j, i, {WAVE}, range(2) c(j), range(2) d(i)",
        "time = 'ts', value = 'value', graphs = {'i': 'chain', 'j': 'identity', 'k': 'pearson'}",
    ),
    "finer steps": (f"SELECT {DAY} AS ts, sin(t) AS value FROM range(40) a(t)", "freq = INTERVAL 12 HOUR"),
    "nanoseconds": (
        "SELECT (TIMESTAMP '2024-01-01' + to_hours(t))::TIMESTAMP_NS AS ts, sin(t) AS value FROM range(40) a(t)",
        "horizon = 2",
    ),
    "decimals": ("SELECT t AS ts, (t % 7)::DECIMAL(38, 10) AS value FROM range(40) a(t)", "time = 'ts', horizon = 2"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_unusual_columns_are_returned_unchanged(session: Session, case: str) -> None:
    query, options = STRANGE[case]
    query = query.replace("{}", "0")
    statement = model(query, ", ".join(filter(None, [options, "epochs = 1"])))
    expected = columns_before(session, statement, "forecast")
    session.sql(statement)
    assert columns(session, "forecast('m')") == expected
    assert len({name.lower() for name, _ in expected}) == len(expected)
    there = [(name, kind) for name, kind, *_ in rows(session, f"DESCRIBE {query}")]
    keys = [name for name, kind in there if name.lower() not in ("ts", "step", "zeit", "value")]
    listed = ", ".join(f'"{key}"' for key in keys) or "1"
    wanted = rows(session, f"SELECT DISTINCT {listed} FROM ({query}) ORDER BY ALL")
    assert rows(session, f"SELECT DISTINCT {listed} FROM forecast('m') ORDER BY ALL") == wanted
    assert rows(session, "SELECT count(*) - count(value), bool_or(isnan(value)) FROM forecast('m')") == [(0, False)]


def test_uuid_keys_are_returned_as_uuid(session: Session) -> None:
    query, options = STRANGE["uuid"]
    session.sql(model(query.replace("{}", "7"), options))
    assert rows(session, "SELECT max(k) FROM forecast('m')")[0][0] == uuid.UUID("00000007-0000-0000-0000-000000000002")


TIMES = {
    "month end": (
        "(DATE '2020-01-31' + to_months(t::INTEGER))::DATE",
        "freq = INTERVAL 1 MONTH",
        ["2023-05-31", "2023-06-30", "2023-07-31", "2023-08-31"],
    ),
    "hours over spring": (
        "TIMESTAMPTZ '2024-03-29 10:00:00+01' + to_hours(t)",
        "",
        [f"2024-03-31 0{hour}:00:00+02" for hour in (3, 4, 5, 6)],
    ),
    "days over spring": (
        "(TIMESTAMP '2024-02-19 06:30:00' + to_days(t::INTEGER))::TIMESTAMPTZ",
        "",
        ["2024-03-30 06:30:00+01", "2024-03-31 06:30:00+02", "2024-04-01 06:30:00+02", "2024-04-02 06:30:00+02"],
    ),
    "hours over autumn": (
        "TIMESTAMPTZ '2024-10-25 10:00:00+02' + to_hours(t)",
        "",
        ["2024-10-27 02:00:00+02", "2024-10-27 02:00:00+01", "2024-10-27 03:00:00+01", "2024-10-27 04:00:00+01"],
    ),
    "integers": ("1000 - 7 + t::SMALLINT * 7", "time = 'ts'", ["1273", "1280", "1287", "1294"]),
    "dates": ("DATE '2024-01-20' + t::INTEGER", "", ["2024-02-29", "2024-03-01", "2024-03-02", "2024-03-03"]),
}


@pytest.mark.parametrize("case", TIMES)
def test_forecasts_continue_the_calendar_of_the_stamps(session: Session, case: str) -> None:
    stamp, options, expected = TIMES[case]
    session.connection.execute("SET TimeZone = 'Europe/Berlin'")
    session.sql(
        model(f"SELECT {stamp} AS ts, sin(t) AS value FROM range(40) a(t)", f"{options}, horizon = 4".strip(", "))
    )
    assert [stamp for (stamp,) in rows(session, "SELECT ts::VARCHAR FROM forecast('m') ORDER BY step")] == expected


# metrics


@pytest.mark.parametrize("split", ["test", "valid"])
def test_evaluate_equals_errors_computed_in_sql(trained: Session, split: str) -> None:
    """The test split is February 24 to 29, validation February 18 to 23. Both targets of a window are in the split."""
    first, last = (24, 28) if split == "test" else (18, 22)
    union = " UNION ALL ".join(
        f"FROM forecast('ahead', at := DATE '2024-02-{day - 1:02}')" for day in range(first, last + 1)
    )
    figures = (
        "count(*), sqrt(avg((f.value - r.value) ** 2)), avg(abs(f.value - r.value)), "
        "100 * avg(abs(f.value - r.value) / abs(r.value)) FILTER (r.value <> 0)"
    )
    joined = f"FROM ({union}) f JOIN readings r USING (ts, site, variable)"
    by_sql = rows(trained, f"SELECT step, {figures} {joined} GROUP BY step ORDER BY step")
    by_sql += rows(trained, f"SELECT NULL, {figures} {joined}")
    stored = rows(
        trained,
        f"SELECT step, cells, rmse, mae, mape FROM evaluate('ahead') WHERE method = 'net3' AND split = '{split}' "
        "ORDER BY step NULLS LAST",
    )
    assert [row[:2] for row in stored] == [row[:2] for row in by_sql]
    assert len(stored) == 3
    np.testing.assert_allclose([row[2:] for row in stored], [row[2:] for row in by_sql], rtol=1e-4)


def test_the_last_value_baseline_equals_that_computed_in_sql(trained: Session) -> None:
    lagged = "SELECT ts, value - lag(value, {}) OVER (PARTITION BY site, variable ORDER BY ts) AS miss FROM readings"
    within = "WHERE ts BETWEEN DATE '2024-02-{}' AND DATE '2024-02-{}'"
    for step, (first, last) in enumerate([(24, 28), (25, 29)], 1):
        query = f"SELECT sqrt(avg(miss ** 2)), avg(abs(miss)) FROM ({lagged.format(step)}) {within.format(first, last)}"
        stored = "SELECT rmse, mae FROM evaluate('ahead') WHERE method = 'last value' AND split = 'test' AND step = {}"
        np.testing.assert_allclose(rows(trained, stored.format(step)), rows(trained, query), rtol=1e-5)


@pytest.mark.parametrize("name", ["smooth", "causal"])
def test_recovery_is_measured_on_held_out_cells(trained: Session, name: str) -> None:
    """The held-out cells are recomputed here; on them, the stored answers have the stored error."""
    from graphlearn.models.net3.training.recover import hold_out

    table = rows(trained, f"SELECT value FROM recover('{name}', every := true) ORDER BY ts, site, variable")
    actual = np.array(rows(trained, "SELECT value FROM gappy ORDER BY ts, site, variable"), np.float32).ravel()
    answers = np.array(table).ravel()
    _, targets = hold_out(actual.reshape(60, 4, 2), 0.2, 0)
    for split in ("valid", "test"):
        held = targets[split].ravel()  # type: ignore[index]
        miss = answers[held] - actual[held]
        stored = rows(
            trained,
            f"SELECT cells, rmse, mae FROM evaluate('{name}') WHERE method = 'net3' AND split = '{split}'",
        )
        assert stored[0][0] == held.sum() > 20
        np.testing.assert_allclose(stored[0][1:], [np.sqrt((miss**2).mean()), np.abs(miss).mean()], rtol=1e-3)


def test_every_baseline_has_its_rows(trained: Session) -> None:
    listed = "SELECT DISTINCT method FROM evaluate('{}') ORDER BY ALL"
    ahead = {method for (method,) in rows(trained, listed.format("ahead"))}
    assert ahead == {"net3", "last value", "linear AR", "seasonal AR", "seasonal naive (7 steps)", "VAR"}
    for name in ("smooth", "causal"):
        found = {method for (method,) in rows(trained, listed.format(name))}
        simple = {"last value", "linear AR", "seasonal naive (7 steps)", "seasonal means", "linear interpolation"}
        assert found == {"net3", "iterative SVD", *simple}
    assert rows(trained, "SELECT count(*) FROM evaluate('ahead') WHERE rmse IS NULL OR cells = 0") == [(0,)]


def test_a_tie_is_not_a_loss(session: Session) -> None:
    heard: list[Event] = []
    session._emit = heard.append
    session.sql(model("SELECT * REPLACE (5.0 AS value) FROM readings"))
    sentences = [e.message for e in heard if isinstance(e, Note) and "baseline" in e.message]
    assert len(sentences) == 1
    assert "net3 and the best baseline, last value, cannot be compared on" in sentences[0]
    assert rows(session, "SELECT DISTINCT value, lower, upper FROM forecast('m', horizon := 3)") == [(5.0, 5.0, 5.0)]


def test_at_is_read_in_the_time_zone_of_the_series(session: Session) -> None:
    session.connection.execute("SET TimeZone = 'Europe/Berlin'")
    stamps = "(TIMESTAMP '2024-02-01' + to_days(t::INTEGER))::TIMESTAMPTZ"
    session.sql(model(f"SELECT {stamps} AS ts, sin(t) AS value FROM range(60) a(t)"))
    for at in ("'2024-03-10 23:30:00'", "TIMESTAMP '2024-03-10 00:30:00'", "TIMESTAMPTZ '2024-03-10 00:30:00+01'"):
        found = rows(session, f"SELECT ts::VARCHAR FROM forecast('m', at := {at})")
        assert found == [("2024-03-11 00:00:00+01",)], at
