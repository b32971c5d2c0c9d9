"""What a NET3 model can be asked: forecast, recover, evaluate.

Columns of the results (times and keys have the names and types of the series):

forecast    time, keys…, value, lower, upper, step INTEGER
recover     time, keys…, value, lower, upper, observed BOOLEAN
evaluate    method, split, step, rmse, mae, mape, z_rmse, z_mae, cells, protocol
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.errors import OptionError, UserError
from graphlearn.jobs.functions import VERSION, ArrowSource, FunctionSpec, LoadedModel, Question, Warn
from graphlearn.jobs.machine import memory_available
from graphlearn.jobs.net3.calendar import calendar_of
from graphlearn.jobs.net3.metrics import METRICS, SCHEMA, metrics_table, read_metrics
from graphlearn.jobs.net3.options import Net3JobOptions, model_options, resolve_columns
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.dictionary import key_field
from graphlearn.storage.series.ingest import read_series
from graphlearn.storage.series.steps import axis_type, read_freq
from graphlearn.types import FloatArray, Split

if TYPE_CHECKING:
    from graphlearn.models.net3.conformal import Conformal
    from graphlearn.models.net3.forecast_training import ForecastTraining
    from graphlearn.storage.series.ingest import SeriesTensor

RECOVERED = "recovered.npy"
"""File of a stored version with the value of every cell."""
_COPIES = 8
"""Arrays of the size of a forecast that live at once."""
ROWS = 1 << 17
"""Cells of a batch of answers."""
ORIGINS = 256
"""Validation forecasts that calibrate the intervals of steps beyond the horizon."""

LEVEL = {"level": (float, 0.9, "share of true values that the interval should contain")}

FUNCTIONS: dict[str, FunctionSpec] = {
    "forecast": FunctionSpec(
        named={
            "horizon": (
                int,
                None,
                "steps ahead, by default the horizon of the model; later steps read its own forecasts",
            ),
            "at": (object, None, "the last time step to read, by default the end of the series"),
            **LEVEL,
            **VERSION,
        }
    ),
    "recover": FunctionSpec(
        named={"every": (bool, False, "also return known cells, not only missing ones"), **LEVEL, **VERSION}
    ),
    "evaluate": FunctionSpec(),
}
"""What a NET3 model can be asked."""


def options_of(artifact: Artifact) -> Net3JobOptions:
    """The options that a stored version was made with."""
    known = {f.name for f in fields(Net3JobOptions)}
    given = {k: v for k, v in artifact.manifest["options"].items() if k in known}
    given["modes"] = None if given.get("modes") is None else tuple(given["modes"])
    return Net3JobOptions(**given)


class Net3Model(LoadedModel):
    """A stored version; series and weights are read when first used."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.options = options_of(artifact)
        self.series = read_series(artifact.path)
        self._training: ForecastTraining | None = None

    @property
    def training(self) -> ForecastTraining:
        """The model, ready to forecast, on the stored series."""
        if self._training is None:
            from safetensors.torch import load_file

            from graphlearn.models.net3.forecast_training import ForecastTraining
            from graphlearn.models.net3.tasks import make_training

            graphs = {}
            for mode in self.artifact.manifest["graphs"]:
                table = pq.read_table(self.artifact.path / f"graph_{mode}.parquet")
                graphs[int(mode)] = tuple(table.column(i).to_numpy() for i in range(3))
            made = make_training(
                self.series.values,
                graphs,
                model_options(self.options),
                calendar_of(self.series.axis, self.options),
                fitted=load_file(self.artifact.path / "weights.safetensors"),
            )
            assert isinstance(made, ForecastTraining)
            self._training = made
        return self._training

    def intervals(self) -> Conformal:
        """What the stored validation residuals say."""
        from safetensors.numpy import load_file

        from graphlearn.models.net3.conformal import Conformal

        found = load_file(self.artifact.path / "intervals.safetensors")
        return Conformal([found[f"step_{h}"] for h in range(1, len(found) + 1)])

    def open(self, question: Question) -> ArrowSource:
        options = question.options
        if question.function == "evaluate":
            rows = read_metrics(self.artifact.path / METRICS)
            return ArrowSource(SCHEMA, lambda: iter(metrics_table(rows, _protocol(rows)).to_batches()))
        _check_level(options["level"])
        _check_task(question.function, self.options)
        schema = _schema(question.function, _axis_field(self.series), *_key_fields(self.series), _value(self.series))
        if question.function == "recover":
            return ArrowSource(
                schema, lambda: self._recover(schema, bool(options["every"]), float(options["level"]), question.warn)
            )
        end = self._end(question)
        steps = int(options["horizon"] or self.options.horizon)
        self._check_horizon(end, steps)
        return ArrowSource(schema, lambda: self._forecast(schema, end, steps, float(options["level"]), question.warn))

    def _check_horizon(self, end: int, steps: int) -> None:
        """Raise for more steps than memory holds, and for a time that its type cannot hold."""
        series, free = self.series.values[0].size, memory_available()
        if _COPIES * 4 * steps * series > free:
            raise OptionError(
                f"{steps:,} steps of {series:,} series need {_COPIES * 4 * steps * series / (1 << 20):,.0f} MiB, and "
                f"{free / (1 << 20):,.0f} MiB of memory is free",
                key="horizon",
                help="ask for fewer steps",
            )
        self.series.axis.stamps(end + steps, 1)

    def _end(self, question: Question) -> int:
        """The last step that a forecast may see."""
        last = len(self.series.axis) - 1
        if question.options["at"] is None:
            return last
        cursor = question.cursor()
        try:
            end = self.series.axis.position(cursor, question.options["at"])
        finally:
            cursor.close()
        if not 0 <= end <= last:
            first, final = (self.series.axis.stamps(k, 1)[0].as_py() for k in (0, last))
            raise OptionError(
                f"at lies outside the series, which runs from {first} to {final}",
                key="at",
                help="leave at out to forecast what follows the series",
            )
        return end

    def _forecast(self, schema: pa.Schema, end: int, steps: int, level: float, warn: Warn) -> Iterator[pa.RecordBatch]:
        training = self.training
        scale, W = training.scaler.scale, self.options.window
        predicted = training.forecast(np.array([end + 1 - W]), steps)
        conformal = self.intervals()
        if steps > len(conformal.sorted_residuals):
            conformal = self._far_intervals(steps)
        _warn_of_few(conformal, level, warn)
        lower, upper = conformal.interval(predicted, scale, level)
        stamps = self.series.axis.stamps(end + 1, steps)
        for h in range(steps):
            times = stamps.take(pa.array(np.full(scale.size, h)))
            yield from self._batches(
                schema, times, predicted[0, h], lower[0, h], upper[0, h], np.full(scale.size, h + 1)
            )

    def _far_intervals(self, steps: int) -> Conformal:
        """Intervals of steps beyond the horizon: the model forecasts the validation part from its own forecasts."""
        from graphlearn.models.net3.conformal import Conformal
        from graphlearn.models.net3.tensor import gather

        training, W = self.training, self.options.window
        lo, hi = training.split.span(Split.VALID)
        starts = np.arange(max(0, lo - W), max(0, hi - W))
        starts = (
            starts[np.unique(np.linspace(0, len(starts) - 1, min(ORIGINS, len(starts))).astype(int))]
            if len(starts)
            else starts
        )
        found: list[list[FloatArray]] = [[] for _ in range(steps)]
        ahead = min(steps, hi - lo)  # further ones lie beyond the part, wherever they start
        for first in range(0, len(starts), 16):
            chosen = starts[first : first + 16]
            residual = np.abs(training.forecast(chosen, ahead) - gather(self.series.values, chosen, ahead, W))
            for h in range(ahead):
                inside = chosen + W + h < hi
                found[h].append((residual[inside, h] / training.scaler.scale).ravel())
        return Conformal.fit([np.concatenate(f) if f else np.zeros(0, np.float32) for f in found])

    def _recover(self, schema: pa.Schema, every: bool, level: float, warn: Warn) -> Iterator[pa.RecordBatch]:
        values = self.series.values
        filled = np.load(self.artifact.path / RECOVERED, mmap_mode="r")
        from safetensors.numpy import load_file

        scale = load_file(self.artifact.path / "weights.safetensors")["scaler.scale"]
        conformal = self.intervals()
        _warn_of_few(conformal, level, warn)
        half = float(conformal.half_width(level)[0]) * scale
        stamps = self.series.axis.stamps()
        size = max(1, ROWS // max(1, scale.size))
        for lo in range(0, len(values), size):
            known = np.isfinite(values[lo : lo + size])
            wanted = np.ones_like(known) if every else ~known
            if not wanted.any():
                continue
            block = np.asarray(filled[lo : lo + size])
            where = np.nonzero(wanted)
            times = stamps.take(pa.array(where[0] + lo))
            bounds = (block - half)[where], (block + half)[where]
            yield self._batch(schema, times, where[1:], block[where], *bounds, known[where])

    def _batches(
        self, schema: pa.Schema, times: pa.Array, value: FloatArray, lower: FloatArray, upper: FloatArray, last: Any
    ) -> Iterator[pa.RecordBatch]:
        where = np.unravel_index(np.arange(value.size), value.shape)
        for lo in range(0, value.size, ROWS):
            part = slice(lo, lo + ROWS)
            ids = tuple(i[part] for i in where)
            flat = value.reshape(-1)[part], lower.reshape(-1)[part], upper.reshape(-1)[part]
            yield self._batch(schema, times.slice(lo, ROWS), ids, *flat, last[part])

    def _batch(
        self, schema: pa.Schema, times: pa.Array, ids: tuple[Any, ...], value: Any, lower: Any, upper: Any, last: Any
    ) -> pa.RecordBatch:
        keys = [mode.keys.take(i) for mode, i in zip(self.series.modes, ids, strict=True) if mode.name is not None]
        numbers = [pa.array(x, mask=~np.isfinite(x)) for x in (value, lower, upper)]
        columns = [times, *keys, *numbers, pa.array(last)]
        return pa.record_batch(
            [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
        )


def describe_unborn(options: Net3JobOptions, columns: dict[str, str], question: Question) -> ArrowSource:
    """A call on a model that an earlier statement will create: right columns, no rows."""
    if question.function == "evaluate":
        return ArrowSource(SCHEMA, lambda: iter(()))
    _check_level(question.options["level"])
    _check_task(question.function, options)
    time, modes, value = resolve_columns(columns, options)
    named = {name.lower(): kind for name, kind in columns.items()}
    stamps = named[time.lower()]
    connection = question.cursor()
    try:
        if options.freq is not None:
            stamps = axis_type(stamps, read_freq(connection, options.freq, stamps))
        axis = connection.sql(f"SELECT NULL::{stamps} AS t").to_arrow_table().schema.field(0)
    finally:
        connection.close()
    keys = [key_field(named[mode.lower()]).with_name(mode) for mode in modes]
    schema = _schema(question.function, axis.with_name(time), *keys, pa.field(value, pa.float32()))
    return ArrowSource(schema, lambda: iter(()))


def _schema(function: str, time: pa.Field, *rest: pa.Field) -> pa.Schema:
    taken = {f.name.lower() for f in (time, *rest)}
    last = pa.field("step", pa.int32()) if function == "forecast" else pa.field("observed", pa.bool_())
    ours = [pa.field("lower", pa.float32()), pa.field("upper", pa.float32()), last]
    named = []
    for field in ours:
        name = field.name
        while name in taken:
            name = f"{function}_{name}"
        taken.add(name)
        named.append(field.with_name(name))
    return pa.schema([f.with_nullable(True) for f in (time, *rest, *named)])


def _axis_field(series: SeriesTensor) -> pa.Field:
    return pa.field(series.time_name, series.axis.stamps(0, 1).type)


def _key_fields(series: SeriesTensor) -> list[pa.Field]:
    return [mode.keys.field.with_name(mode.name) for mode in series.modes if mode.name is not None]


def _value(series: SeriesTensor) -> pa.Field:
    return pa.field(series.value_name, pa.float32())


def _protocol(rows: list[dict[str, Any]]) -> str:
    return str(rows[0]["protocol"]) if rows else ""


def _warn_of_few(conformal: Conformal, level: float, warn: Warn) -> None:
    """Say why intervals are missing."""
    known = [len(row) for row in conformal.sorted_residuals]
    missing = [n for n, half in zip(known, conformal.half_width(level), strict=True) if half == np.inf]
    if missing:
        needed = math.ceil(level / (1 - level) - 1e-9)
        warn(
            f"no interval for {len(missing):,} of {len(known):,} steps: level {level:g} takes {needed:,} known cells "
            f"of the validation part, and there are {min(missing):,}"
        )


def _check_level(level: Any) -> None:
    if not 0 < float(level) < 1:
        raise OptionError(f"level must lie between 0 and 1, not {level}", key="level", help="for example level := 0.9")


def _check_task(function: str, options: Net3JobOptions) -> None:
    if function != options.task:
        raise UserError(
            f"the model was made to {options.task}, not to {function}",
            help=f"make one with OPTIONS (task = '{function}', …)",
        )
