"""From time stamps to an axis: parsing freq, inferring the step without it, and finding the start of the axis."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np

from graphlearn.errors import InputError, OptionError
from graphlearn.storage.columns import literal
from graphlearn.storage.series.axis import DAY, INTEGERS, WITH_ZONE, Freq, Ticks, TimeAxis, days_of_month

REGULAR = 0.5
"""The share of the stamps that must lie on an inferred axis."""
OCCUPIED = 0.05
"""The share of its steps that must have a stamp."""

COARSER = 3
"""A declared step is too fine if the usual distance between stamps is so many times as long."""

_WEEK = 7 * DAY


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """The distinct stamps of a series in time order, with the rows of each. shape: ticks, local, rows: [n]

    `local`: ticks of the local clock, equal to `ticks` for types without a zone. `last`: the end of the whole series,
    of which the arrays may lack later stamps. `shown`: the first and last stamp as text.
    """

    type: str
    zone: str | None
    ticks: Ticks
    local: Ticks
    rows: Ticks
    last: int
    last_local: int
    shown: tuple[str, str]


def read_freq(cursor: duckdb.DuckDBPyConnection, freq: Any, type_name: str) -> Freq:
    """The step that freq gives: an interval's text ('1 month'), a timedelta, Arrow's month-day-nano, or a number.

    Raises OptionError (key "freq") if it is zero, negative, of the wrong kind for the time type, or mixes months and
    days.
    """
    help = "set freq to a duration, e.g. INTERVAL 5 MINUTE, INTERVAL 1 DAY or INTERVAL 1 MONTH"
    if type_name in INTEGERS:
        if isinstance(freq, bool) or not isinstance(freq, int):
            raise OptionError(f"time is {type_name}, but freq = {freq}", key="freq", help="set freq to a whole number")
        if freq <= 0:
            raise OptionError(f"freq = {freq} must be positive", key="freq", help="set freq to 1 or more")
        return Freq(ticks=freq)
    if isinstance(freq, str):
        try:
            table = cursor.sql(f"SELECT {literal(freq)}::INTERVAL AS freq").to_arrow_table()
        except duckdb.ConversionException as error:
            raise OptionError(f"freq = '{freq}' is not an interval", key="freq", help=help) from error
        freq = table.column("freq")[0].as_py()
    if isinstance(freq, datetime.timedelta):
        months, days, micros = 0, 0, freq // datetime.timedelta(microseconds=1)
    elif all(hasattr(freq, part) for part in ("months", "days", "nanoseconds")):
        months, days, micros = freq.months, freq.days, freq.nanoseconds // 1000
    else:
        raise OptionError(f"time is {type_name}, but freq = {freq} is not an interval", key="freq", help=help)
    ticks = days * DAY + micros
    if months and ticks:
        raise OptionError("freq mixes months with days", key="freq", help="use months or days, not both")
    if months < 0 or ticks < 0 or months + ticks == 0:
        parts = [f"{n} {unit}" for n, unit in ((months, "months"), (f"{ticks / DAY:g}" if ticks else 0, "days")) if n]
        raise OptionError(f"freq = {' '.join(parts) or 0} must be positive", key="freq", help=help)
    return Freq(months=months, ticks=ticks * (1000 if type_name == "TIMESTAMP_NS" else 1))


def infer_freq(stamps: Stamps) -> Freq:
    """The most common distance between neighbouring stamps: months, days of the calendar, or ticks."""
    day = DAY * (1000 if stamps.type == "TIMESTAMP_NS" else 1)
    if stamps.type in INTEGERS:
        return Freq(ticks=_distance(stamps.ticks))
    local = np.unique(stamps.local)
    step = _distance(local) if len(local) > 1 else 0
    if step < day:
        return Freq(ticks=_distance(stamps.ticks))
    if step >= 28 * day:
        months = _as_months(stamps, day)
        if months is not None:
            return months
    return Freq(ticks=step)


def coarser_freq(stamps: Stamps, declared: Freq) -> str:
    """The most common distance between neighbouring stamps, if it is several declared steps; otherwise empty."""
    try:
        usual = infer_freq(stamps)
    except InputError:  # a single stamp, or stamps too far apart
        return ""
    day = DAY * (1000 if stamps.type == "TIMESTAMP_NS" else 1)
    long, short = (step.ticks or step.months * 30 * day for step in (usual, declared))
    return usual.text(stamps.type) if long >= COARSER * short else ""


def axis_type(type_name: str, freq: Freq) -> str:
    """The type of the steps: that of the stamps, or TIMESTAMP if that type is too coarse for the step."""
    unit = {"DATE": DAY, "TIMESTAMP_S": 1_000_000, "TIMESTAMP_MS": 1000}.get(type_name, 1)
    return "TIMESTAMP" if freq.ticks % unit else type_name


def make_axis(stamps: Stamps, freq: Freq, *, given: tuple[int, int] | None, inferred: bool) -> TimeAxis:
    """The axis of the stamps. `given` (a tick, and the same tick of the local clock) fixes its origin.

    Without it, the axis is aligned with the majority of stamps (every hour at :03, say) or, if there is none, with the
    natural grid: midnights, Mondays, firsts of months. Raises OptionError (key "freq") if all stamps fall into a single
    step, InputError for an inferred step that does not fit the stamps.
    """
    day = DAY * (1000 if stamps.type == "TIMESTAMP_NS" else 1)
    months = bool(freq.months)
    local = stamps.type == WITH_ZONE and (months or freq.ticks % DAY == 0)
    ticks = stamps.local if local else stamps.ticks
    last = stamps.last_local if local else stamps.last
    start = None if given is None else given[local]
    first = int(ticks.min())
    axis = TimeAxis(type=axis_type(stamps.type, freq), freq=freq, start=0, steps=0, zone=stamps.zone, local=local)
    if months:
        anchor, moment = (_anchor(ticks, stamps.rows, day) if start is None else _place(start, day))[:2]
        month, on = _months(ticks, anchor, moment, day)
        phase = _phase(month, stamps.rows, freq.months, 0) if start is None else _month_of(start, day) % freq.months
        on &= month % freq.months == phase
        origin = int(month.min()) if start is None else _month_of(start, day)
        origin -= (origin - phase) % freq.months
        final = int(_months(np.array([last]), anchor, moment, day)[0][0])
        axis = replace(axis, start=origin, steps=(final - origin) // freq.months + 1, day=anchor, time=moment)
    else:
        natural = 4 * day if stamps.type not in INTEGERS and freq.ticks % (7 * day) == 0 else 0
        origin = first if start is None else start
        phase = _phase(ticks, stamps.rows, freq.ticks, natural) if start is None else start % freq.ticks
        origin -= (origin - phase) % freq.ticks
        on = ticks % freq.ticks == phase
        axis = replace(axis, start=origin, steps=(last - origin) // freq.ticks + 1)
    if given is not None:
        _check_start(axis, stamps, on, inferred, given[local])
    _check_axis(axis, stamps, on, inferred)
    return axis


def continue_axis(base: TimeAxis, stamps: Stamps) -> TimeAxis:
    """The axis of an earlier version, from its start to the last of the stamps.

    Raises InputError (role "series") for stamps of another type, for a session in another time zone if steps are days
    or months of the local clock, and if fewer than two steps are left.
    """
    or_replace = "or start over with CREATE OR REPLACE MODEL"
    if axis_type(stamps.type, base.freq) != base.type:
        message = f"the time column is {stamps.type}, but the steps of the model are {base.type}"
        raise InputError(message, role="series", help=f"cast it to {base.type} in the query, {or_replace}")
    if base.local and stamps.zone != base.zone:
        message = f"the model uses the time zone {base.zone}, but that of the session is {stamps.zone}"
        raise InputError(message, role="series", help=f"SET TimeZone = '{base.zone}', {or_replace}")
    last = stamps.last_local if base.local else stamps.last
    if base.freq.months:
        day = DAY * (1000 if stamps.type == "TIMESTAMP_NS" else 1)
        final = int(_months(np.array([last]), base.day, base.time, day)[0][0])
        steps = (final - base.start) // base.freq.months + 1
    else:
        steps = (last - base.start) // base.freq.ticks + 1
    if steps < 2:
        message = f"the last reading ({stamps.shown[1]}) is before the second step of the model, {base.stamps(1, 1)[0]}"
        raise InputError(message, role="series", help=f"check the WHERE clause, {or_replace}")
    return replace(base, steps=steps)


def _check_start(axis: TimeAxis, stamps: Stamps, on: np.ndarray[Any, Any], inferred: bool, start: int) -> None:
    """Raise OptionError for a start between the stamps of a series that is regular without it."""
    if not inferred or axis.steps < 2 or float(np.mean(on)) >= REGULAR:
        return
    try:
        make_axis(stamps, axis.freq, given=None, inferred=True)
    except (InputError, OptionError):  # the stamps are irregular whatever the start
        return
    ticks = stamps.local if axis.local else stamps.ticks
    nearest = int(np.abs(ticks - start).argmin())
    moment = replace(axis, freq=Freq(ticks=1), start=int(ticks[nearest]), steps=1, day=1, time=0).stamps(0, 1)[0]
    raise OptionError(
        f"start lies between the stamps, which are {axis.freq_text} apart",
        key="start",
        help=f"use the next stamp, start = '{moment}', or declare freq",
    )


def _check_axis(axis: TimeAxis, stamps: Stamps, on: np.ndarray[Any, Any], inferred: bool) -> None:
    begin, end = stamps.shown
    if axis.steps < 1:
        raise OptionError(f"start is after the last reading ({end})", key="start", help="choose an earlier start")
    if axis.steps == 1:
        raise OptionError(
            f"all readings ({begin} to {end}) fall into one step of freq = {axis.freq_text}",
            key="freq",
            help="declare a shorter freq, or one in the unit of the time column",
        )
    step = axis.freq.ticks
    if not inferred:
        if step and step % (30 * axis.per_day) == 0 and stamps.type not in INTEGERS:
            _refuse_thirty_days(axis, stamps, on)
        return
    fits = float(np.mean(on))
    span = step or axis.freq.months * 30 * axis.per_day
    occupied = len(on) / max(1, int(stamps.ticks[-1] - stamps.ticks[0]) // span)
    if fits < REGULAR or occupied < OCCUPIED:
        what = (
            f"only {fits:.0%} of the stamps fit it"
            if fits < REGULAR
            else f"it leaves {1 - occupied:.0%} of the steps empty"
        )
        raise InputError(
            f"the stamps are irregular: their most common distance is {axis.freq_text}, but from {begin} to {end} "
            f"{what}",
            role="series",
            help="leave outlying stamps out of the query, or declare the step, e.g. freq = INTERVAL 1 HOUR; stamps "
            "then move to the start of their step",
        )


def _refuse_thirty_days(axis: TimeAxis, stamps: Stamps, on: np.ndarray[Any, Any]) -> None:
    """Refuse 30 days for stamps of whole months: as a Python timedelta, INTERVAL 1 MONTH becomes 30 days."""
    months = _as_months(stamps, axis.per_day) if not on.all() else None
    if months is not None:
        raise OptionError(
            f"freq is {axis.freq_text}, but the stamps are {months.text(stamps.type)} apart",
            key="freq",
            help=f"use freq = '{months.text(stamps.type)}' (a Python timedelta cannot represent months)",
        )


def _distance(ticks: Ticks) -> int:
    """The most common distance between neighbours, the smallest of several equally common ones."""
    distances = np.diff(ticks)
    found, counts = np.unique(distances[distances > 0], return_counts=True)  # beyond 2^63 they wrap around
    if not len(found):
        raise InputError("the stamps are too far apart to be a series", role="series", help="declare freq")
    return int(found[counts.argmax()])


def _phase(ticks: Ticks, rows: Ticks, step: int, natural: int) -> int:
    """The remainder modulo the step that at least half of the rows share, or the natural one."""
    found, inverse = np.unique(ticks % step, return_inverse=True)
    weights = np.bincount(inverse, rows)
    best = int(weights.argmax())
    return int(found[best]) if 2 * weights[best] >= rows.sum() else natural % step


def _place(tick: int, day: int) -> tuple[int, int, bool]:
    """(day of the month, ticks since midnight, is the month's last day) of one tick."""
    days, within = divmod(tick, day)
    date = np.datetime64(days, "D")
    month = date.astype("datetime64[M]")
    number = int((date - month.astype("datetime64[D]")).astype(np.int64)) + 1
    return number, within, number == int(days_of_month(np.array([month]))[0])


def _month_of(tick: int, day: int) -> int:
    return int(np.datetime64(tick // day, "D").astype("datetime64[M]").astype(np.int64))


def _months(ticks: Ticks, anchor: int, moment: int, day: int) -> tuple[Ticks, np.ndarray[Any, Any]]:
    """The months whose steps contain the ticks, and whether each tick begins its step. shape: [n] -> [n], [n]"""
    days, within = np.divmod(ticks, day)
    months = days.astype("datetime64[D]").astype("datetime64[M]")
    since = (days - months.astype("datetime64[D]").astype(np.int64)) * day + within
    edge = (np.minimum(anchor, days_of_month(months)) - 1) * day + moment
    return months.astype(np.int64) - (since < edge), since == edge


def _anchor(ticks: Ticks, rows: Ticks, day: int) -> tuple[int, int, float]:
    """Day of the month and time of day of at least half of the rows, else (1, 0); their share of the rows."""
    days, within = np.divmod(ticks, day)
    months = days.astype("datetime64[D]").astype("datetime64[M]")
    number = days - months.astype("datetime64[D]").astype(np.int64) + 1
    candidates = [(1, 0)]
    for numbers in (number, np.where(number == days_of_month(months), 31, number)):
        found, inverse = np.unique(np.stack([numbers, within]), axis=1, return_inverse=True)
        best = int(np.bincount(inverse.ravel(), rows).argmax())
        candidates.append((int(found[0, best]), int(found[1, best])))
    parts = [float(rows[_months(ticks, a, m, day)[1]].sum() / rows.sum()) for a, m in candidates]
    best = int(np.argmax(parts))
    return (*candidates[best], parts[best]) if parts[best] >= REGULAR else (1, 0, parts[0])


def _as_months(stamps: Stamps, day: int) -> Freq | None:
    """The step in months, if 90 % of the stamps are on one day and time of the month and most are equally far apart."""
    anchor, moment, part = _anchor(stamps.local, np.ones_like(stamps.rows), day)
    months = np.unique(_months(stamps.local, anchor, moment, day)[0])
    if part < 0.9 or len(months) < 2:
        return None
    return Freq(months=_distance(months))
