"""The time axis of a series: step k stands for start + k * freq, in ticks of the user's own time type.

Ticks are microseconds since 1970 (nanoseconds for TIMESTAMP_NS, the number itself for integer times). For TIMESTAMP
WITH TIME ZONE, steps shorter than a day are counted in absolute time; days and months are days and months of the
calendar in the session's time zone, and their ticks are those of the local clock. Months count from January 1970; a
month axis that is anchored at day 31 has its steps on the last day of shorter months.
"""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from graphlearn.errors import OptionError
from graphlearn.storage.scratch import ask, scratch
from graphlearn.types import Json

Ticks: TypeAlias = npt.NDArray[np.int64]

DAY = 86_400_000_000
"""Microseconds of a day."""
WITH_ZONE = "TIMESTAMP WITH TIME ZONE"
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER")

_ARROW = {
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMP_S": pa.timestamp("s"),
    "TIMESTAMP_MS": pa.timestamp("ms"),
    "TIMESTAMP_NS": pa.timestamp("ns"),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
}
_TICKS_PER_UNIT = {"DATE": DAY, "TIMESTAMP_S": 1_000_000, "TIMESTAMP_MS": 1_000}
_ZONE = re.compile(r"[A-Za-z0-9_+:/-]{1,64}")
_MONDAY = 4  # 1970-01-05, in days


def tick_sql(column: str, type_name: str, *, local: bool = False) -> str:
    """SQL for the tick of a time column (an expression); NULL for NULL and infinite times."""
    if type_name in INTEGERS:
        return f"({column})::BIGINT"
    read = "epoch_ns" if type_name == "TIMESTAMP_NS" else "epoch_us"
    stamp = f"({column})::TIMESTAMP" if local else column
    return f"(CASE WHEN isfinite({column}) THEN {read}({stamp}) END)"


@dataclass(frozen=True, kw_only=True)
class Freq:
    """The length of a step: calendar months, or ticks (see the module)."""

    months: int = 0
    ticks: int = 0

    def text(self, type_name: str) -> str:
        """The step as text, valid in DuckDB if it is an interval: "1 month", "5 minutes", "10" (integer time)."""
        if self.months:
            years, months = divmod(self.months, 12)
            return _plural(self.months, "month") if months else _plural(years, "year")
        if type_name in INTEGERS:
            return str(self.ticks)
        left = self.ticks // 1000 if type_name == "TIMESTAMP_NS" else self.ticks
        units = (("day", DAY), ("hour", DAY // 24), ("minute", 60_000_000), ("second", 1_000_000))
        for name, size in (*units, ("millisecond", 1000), ("microsecond", 1)):
            if left % size == 0:
                return _plural(left // size, name)
        raise AssertionError(left)


@dataclass(frozen=True)
class Phase:
    """The position of every step in a cycle. shape: values: [count], in 0 .. period - 1"""

    name: str
    period: int
    values: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """`steps` equal steps from `start`; steps before and after them are also defined.

    `type`: the DuckDB type of the stamps. `start`: a tick or, for months, the months since January 1970; `day` (1 to
    31) and `time` (ticks since midnight) are then the position of a step in its month. `local`: ticks are of the local
    clock of `zone`.
    """

    type: str
    freq: Freq
    start: int
    steps: int
    day: int = 1
    time: int = 0
    zone: str | None = None
    local: bool = False

    def __len__(self) -> int:
        return self.steps

    @property
    def freq_text(self) -> str:
        """The length of a step as text: "1 month", "5 minutes"."""
        return self.freq.text(self.type)

    @property
    def per_day(self) -> int:
        """Ticks per day."""
        return DAY * (1000 if self.type == "TIMESTAMP_NS" else 1)

    def ticks(self, first: int = 0, count: int | None = None) -> Ticks:
        """The ticks at which steps begin. shape: [count]"""
        positions = np.arange(first, first + (self.steps if count is None else count), dtype=np.int64)
        if not self.freq.months:
            return self.start + positions * self.freq.ticks
        months = (self.start + positions * self.freq.months).astype("datetime64[M]")
        days = np.minimum(self.day, days_of_month(months)) - 1
        found: Ticks = (months.astype("datetime64[D]").astype(np.int64) + days) * self.per_day + self.time
        return found

    def stamps(self, first: int = 0, count: int | None = None) -> pa.Array:
        """The stamps of steps first, first + 1, … in the user's type; `first + count` may be past the end.

        A day without a midnight, because of a clock change, starts at the first moment after the gap.
        shape: [count]. Raises OptionError for a step beyond the range of the type.
        """
        ticks = self.ticks(first, count)
        try:
            if self.type == WITH_ZONE:
                naive = pa.array(ticks, pa.timestamp("us"))
                if self.local:
                    return pc.assume_timezone(naive, self.zone, ambiguous="earliest", nonexistent="latest")
                return naive.cast(pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us", tz=self.zone))
            unit = _TICKS_PER_UNIT.get(self.type, 1)
            wide = pa.array(ticks // unit, pa.int64())
            return (wide.cast(pa.int32()) if self.type == "DATE" else wide).cast(_ARROW[self.type])
        except pa.ArrowInvalid as error:
            raise OptionError(
                f"a step as far as {first + len(ticks) - 1:,} is beyond what {self.type} can hold", key="horizon"
            ) from error

    def phases(self, first: int = 0, count: int | None = None) -> dict[str, Phase]:
        """The meaningful cycles for this step length, by name; in local time if there is a zone.

        "time_of_day" (slots of one step) for steps shorter than a day, "day_of_week" (Monday 0) for steps shorter than
        a week or of days, "month_of_year" (January 0) for steps shorter than a year. Integer times have none.
        """
        if self.type in INTEGERS:
            return {}
        ticks = self.ticks(first, count)
        if self.type == WITH_ZONE and not self.local:
            utc = pa.array(ticks, pa.timestamp("us", tz="UTC")).cast(pa.timestamp("us", tz=self.zone))
            ticks = pc.local_timestamp(utc).cast(pa.int64()).to_numpy()
        days, within = np.divmod(ticks, self.per_day)
        found = []
        step, day = self.freq.ticks, self.per_day
        if 0 < step < day:
            found.append(Phase("time_of_day", -(-day // step), within // step))
        if step > 0 and step % (7 * day) and step < 28 * day:
            found.append(Phase("day_of_week", 7, (days - _MONDAY) % 7))
        if self.freq.months % 12 or 0 < step < 366 * day:
            months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
            found.append(Phase("month_of_year", 12, months % 12))
        return {phase.name: phase for phase in found}

    def tick_sql(self, column: str) -> str:
        """SQL for the tick of a column of the axis' type."""
        return tick_sql(column, self.type, local=self.local)

    def step_sql(self, column: str) -> str:
        """SQL for the step in which a stamp falls (BIGINT; valid from the start of the axis onwards)."""
        if not self.freq.months:
            return f"(({self.tick_sql(column)} - {self.start}) // {self.freq.ticks})"
        return f"(({self._month_sql(column)} - {self.start}) // {self.freq.months})"

    def covers_sql(self, column: str) -> str:
        """SQL for whether the stamp is at or after the start of the axis."""
        if not self.freq.months:
            return f"{self.tick_sql(column)} >= {self.start}"
        return f"{self._month_sql(column)} >= {self.start}"

    def moved_sql(self, column: str) -> str:
        """SQL for whether the stamp is not the start of a step."""
        if not self.freq.months:
            return f"({self.tick_sql(column)} - {self.start}) % {self.freq.ticks} <> 0"
        within, edge = self._within_sql(column)
        return f"({within} <> {edge} OR ({self._month_sql(column)} - {self.start}) % {self.freq.months} <> 0)"

    def _month_sql(self, column: str) -> str:
        """The month in which the last month step at or before the stamp begins, counted from January 1970."""
        stamp, (within, edge) = self._stamp_sql(column), self._within_sql(column)
        return f"((year({stamp}) - 1970) * 12 + month({stamp}) - 1 - ({within} < {edge})::BIGINT)"

    def _within_sql(self, column: str) -> tuple[str, str]:
        """Microseconds from the month's first midnight to the stamp, and to where the month's step begins."""
        stamp = self._stamp_sql(column)
        within = f"(epoch_us({stamp}) - epoch_us(date_trunc('month', {stamp})::TIMESTAMP))"
        return within, f"((least({self.day}, day(last_day({stamp}))) - 1) * {DAY} + {self.time})"

    def _stamp_sql(self, column: str) -> str:
        return f"make_timestamp({self.tick_sql(column)})"

    def position(self, stamp: Any) -> int:
        """The step that contains a stamp, possibly after the end. Raises OptionError before the start.

        A stamp without a zone is in the zone of the axis.
        """
        query = (
            f"SELECT {self.step_sql('stamp')}, {self.covers_sql('stamp')} "
            f"FROM (SELECT CAST($1 AS {self.type}) AS stamp)"
        )
        try:
            with closing(scratch(time_zone=self.zone)) as connection:
                row = ask(connection, query, [stamp]).fetchall()[0]
        except (duckdb.ConversionException, duckdb.BinderException, duckdb.NotImplementedException) as error:
            last = self.stamps(max(0, self.steps - 1), 1)[0].as_py()
            example = str(last) if self.type in INTEGERS else f"{self.type} '{last}'"
            raise OptionError(
                f"at = {stamp} is not of type {self.type}", key="at", help=f"write at := {example}"
            ) from error
        if not row[1]:
            first = self.stamps(0, 1)[0].as_py()
            raise OptionError(f"at = {stamp} is before the first step, {first}", key="at", help="choose a later one")
        return int(row[0])

    def to_json(self) -> Json:
        """All fields, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> TimeAxis:
        """The axis that `to_json` wrote. Raises ValueError, TypeError, KeyError, OptionError for any other value."""
        axis = cls(**{**value, "freq": Freq(**value["freq"])})
        numbers = (axis.freq.months, axis.freq.ticks, axis.start, axis.steps, axis.day, axis.time)
        if not all(type(number) is int and abs(number) < 1 << 62 for number in numbers):  # they become part of SQL
            raise ValueError("the numbers of the axis are not whole numbers")
        if axis.type not in (*_ARROW, WITH_ZONE) or type(axis.local) is not bool:
            raise ValueError("the axis has a type that times do not have")
        if sorted((axis.freq.months > 0, axis.freq.ticks > 0)) != [False, True] or axis.steps < 1:
            raise ValueError("the axis has no steps")
        if not 1 <= axis.day <= 31 or not 0 <= axis.time < axis.per_day:
            raise ValueError("the axis has steps outside of their month")
        if axis.zone is not None and not _ZONE.fullmatch(axis.zone):
            raise ValueError("the axis has no valid time zone")
        if axis.zone is None and axis.type == WITH_ZONE:
            raise ValueError("the axis has no time zone")
        for step in (0, axis.steps - 1):
            stamp = axis.stamps(step, 1)
            if axis.zone is not None:
                pc.local_timestamp(stamp)  # raises ArrowInvalid for a zone that does not exist
        return axis


def days_of_month(months: npt.NDArray[np.datetime64]) -> Ticks:
    """The number of days of each month. shape: [n] -> [n]"""
    first = months.astype("datetime64[D]").astype(np.int64)
    return (months + np.timedelta64(1, "M")).astype("datetime64[D]").astype(np.int64) - first


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
