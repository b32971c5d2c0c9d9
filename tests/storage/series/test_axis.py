"""The time axis: calendars, time zones, inferred steps, stamps beyond the end, and phases."""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphlearn.errors import InputError, OptionError
from graphlearn.events import silent
from graphlearn.storage.series.axis import Freq, TimeAxis
from graphlearn.storage.series.ingest import SeriesTensor, encode_series

BERLIN = "Europe/Berlin"


@pytest.fixture
def cursor() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"threads": 1})
    connection.execute(f"SET TimeZone = '{BERLIN}'")
    yield connection
    connection.close()


def encode(cursor: duckdb.DuckDBPyConnection, stamps: list[Any], type_name: str, **options: Any) -> SeriesTensor:
    """A single series whose value is the number of the stamp."""
    cursor.execute(f"CREATE OR REPLACE TABLE given (ts {type_name}, v DOUBLE)")
    cursor.executemany("INSERT INTO given VALUES ($1, $2)", [[str(stamp), i] for i, stamp in enumerate(stamps)])
    return encode_series(cursor, "FROM given", time="ts", modes=[], value="v", emit=silent, **options)


def text(axis: TimeAxis, first: int = 0, count: int | None = None) -> list[str]:
    return [str(stamp) for stamp in axis.stamps(first, count).to_pylist()]


# --- months -------------------------------------------------------------------------------------------------------


def test_a_series_on_month_ends_stays_on_month_ends(cursor: duckdb.DuckDBPyConnection) -> None:
    ends = ["2023-11-30", "2023-12-31", "2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]
    found = encode(cursor, ends, "DATE")
    assert found.values[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (found.axis.freq_text, found.axis.day, found.report.moved_rows) == ("1 month", 31, 0)
    assert text(found.axis) == ends
    assert text(found.axis, 6, 3) == ["2024-05-31", "2024-06-30", "2024-07-31"]
    assert text(found.axis, 15, 1) == ["2025-02-28"]
    assert pa.types.is_date32(found.axis.stamps().type)


def test_months_from_the_thirtieth(cursor: duckdb.DuckDBPyConnection) -> None:
    days = ["2024-01-30 10:00:00", "2024-02-29 10:00:00", "2024-03-30 10:00:00", "2024-04-30 10:00:00"]
    found = encode(cursor, days, "TIMESTAMP", freq="1 month")
    assert (found.axis.day, found.report.moved_rows, text(found.axis)) == (30, 0, days)
    assert found.axis.position("2024-02-29 09:59:59") == 0
    assert found.axis.position("2024-02-29 10:00:00") == 1
    assert found.axis.position(datetime.datetime(2025, 1, 30, 10)) == 12


def test_readings_of_a_month_move_to_its_first_day(cursor: duckdb.DuckDBPyConnection) -> None:
    days = ["2024-01-03", "2024-01-17", "2024-02-11", "2024-03-05", "2024-03-31"]
    found = encode(cursor, days, "DATE", freq="1 month", aggregate="sum")
    assert text(found.axis) == ["2024-01-01", "2024-02-01", "2024-03-01"]
    assert found.values[:, 0].tolist() == [1, 2, 7]
    assert (found.report.moved_rows, found.report.duplicate_rows) == (5, 2)


def test_quarters_and_years(cursor: duckdb.DuckDBPyConnection) -> None:
    quarters = encode(cursor, ["2023-02-15", "2023-05-15", "2023-08-15", "2024-02-15"], "DATE")
    assert (quarters.axis.freq_text, len(quarters.axis)) == ("3 months", 5)
    assert text(quarters.axis)[3:] == ["2023-11-15", "2024-02-15"]
    years = encode(cursor, ["2020-02-29", "2021-02-28", "2022-02-28", "2024-02-29"], "DATE")
    assert (years.axis.freq_text, years.axis.phases()) == ("1 year", {})
    assert text(years.axis) == ["2020-02-29", "2021-02-28", "2022-02-28", "2023-02-28", "2024-02-29"]
    assert quarters.axis.phases()["month_of_year"].values.tolist() == [1, 4, 7, 10, 1]


def test_thirty_days_that_were_a_month(cursor: duckdb.DuckDBPyConnection) -> None:
    months = ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]
    thirty = cursor.execute("SELECT INTERVAL 1 MONTH").fetchall()[0][0]
    with pytest.raises(OptionError, match="freq is 30 days, but the stamps are 1 month apart") as error:
        encode(cursor, months, "DATE", freq=thirty)
    assert error.value.help is not None
    assert "freq = '1 month'" in error.value.help
    apart = [datetime.date(2024, 1, 1) + datetime.timedelta(30 * i) for i in range(5)]
    assert encode(cursor, apart, "DATE", freq=thirty).axis.freq_text == "30 days"
    exact = cursor.sql("SELECT INTERVAL 1 MONTH AS freq").to_arrow_table().column("freq")[0].as_py()
    assert encode(cursor, months, "DATE", freq=exact).axis.freq_text == "1 month"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.datetimes(datetime.datetime(1960, 1, 1), datetime.datetime(1975, 1, 1)), min_size=2, max_size=12),
    st.integers(1, 14),
    st.datetimes(datetime.datetime(1959, 1, 1), datetime.datetime(1959, 12, 31)),
)
def test_month_steps_are_what_a_calendar_says(
    cursor: duckdb.DuckDBPyConnection, stamps: list[datetime.datetime], months: int, start: datetime.datetime
) -> None:
    def begin(k: int) -> datetime.datetime:
        year, month = divmod(start.year * 12 + start.month - 1 + k * months, 12)
        return start.replace(year=year, month=month + 1, day=min(start.day, calendar.monthrange(year, month + 1)[1]))

    stamps = [*stamps, datetime.datetime(1976, 1, 1)]
    found = encode(cursor, stamps, "TIMESTAMP", freq=f"{months} months", start=start, aggregate="count")
    assert found.axis.stamps().to_pylist() == [begin(k) for k in range(len(found.axis))]
    counts = [sum(begin(k) <= stamp < begin(k + 1) for stamp in stamps) for k in range(len(found.axis))]
    assert np.nan_to_num(found.values[:, 0]).tolist() == counts
    assert found.report.moved_rows == sum(stamp not in {begin(k) for k in range(300)} for stamp in stamps)


# --- time zones ---------------------------------------------------------------------------------------------------


def test_hours_across_a_clock_change_are_absolute(cursor: duckdb.DuckDBPyConnection) -> None:
    first = datetime.datetime(2024, 10, 26, 22, tzinfo=datetime.UTC)
    hours = [first + datetime.timedelta(hours=i) for i in range(6)]
    found = encode(cursor, hours, "TIMESTAMPTZ")
    assert (found.axis.freq_text, found.report.gap_cells, found.report.duplicate_rows) == ("1 hour", 0, 0)
    assert found.values[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert text(found.axis)[2:5] == [
        "2024-10-27 02:00:00+02:00",
        "2024-10-27 02:00:00+01:00",
        "2024-10-27 03:00:00+01:00",
    ]
    assert found.axis.phases()["time_of_day"].values.tolist() == [0, 1, 2, 2, 3, 4]
    assert found.axis.stamps().type == pa.timestamp("us", tz=BERLIN)


@pytest.mark.parametrize("freq", [None, "1 day", datetime.timedelta(days=1), "24 hours"])
def test_days_across_a_clock_change_follow_the_calendar(cursor: duckdb.DuckDBPyConnection, freq: Any) -> None:
    days = [datetime.datetime(2024, 3, 29 + i, tzinfo=ZoneInfo(BERLIN)) for i in range(3)]
    days.append(datetime.datetime(2024, 4, 1, tzinfo=ZoneInfo(BERLIN)))
    found = encode(cursor, days, "TIMESTAMPTZ", freq=freq)
    assert found.axis.freq_text == "1 day"
    assert found.values[:, 0].tolist() == [0, 1, 2, 3]
    assert text(found.axis, 1, 4) == [
        "2024-03-30 00:00:00+01:00",
        "2024-03-31 00:00:00+01:00",
        "2024-04-01 00:00:00+02:00",
        "2024-04-02 00:00:00+02:00",
    ]
    assert found.axis.phases()["day_of_week"].values.tolist() == [4, 5, 6, 0]
    assert found.report.moved_rows == 0
    assert found.axis.position("2024-04-01 23:59:00+02") == 3


def test_a_day_belongs_to_the_zone_of_the_session(cursor: duckdb.DuckDBPyConnection) -> None:
    stamps = ["2024-01-01 23:30:00+00", "2024-01-02 22:30:00+00", "2024-01-02 23:30:00+00"]
    berlin = encode(cursor, stamps, "TIMESTAMPTZ", freq="1 day", start="2024-01-01", aggregate="count")
    assert [str(v) for v in berlin.values[:, 0]] == ["nan", "2.0", "1.0"]
    cursor.execute("SET TimeZone = 'UTC'")
    utc = encode(cursor, stamps, "TIMESTAMPTZ", freq="1 day", start="2024-01-01", aggregate="count")
    assert utc.values[:, 0].tolist() == [1, 2]
    assert (berlin.axis.zone, utc.axis.zone) == (BERLIN, "UTC")
    assert berlin.fingerprint == utc.fingerprint


def test_months_in_a_zone_and_a_day_without_midnight(cursor: duckdb.DuckDBPyConnection) -> None:
    months = [datetime.datetime(2024, m, 1, tzinfo=ZoneInfo(BERLIN)) for m in (2, 3, 4, 5)]
    found = encode(cursor, months, "TIMESTAMPTZ")
    assert (found.axis.freq_text, text(found.axis, 2, 1)) == ("1 month", ["2024-04-01 00:00:00+02:00"])
    cursor.execute("SET TimeZone = 'America/Sao_Paulo'")
    days = ["2018-11-02 12:00:00-03", "2018-11-03 12:00:00-03", "2018-11-04 12:00:00-02", "2018-11-05 15:00:00-02"]
    found = encode(cursor, days, "TIMESTAMPTZ", freq="1 day", start="2018-11-02 00:00:00-03")
    assert text(found.axis)[2] == "2018-11-04 01:00:00-02:00"
    assert found.values[:, 0].tolist() == [0, 1, 2, 3]


def test_a_zone_without_rules(cursor: duckdb.DuckDBPyConnection) -> None:
    cursor.execute("SET TimeZone = 'PST'")
    with pytest.raises(OptionError, match="time zone PST has no known rules"):
        encode(cursor, ["2024-01-01", "2024-01-02"], "TIMESTAMPTZ")


# --- types --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_name", "arrow"),
    [
        ("DATE", pa.timestamp("us")),  # hours are not dates
        ("TIMESTAMP", pa.timestamp("us")),
        ("TIMESTAMP_S", pa.timestamp("s")),
        ("TIMESTAMP_MS", pa.timestamp("ms")),
        ("TIMESTAMP_NS", pa.timestamp("ns")),
        ("TIMESTAMPTZ", pa.timestamp("us", tz=BERLIN)),
    ],
)
def test_every_temporal_type(cursor: duckdb.DuckDBPyConnection, type_name: str, arrow: pa.DataType) -> None:
    days = [f"1969-12-{day}" for day in (29, 30, 31)]
    found = encode(cursor, days, type_name, freq="12 hours")
    assert [str(v) for v in found.values[:, 0]] == ["0.0", "nan", "1.0", "nan", "2.0"]
    assert found.axis.stamps().type == arrow
    assert [str(s)[:13] for s in found.axis.stamps(-1, 3).to_pylist()] == [
        "1969-12-28 12",
        "1969-12-29 00",
        "1969-12-29 12",
    ]
    again = TimeAxis.from_json(found.axis.to_json())
    assert again == found.axis
    assert encode(cursor, days, type_name).axis.freq_text == "1 day"


@pytest.mark.parametrize("type_name", ["TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"])
def test_integer_times(cursor: duckdb.DuckDBPyConnection, type_name: str) -> None:
    found = encode(cursor, [3, 13, 23, 53], type_name)
    assert (found.axis.freq_text, text(found.axis)) == ("10", ["3", "13", "23", "33", "43", "53"])
    assert found.axis.phases() == {}
    assert found.axis.stamps().type == {"TINYINT": pa.int8(), "UINTEGER": pa.uint32()}.get(
        type_name, found.axis.stamps().type
    )
    assert found.axis.position(34) == 3
    if type_name == "TINYINT":
        with pytest.raises(OptionError, match="beyond what TINYINT can hold"):
            found.axis.stamps(6, 10)


def test_steps_finer_than_the_type(cursor: duckdb.DuckDBPyConnection) -> None:
    found = encode(cursor, ["2024-01-01 00:00:00", "2024-01-01 00:00:02"], "TIMESTAMP_S", freq="500 milliseconds")
    assert (len(found.axis), found.axis.type, found.axis.freq_text) == (5, "TIMESTAMP", "500 milliseconds")


# --- where the axis lies ------------------------------------------------------------------------------------------


def test_the_majority_of_stamps_determines_the_start_of_steps(cursor: duckdb.DuckDBPyConnection) -> None:
    day = "2024-01-01"
    at_three = encode(cursor, [f"{day} 00:02:50", *(f"{day} 0{h}:03:00" for h in range(5))], "TIMESTAMP", freq="1 hour")
    assert text(at_three.axis)[0] == "2023-12-31 23:03:00"
    assert at_three.report.moved_rows == 1
    scattered = encode(cursor, [f"{day} 0{h}:{7 * h:02}:{3 * h:02}" for h in range(6)], "TIMESTAMP", freq="1 hour")
    assert (text(scattered.axis)[0], scattered.report.moved_rows) == (f"{day} 00:00:00", 5)
    weeks = [f"2024-01-{day:02}" for day in (3, 11, 19, 27)]
    assert text(encode(cursor, weeks, "DATE", freq="1 week").axis)[0] == "2024-01-01"  # a Monday


def test_inferred_steps(cursor: duckdb.DuckDBPyConnection) -> None:
    base = datetime.datetime(2024, 1, 1)
    trading = [base + datetime.timedelta(days=d, minutes=m) for d in range(3) for m in range(570, 960, 5)]
    found = encode(cursor, trading, "TIMESTAMP")
    assert (found.axis.freq_text, found.report.freq_inferred) == ("5 minutes", True)
    workdays = [base + datetime.timedelta(days=d) for d in range(60) if d % 7 < 5]
    assert encode(cursor, workdays, "DATE").axis.freq_text == "1 day"
    assert encode(cursor, [base, base + datetime.timedelta(days=28)], "DATE").axis.freq_text == "28 days"
    late = [base + datetime.timedelta(minutes=m * m) for m in range(60)]
    with pytest.raises(InputError, match="irregular: their most common distance is"):
        encode(cursor, late, "TIMESTAMP")


def test_a_start_before_the_first_reading(cursor: duckdb.DuckDBPyConnection) -> None:
    found = encode(cursor, ["2024-01-03", "2024-01-04"], "DATE", freq="1 day", start=datetime.date(2024, 1, 1))
    assert [str(v) for v in found.values[:, 0]] == ["nan", "nan", "0.0", "1.0"]
    assert (found.report.late_series, found.report.empty_steps) == (1, 2)
    with pytest.raises(OptionError, match="is before the first step, 2024-01-01"):
        found.axis.position("2023-12-31")
    with pytest.raises(OptionError, match="soon is not of type DATE"):
        found.axis.position("soon")


def test_phases_where_they_are_meaningful() -> None:
    minute = 60_000_000

    def phases(ticks: int) -> dict[str, int]:
        axis = TimeAxis(type="TIMESTAMP", freq=Freq(ticks=ticks), start=0, steps=3)
        return {name: phase.period for name, phase in axis.phases().items()}

    assert phases(5 * minute) == {"time_of_day": 288, "day_of_week": 7, "month_of_year": 12}
    assert phases(1440 * minute) == {"day_of_week": 7, "month_of_year": 12}
    assert phases(7 * 1440 * minute) == {"month_of_year": 12}
    assert phases(1000 * minute)["time_of_day"] == 2
    monday = TimeAxis(type="TIMESTAMP", freq=Freq(ticks=1440 * minute), start=4 * 1440 * minute, steps=8)
    assert monday.phases(-1, 3)["day_of_week"].values.tolist() == [6, 0, 1]
    assert monday.phases()["month_of_year"].values.tolist() == [0] * 8
