"""The rows of a series in SQL: the columns it must have, counts of its rows, and its time axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from graphlearn.errors import GraphLearnError, InputError, OptionError, ResourceError, did_you_mean
from graphlearn.storage.columns import FLOAT32_MAX, check_key, find_column, key_sql, kind_of, quoted, subquery
from graphlearn.storage.fingerprint import measure
from graphlearn.storage.interrupt import interruptible
from graphlearn.storage.series.axis import INTEGERS, WITH_ZONE, Freq, TimeAxis, tick_sql
from graphlearn.storage.series.report import SeriesReport
from graphlearn.storage.series.steps import Stamps, coarser_freq, continue_axis, infer_freq, make_axis, read_freq
from graphlearn.text import counted

TIMES = ("date", "timestamp", "timestamp with time zone")

_STAMPS = 20_000_000
"""The axis is found from this many distinct stamps."""
FAR, COARSE = 1e4, 0.02
"""Series with readings beyond FAR are checked: rounding to float32 must be less than COARSE of the series' range."""
_STEPS = 1 << 40
"""More steps than fit in any machine."""


def check_series_columns(columns: dict[str, str], time: str, modes: Sequence[str], value: str) -> None:
    """Check that a query has exactly the time, mode and value columns, of usable types.

    Column names are compared case-insensitively. Raises OptionError if the options name a column twice, InputError
    (role "series") for a column that is missing, unknown or of an unusable type.
    """
    roles = [("time", time), *(("modes", mode) for mode in modes), ("value", value)]
    names = [name.lower() for _, name in roles]
    for i, (key, name) in enumerate(roles):
        if name.lower() in names[:i]:
            raise OptionError(f'the options name the column "{name}" twice', key=key, help="use each column once")
    known = ", ".join(columns) or "none"
    for key, name in roles:
        if find_column(columns, name.lower()) is None:
            spare = [column for column in columns if column.lower() not in names] or list(columns)
            message = f'the query has no column "{name}", which option {key} names (its columns: {known})'
            raise InputError(message, role="series", help=did_you_mean(name, spare))
    extra = [column for column in columns if column.lower() not in names]
    if extra:
        raise InputError(
            f"the query has columns that no option names: {', '.join(extra)}",
            role="series",
            help="add them to modes if they distinguish series, or leave them out of the query",
        )
    type_of = {name: columns[str(find_column(columns, name.lower()))] for _, name in roles}
    if kind_of(type_of[time]) not in TIMES and type_of[time] not in INTEGERS:
        raise InputError(
            f"time column {time} is {type_of[time]}, not a time",
            role="series",
            help=f"cast it to TIMESTAMP, DATE or BIGINT, e.g. {time}::TIMESTAMP AS {time}",
        )
    for mode in modes:
        try:
            check_key(mode, type_of[mode])
        except GraphLearnError as error:
            raise InputError(error.message, role="series", help=error.help) from None
    if kind_of(type_of[value]) not in ("integer", "decimal", "float"):
        raise InputError(
            f"value column {value} is {type_of[value]}, not a number",
            role="series",
            help=f"cast it, e.g. {value}::DOUBLE AS {value}",
        )


class SeriesSource:
    """A relation with a time, modes and a value, and the counts of its rows.

    `columns`: of the relation (name -> DuckDB type). All methods except `copy` and `check` scan the relation.
    """

    _large: int
    _top: float
    _nans: list[int]

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        relation: str,
        columns: dict[str, str],
        time: str,
        modes: Sequence[str],
        value: str,
    ) -> None:
        self.cursor, self.relation = cursor, relation
        spelled = [str(find_column(columns, name.lower())) for name in (time, *modes, value)]
        self.time_name, self.value_name, self.modes = spelled[0], spelled[-1], spelled[1:-1]
        self.time, self.value = quoted(spelled[0]), f"{quoted(spelled[-1])}::DOUBLE"
        self.type = {"TIMESTAMPTZ": WITH_ZONE}.get(columns[spelled[0]], columns[spelled[0]])
        types = [columns[name] for name in self.modes]
        self.key_types = ["VARCHAR" if name.startswith("ENUM(") else name for name in types]
        self.keys = [key_sql(name, type_) for name, type_ in zip(self.modes, self.key_types, strict=True)]
        self.columns = columns
        self.report = SeriesReport()
        self.zone: str | None = None
        if self.type == WITH_ZONE:
            self.zone = _zone(cursor)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return interruptible(self.cursor, lambda: self.cursor.execute(sql).fetchall())

    @property
    def valid(self) -> str:
        """SQL for whether a row has a finite time and all keys."""
        nulls = (f"{quoted(name)} IS NOT NULL" for name in self.modes)
        return " AND ".join([f"{tick_sql(self.time, self.type)} IS NOT NULL", *nulls])

    def covered(self, axis: TimeAxis) -> str:
        """The rows on the axis, as a relation and WHERE clause for use after FROM."""
        return f"{self.relation} WHERE {self.valid} AND {axis.covers_sql(self.time)}"

    def copy(self, sql: str) -> None:
        """Copy the query's rows into the relation, a temporary table. This is the only scan of the query."""
        self.execute(f"CREATE TEMP TABLE {self.relation} AS SELECT * FROM {subquery(sql)}")

    def count(self) -> str:
        """Count rows, NULLs and unusable values in the report. Returns the fingerprint of the rows."""
        valid, value = self.valid, self.value
        aggregates = (
            f"count(*) FILTER (NOT ({valid}))",
            f"count(*) FILTER ({valid} AND {value} IS NULL)",
            f"count(*) FILTER ({valid} AND NOT isfinite({value}))",
            f"count(*) FILTER ({valid} AND isfinite({value}) AND abs({value}) > {FLOAT32_MAX!r})",
            f"max(abs({value})) FILTER ({valid} AND isfinite({value}))",
            *(f"count(*) FILTER (isnan({quoted(name)}))" for name in self._floats()),
        )
        query = f"FROM {self.relation}"
        found = interruptible(self.cursor, lambda: measure(self.cursor, query, self.columns, aggregates))
        report = self.report
        report.rows = found.rows
        report.null_rows, report.null_values, report.nonfinite_values, self._large, self._top, *self._nans = (
            found.values
        )
        return found.fingerprint

    def check(self, *, kept: bool = False) -> None:
        """Raise InputError if `count` found nothing usable, values beyond float32, or NaN keys.

        `kept`: the readings are stored in the tensor, so float32 must distinguish them.
        """
        report = self.report
        if not report.rows:
            raise no_rows()
        if report.null_rows == report.rows:
            raise InputError(
                f"every row ({report.rows:,}) has a NULL time or key", role="series", help="check the query's joins"
            )
        if report.null_rows + report.null_values + report.nonfinite_values == report.rows:
            raise InputError(
                f"no row has a usable value: {report.null_values:,} NULL, {report.nonfinite_values:,} NaN or infinite",
                role="series",
                help=f"check how {self.value_name} is computed",
            )
        if self._large:
            raise InputError(
                f"{self.value_name} is beyond what float32 holds ({FLOAT32_MAX:.2g}) in {counted(self._large, 'row')}",
                role="series",
                help="divide it in the query, or turn sentinels into NULL with nullif()",
            )
        for name, count in zip(self._floats(), self._nans, strict=True):
            if count:
                raise InputError(
                    f"{name} is NaN in {counted(count, 'row')}",
                    role="series",
                    help=f"filter them out, e.g. WHERE NOT isnan({name})",
                )
        if kept and self._top > FAR:
            self._check_precision()

    def _floats(self) -> list[str]:
        """The modes whose keys are floats."""
        return [name for name, type_ in zip(self.modes, self.key_types, strict=True) if kind_of(type_) == "float"]

    def _check_precision(self) -> None:
        """Raise InputError for series whose variation is close to the resolution of float32 at their magnitude."""
        names = [quoted(name) for name in self.modes]
        value, coarse = (
            self.value,
            f"max(abs({self.value})) * {2.0**-24!r} > {COARSE} * (max({self.value}) - min({self.value}))",
        )
        found = self.execute(
            f"SELECT {', '.join([*names, f'max({value}) - min({value})', f'max(abs({value}))'])} FROM {self.relation} "
            f"WHERE {self.valid} AND isfinite({value}) {'GROUP BY ALL' if names else ''} "
            f"HAVING {coarse} AND max({value}) > min({value}) ORDER BY ALL"
        )
        if found:
            *keys, spread, top = found[0]
            which = ", ".join(f"{name} = {key!r}" for name, key in zip(self.modes, keys, strict=True))
            raise InputError(
                f"{counted(len(found), 'series')} would lose their detail in float32, which keeps 7 digits: "
                f"{self.value_name} moves by {spread:.3g} around {top:.3g}{f' where {which}' if which else ''}",
                role="series",
                help=f"subtract an offset in the query, or use the change since the previous reading, e.g. "
                f"{self.value_name} - lag({self.value_name}) OVER (PARTITION BY … ORDER BY {self.time_name})",
            )

    def find_axis(self, freq: Any, start: Any, base: TimeAxis | None = None) -> TimeAxis:
        """The axis. Counts the rows before it and off its steps, and reports its ends.

        The start and step of an earlier version's axis are kept.
        """
        step: Freq | None
        if base is not None:
            step, stamps = base.freq, self._stamps(None)
            axis = continue_axis(base, stamps)
        else:
            step = None if freq is None else read_freq(self.cursor, freq, self.type)
            given = None if start is None else self._start(start)
            stamps = self._stamps(given)
            if stamps.ticks[0] == stamps.last:
                raise InputError(
                    f"the series has a single time step, {stamps.shown[0]}",
                    role="series",
                    help="a model needs at least two; check the WHERE clause",
                )
            axis = make_axis(stamps, step or infer_freq(stamps), given=given, inferred=step is None)
            self.report.usual_freq = coarser_freq(stamps, step) if step is not None else ""
        if axis.steps > _STEPS:  # before SQL counts in 64 bits
            raise ResourceError(
                f"the series would have {axis.steps:,} steps of {axis.freq_text}, from {stamps.shown[0]} to "
                f"{stamps.shown[1]}",
                help="look for outlying time stamps, or choose a longer freq",
            )
        report = self.report
        observed = f"{axis.covers_sql(self.time)} AND isfinite({self.value})"
        before, moved, left = self.execute(
            f"SELECT count(*) FILTER (NOT {axis.covers_sql(self.time)}), "
            f"count(*) FILTER ({observed} AND {axis.moved_sql(self.time)}), count(*) FILTER ({observed}) "
            f"FROM {self.relation} WHERE {self.valid}"
        )[0]
        report.before_start, report.moved_rows, report.steps = before, moved, axis.steps
        report.freq, report.freq_inferred = axis.freq_text, step is None
        report.first, report.last = stamps.shown
        if before:
            self._recount(axis)
        if not left and base is not None:
            message = f"there is no reading at or after the first step of the model, {base.stamps(0, 1)[0]}"
            raise InputError(message, role="series", help="check the query, or start over with CREATE OR REPLACE MODEL")
        if not left:
            raise OptionError(
                f"there is no reading at or after start = {start}", key="start", help="choose an earlier one"
            )
        return axis

    def count_keys(self, axis: TimeAxis) -> list[int]:
        """The number of distinct keys on the axis, by mode."""
        counts = (f"(SELECT count(*) FROM (SELECT DISTINCT {key} FROM {self.covered(axis)}))" for key in self.keys)
        return list(self.execute(f"SELECT {', '.join(counts)}")[0]) if self.keys else []

    def _recount(self, axis: TimeAxis) -> None:
        """Count NULL and non-finite values again, only on the axis, because rows before it are counted as dropped."""
        counts = (f"count(*) FILTER ({value})" for value in (f"{self.value} IS NULL", f"NOT isfinite({self.value})"))
        self.report.null_values, self.report.nonfinite_values = self.execute(
            f"SELECT {', '.join(counts)} FROM {self.covered(axis)}"
        )[0]

    def _start(self, start: Any) -> tuple[int, int]:
        """The tick of the declared start, absolute and of the local clock."""
        local = tick_sql("stamp", self.type, local=self.type == WITH_ZONE)
        try:
            found = self.cursor.execute(
                f"SELECT {tick_sql('stamp', self.type)}, {local} FROM (SELECT CAST($1 AS {self.type}) AS stamp)",
                [start],
            ).fetchall()[0]
        except (duckdb.ConversionException, duckdb.BinderException, duckdb.NotImplementedException) as error:
            raise OptionError(
                f"start = {start} is not of type {self.type}",
                key="start",
                help=f"write it like the values of {self.time_name}",
            ) from error
        if found[0] is None:
            raise OptionError(f"start = {start} is not a point in time", key="start", help="give a finite time")
        return int(found[0]), int(found[1])

    def _stamps(self, given: tuple[int, int] | None) -> Stamps:
        tick = tick_sql(self.time, self.type)
        local = tick_sql(self.time, self.type, local=True) if self.type == WITH_ZONE else tick
        since = f" AND {tick} >= {given[0]}" if given is not None else ""
        where = f"FROM {self.relation} WHERE {self.valid}{since}"
        ends = f"max({tick}), max({local}), min({self.time})::VARCHAR, max({self.time})::VARCHAR"
        last, last_local, first_text, last_text = self.execute(f"SELECT {ends} {where}")[0]
        if last is None:
            raise OptionError("there is no reading at or after start", key="start", help="choose an earlier start")
        query = (
            f"SELECT {tick} AS tick, {local} AS local, count(*) AS n {where} "
            f"GROUP BY ALL ORDER BY 1 ASC LIMIT {_STAMPS}"
        )
        table: pa.Table = interruptible(self.cursor, lambda: self.cursor.sql(query).to_arrow_table())
        ticks, locals_, rows = (table.column(name).to_numpy() for name in ("tick", "local", "n"))
        return Stamps(
            type=self.type,
            zone=self.zone,
            ticks=ticks,
            local=locals_,
            rows=rows,
            last=int(last),
            last_local=int(last_local),
            shown=(first_text, last_text),
        )


def no_rows() -> InputError:
    """The error for an empty query."""
    return InputError("the query has no rows", role="series", help="check its WHERE clause and the path of its files")


def _zone(cursor: duckdb.DuckDBPyConnection) -> str:
    """The session's time zone. Raises OptionError if Arrow does not know it."""
    zone = str(cursor.execute("SELECT current_setting('TimeZone')").fetchall()[0][0])
    try:
        pc.local_timestamp(pa.array([0], pa.timestamp("us", tz=zone)))
    except pa.ArrowInvalid as error:
        raise OptionError(
            f"the session's time zone {zone} has no known rules",
            help="name a place, e.g. SET TimeZone = 'Europe/Berlin'",
        ) from error
    return zone
