"""The calendar of a series: the cycles of its time axis that occur often enough in the train split."""

from __future__ import annotations

import numpy as np

from graphlearn.jobs.net3.options import Net3JobOptions
from graphlearn.models.net3.data.calendar import Calendar
from graphlearn.models.net3.data.time_split import TimeSplit
from graphlearn.storage.series.axis import TimeAxis

AHEAD = 1 << 10
"""Steps after the data that the calendar covers at least."""


def calendar_of(axis: TimeAxis, options: Net3JobOptions) -> Calendar:
    """The calendar of a model of a series; it covers the horizon after the data."""
    stop = len(axis) if options.task == "recover" else TimeSplit.of(len(axis), options.split).train_end
    return make_calendar(axis, stop, max(AHEAD, options.horizon))


def make_calendar(axis: TimeAxis, train_end: int, ahead: int) -> Calendar:
    """The cycles that occur at least twice in every phase before `train_end`, up to `ahead` steps after the data.

    A cycle seen less often (the days of the week in one week of data) could not be learnt, only memorised.
    """
    rows, periods = [], []
    for phase in axis.phases(0, len(axis) + ahead).values():
        seen = np.bincount(phase.values[:train_end], minlength=phase.period)
        if train_end and seen.min() >= 2:
            rows.append(phase.values)
            periods.append(phase.period)
    length = len(axis) + ahead
    return Calendar(np.array(rows, np.int64).reshape(len(rows), length), tuple(periods))


def season_lengths(axis: TimeAxis) -> list[int]:
    """Steps in a day and in a week, or months in a year, where they are whole numbers above 1."""
    if axis.freq.months:
        return [12 // axis.freq.months] if 12 % axis.freq.months == 0 and axis.freq.months < 12 else []
    if not axis.phases(0, 1):
        return []
    lengths = (axis.per_day, 7 * axis.per_day)
    return [n // axis.freq.ticks for n in lengths if n % axis.freq.ticks == 0 and n > axis.freq.ticks]
