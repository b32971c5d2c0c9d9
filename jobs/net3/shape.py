"""The columns of the answers of a model of series.

forecast    time, keys…, value, lower, upper, step INTEGER
recover     time, keys…, value, lower, upper, observed BOOLEAN
evaluate    method, split, step, metrics with their intervals, cells, too_few, protocol; no step for a recovery
            by := 'series': method, split, keys…, metrics, cells, too_few, protocol

Times and keys have the names and types of the series. Where it has a column with one of our names, ours is prefixed
with the name of the function.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from graphlearn.errors import OptionError, UserError, did_you_mean
from graphlearn.jobs.family import Columns, ModelShape, Question
from graphlearn.jobs.machine import memory_available
from graphlearn.jobs.net3.metrics import NET3_METRICS
from graphlearn.jobs.net3.options import Net3JobOptions, resolve_columns
from graphlearn.jobs.net3.tasks import TABLE
from graphlearn.storage.dictionary import key_field
from graphlearn.storage.scratch import scratch
from graphlearn.storage.series.axis import TimeAxis
from graphlearn.storage.series.steps import axis_type, read_freq
from graphlearn.storage.series.tensor import SeriesTensor

COPIES = 8
"""Arrays of the size of a forecast in memory at once."""


@dataclass(frozen=True)
class Net3Shape(ModelShape):
    """The columns of the series (time, keys, value), the task and the horizon.

    For a trained model also the time axis, and the number of series: one per combination of keys.
    """

    fields: tuple[pa.Field, ...]
    task: str
    horizon: int
    axis: TimeAxis | None = None
    series: int = 0

    @classmethod
    def of_columns(cls, columns: Columns, options: Net3JobOptions) -> Net3Shape:
        """The shape of a model that is still to be trained on a query with these columns."""
        time, modes, value = resolve_columns(dict(columns), options)
        stamps = columns[time]
        if options.freq is not None:
            with closing(scratch()) as connection:
                stamps = axis_type(stamps, read_freq(connection, options.freq, stamps))
        keys = [key_field(columns[mode]).with_name(mode) for mode in modes]
        fields = (key_field(stamps).with_name(time), *keys, pa.field(value, pa.float32()))
        return cls(fields, options.task, options.horizon)

    @classmethod
    def of_series(cls, series: SeriesTensor, options: Net3JobOptions) -> Net3Shape:
        """The shape of a model that was trained on a series."""
        time = pa.field(series.time_name, series.axis.stamps(0, 1).type)
        keys = [mode.keys.field.with_name(mode.name) for mode in series.modes if mode.name is not None]
        fields = (time, *keys, pa.field(series.value_name, pa.float32()))
        return cls(fields, options.task, options.horizon, series.axis, series.values[0].size)

    def columns(self, question: Question) -> pa.Schema:
        if question.function == "evaluate":
            return self._of_metrics(str(question.options["by"]))
        _check_level(question.options["level"])
        if question.function != self.task:
            raise UserError(
                f"the model was trained to {self.task}, not to {question.function}",
                help=f"train one with OPTIONS (task = '{question.function}', …)",
            )
        if question.function == "forecast" and self.axis is not None:
            self._check_steps(self.axis, self.last_step(question.options["at"]), self.steps(question))
        last = pa.field("step", pa.int32()) if question.function == "forecast" else pa.field("observed", pa.bool_())
        ours = [pa.field("lower", pa.float32()), pa.field("upper", pa.float32()), last]
        return _distinct([], self.fields, ours, prefix=question.function)

    def _of_metrics(self, by: str) -> pa.Schema:
        """The columns of evaluate."""
        if by not in ("step", "series"):
            raise OptionError(
                f"by must be 'step' or 'series', not {by!r}", key="by", help=did_you_mean(by, ["step", "series"])
            )
        if by == "series":
            known = [pa.field(metric.name, pa.float64()) for metric in NET3_METRICS]
            last = [TABLE.schema.field(name) for name in (TABLE.count, "too_few", "protocol")]
            return _distinct([*TABLE.keys[:2]], self.fields[1:-1], [*known, *last], prefix="evaluate")
        return TABLE.schema if self.task == "forecast" else TABLE.schema.remove(2)

    def steps(self, question: Question) -> int:
        """The steps ahead that a forecast is asked for."""
        return int(question.options["horizon"] or self.horizon)

    def last_step(self, at: Any) -> int:
        """The last step that a forecast may read, by default that of the series. Raises OptionError (key "at")."""
        assert self.axis is not None
        last = len(self.axis) - 1
        if at is None:
            return last
        found = self.axis.position(at)
        if not 0 <= found <= last:
            first, final = (self.axis.stamps(k, 1)[0].as_py() for k in (0, last))
            raise OptionError(
                f"at lies outside the series, which runs from {first} to {final}",
                key="at",
                help="leave at out to forecast what follows the series",
            )
        return found

    def _check_steps(self, axis: TimeAxis, end: int, steps: int) -> None:
        """Raise OptionError for more steps than memory holds, and for a time that its type cannot hold."""
        needed, free = COPIES * 4 * steps * self.series, memory_available()
        if needed > free:
            raise OptionError(
                f"{steps:,} steps of {self.series:,} series need {needed / (1 << 20):,.0f} MiB, and "
                f"{free / (1 << 20):,.0f} MiB of memory is free",
                key="horizon",
                help="ask for fewer steps",
            )
        axis.stamps(end + steps, 1)


def _check_level(level: Any) -> None:
    if not 0 < float(level) < 1:
        raise OptionError(f"level must lie between 0 and 1, not {level}", key="level", help="for example level := 0.9")


def _distinct(
    first: Sequence[pa.Field], theirs: Sequence[pa.Field], last: Sequence[pa.Field], prefix: str
) -> pa.Schema:
    """The columns of the series between ours, of which those with a name of theirs get the prefix."""
    taken = {field.name.lower() for field in theirs}

    def named(field: pa.Field) -> pa.Field:
        name = field.name
        while name in taken:
            name = f"{prefix}_{name}"
        taken.add(name)
        return field.with_name(name)

    found = [*(named(field) for field in first), *theirs, *(named(field) for field in last)]
    return pa.schema([field.with_nullable(True) for field in found])
