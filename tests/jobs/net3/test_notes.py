"""Notes and refusals that spare a user of TYPE net3 a wrong forecast."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graphlearn.errors import OptionError, UserError
from graphlearn.events import Event, Note
from graphlearn.jobs.net3.options import Net3JobOptions
from graphlearn.jobs.net3.tasks import advice, check_length
from graphlearn.session import Session, connect
from graphlearn.storage.series.axis import Freq, TimeAxis

SMALL = "epochs = 1, dim = 2, core_limit = 2, learnt_rank = 1, threads = 1"
READINGS = """
SELECT TIMESTAMP '2024-01-01' + to_hours(t) AS ts, s AS sensor, 10 * s + sin(t * 0.3 + s) AS value
FROM range(240) a(t), range(3) b(s)
"""


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def session(tmp_path: Path, heard: list[Event]) -> Iterator[Session]:
    with connect(tmp_path / "w.duckdb", emit=heard.append) as opened:
        yield opened


def train(session: Session, query: str = READINGS, options: str = "window = 6", name: str = "m") -> None:
    session.sql(f"CREATE OR REPLACE MODEL {name} TYPE net3 OPTIONS ({options}, {SMALL}) AS {query}")


def warnings(heard: list[Event]) -> str:
    return "\n".join(event.message for event in heard if isinstance(event, Note) and event.level == "warning")


@pytest.mark.parametrize(("horizon", "test"), [(25, 24), (60, 24)])
def test_a_horizon_beyond_the_test_split_is_refused(session: Session, horizon: int, test: int) -> None:
    with pytest.raises(
        OptionError, match=f"horizon = {horizon} is longer than the test split, which has {test} of 240"
    ) as caught:
        train(session, options=f"window = 6, horizon = {horizon}")
    assert f"use horizon = {test} or less, or enlarge the test split, e.g. split = [" in str(caught.value.help)
    assert session.sql("FROM runs").fetchall() == [], "nothing was started"  # type: ignore[union-attr]
    split = re.findall(r"split = \[(.*)\]", str(caught.value.help))[0]
    for given in (tuple(float(share) for share in split.split(",")), (0.8, 0.2, 0.0)):  # the latter wants no test
        check_length(240, Net3JobOptions(window=6, horizon=horizon, split=given))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("IF(t % 50 = 3, -9999, 10 * s + sin(t))", "-9999 (15 times)"),
        ("IF(t % 100 = 3, 999, 10 * s + sin(t))", "999 (9 times)"),
        ("IF(t IN (5, 9) AND s = 1, -77777, 10 * s + sin(t))", "-77777 (2 times)"),
        ("IF(t = 7 AND s = 2, 1e30, 10 * s + sin(t))", "1e+30 (1 time)"),
        ("CASE WHEN t = 7 THEN -9999 WHEN t = 9 THEN -999 ELSE sin(t) END", "-9999 (3 times), -999 (3 times)"),
    ],
)
def test_sentinels_raise_a_note(session: Session, heard: list[Event], value: str, told: str) -> None:
    query = READINGS.replace("10 * s + sin(t * 0.3 + s)", value)
    train(session, query)
    assert f"values far from all others of their series: {told}" in warnings(heard)
    assert f"nullif(value, {told.split(' ', maxsplit=1)[0]})" in warnings(heard)


@pytest.mark.parametrize(
    "value",
    [
        "10 * s + sin(t * 0.3 + s)",
        "IF(hash(t, s) % 20 = 0, 40, 0)",
        "7 * s",
        "exp(3 * sin(t * t))",
        "(hash(t, s) % 2) * 999",
    ],
)
def test_ordinary_series_raise_none(session: Session, heard: list[Event], value: str) -> None:
    train(session, READINGS.replace("10 * s + sin(t * 0.3 + s)", value))
    assert "values far from all others" not in warnings(heard)


def test_a_series_that_ended_before_the_others(session: Session, heard: list[Event]) -> None:
    train(session, f"FROM ({READINGS}) WHERE sensor <> 1 OR ts < TIMESTAMP '2024-01-08'")
    assert "1 series with a last reading long before the end" in warnings(heard)
    said: list[str] = []
    session._binder.warn = lambda text, _: said.append(text)
    session.sql("FROM forecast('m')").fetchall()  # type: ignore[union-attr]
    assert any(
        "1 of 3 series have no reading in the window of 6 steps up to 2024-01-10 23:00:00" in text for text in said
    )


def test_an_at_with_half_a_window(session: Session) -> None:
    train(session, f"FROM ({READINGS}) WHERE sensor <> 1 OR hour(ts) % 4 = 0")
    said: list[str] = []
    session._binder.warn = lambda text, _: said.append(text)
    for at, told in (
        ("2024-01-01 02:00:00", "only 3 of the 6 steps of the window up to 2024-01-01 02:00:00 are in the series"),
        ("2024-01-05 03:00:00", "1 of 3 series have readings in less than half of the window of 6 steps"),
    ):
        session.sql(f"FROM forecast('m', at := TIMESTAMP '{at}')").fetchall()  # type: ignore[union-attr]
        assert any(told in text for text in said), said
        said.clear()
    train(session)
    session.sql("FROM forecast('m')").fetchall()  # type: ignore[union-attr]
    assert said == []


def test_a_freq_that_is_finer_than_the_data(session: Session, heard: list[Event]) -> None:
    train(session, options="window = 3, freq = INTERVAL 10 MINUTE")
    assert "freq = 10 minutes is much finer than the data, in which the most common distance is 1 hour" in warnings(
        heard
    )
    assert "look for outlying time stamps" not in warnings(heard)
    heard.clear()
    train(session, options="window = 3, freq = INTERVAL 1 HOUR")
    assert "much finer than the data" not in warnings(heard)


@pytest.mark.parametrize(
    ("ticks", "steps", "window", "told"),
    [
        (3_600_000_000, 5000, 5, "window = 168, which is a whole season"),
        (3_600_000_000, 500, 5, "window = 24, which is a whole season"),
        (86_400_000_000, 500, 5, "window = 7, which is a whole season"),
        (86_400_000_000, 500, 7, "another window"),
        (300_000_000, 5000, 5, "another window"),  # a day is 288 steps
    ],
)
def test_advice_uses_the_season(ticks: int, steps: int, window: int, told: str) -> None:
    axis = TimeAxis(type="TIMESTAMP", freq=Freq(ticks=ticks), start=0, steps=steps)
    assert told in advice(axis, Net3JobOptions(window=window))


def test_baselines_left_out_are_noted(session: Session, heard: list[Event]) -> None:
    train(session, "SELECT t AS ts, sin(t * 0.3) AS value FROM range(200) a(t)", "window = 6, time = 'ts'")
    said = [event.message for event in heard if isinstance(event, Note)]
    assert any("left out of the comparison: seasonal naive (no cycle of the calendar" in text for text in said), said


def test_var_that_is_the_seasonal_ar_is_left_out(
    session: Session, heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphlearn.models.net3.baselines import var

    monkeypatch.setattr(var, "RIDGES", (np.inf,))  # no coefficient differs from 0
    train(session, options="window = 6, baseline_share = 0")
    said = [event.message for event in heard if isinstance(event, Note)]
    assert any("VAR (it is the same as the seasonal AR here)" in text for text in said), said
    methods = session.sql("SELECT DISTINCT method FROM evaluate('m')").fetchall()  # type: ignore[union-attr]
    assert ("VAR",) not in methods
    assert ("seasonal AR",) in methods


def test_a_start_between_the_stamps_is_named(session: Session) -> None:
    with pytest.raises(OptionError, match="start lies between the stamps, which are 1 hour apart") as caught:
        train(session, options="window = 6, start = '2024-01-02 00:20:00'")
    assert "the next stamp, start = '2024-01-02 01:00:00'" in str(caught.value.help)


def test_an_unknown_function_with_a_key(session: Session) -> None:
    train(session)
    with pytest.raises(UserError, match=r"a net3 model has no explain\(\)") as caught:
        session.sql("FROM explain('m', 3)")
    assert caught.value.help == "it has forecast(), evaluate()"  # recover() needs another task
