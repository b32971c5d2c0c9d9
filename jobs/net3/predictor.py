"""Answers of a stored time series model: forecast, recover, evaluate. For columns see shape.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphlearn.jobs.family import Predictor, Question, Warn
from graphlearn.jobs.metrics import TOO_FEW, read_metrics
from graphlearn.jobs.net3.calendar import calendar_of
from graphlearn.jobs.net3.metrics import FIGURES
from graphlearn.jobs.net3.options import Net3JobOptions, model_options
from graphlearn.jobs.net3.parts import read_graphs, read_intervals, read_recovered, read_series_errors
from graphlearn.jobs.net3.shape import Net3Shape
from graphlearn.jobs.train import WEIGHTS
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.series.tensor import read_series
from graphlearn.storage.stored import check_array, check_sizes, damaged_if_unreadable, read_tensors
from graphlearn.text import counted
from graphlearn.types import FloatArray, Split

if TYPE_CHECKING:
    from graphlearn.models.net3.conformal import Conformal
    from graphlearn.models.net3.training.forecast import ForecastTraining

ROWS = 1 << 17
"""Rows per batch of answers."""
ORIGINS = 256
"""The number of validation forecasts that calibrate intervals of steps beyond the horizon."""


class Net3Predictor(Predictor):
    """A stored version. Series and weights are read on first use."""

    shape: Net3Shape

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.options = Net3JobOptions.stored(artifact.manifest["options"])
        self.series = read_series(artifact.path)
        options = self.options
        bounded = options.horizon, options.learnt_rank, options.rank
        check_sizes(artifact.path / WEIGHTS, ("model", "scaler", "chosen"), options.dim, bounded=bounded)
        self.shape = Net3Shape.of_series(self.series, self.options)

    def answer(
        self,
        question: Question,
        batches: Iterable[pa.RecordBatch],  # noqa: ARG002, none of its functions takes a relation
        schema: pa.Schema,
        warn: Warn,
    ) -> Iterator[pa.RecordBatch]:
        options = question.options
        if question.function == "evaluate":
            return self._by_series(schema) if options["by"] == "series" else self._by_step(schema)
        level = float(options["level"])
        if question.function == "recover":
            return self.recover(schema, every=bool(options["every"]), level=level, warn=warn)
        return self.forecast(schema, self.shape.last_step(options["at"]), self.shape.steps(question), level, warn)

    @cached_property
    def training(self) -> ForecastTraining:
        """The model, ready to forecast, on the stored series."""
        from graphlearn.models.net3.training.forecast import ForecastTraining
        from graphlearn.models.net3.training.make import make_training

        graphs, weights = read_graphs(self.artifact, self.series.values.shape[1:]), self.artifact.path / WEIGHTS
        options, calendar = model_options(self.options), calendar_of(self.series.axis, self.options)
        fitted = read_tensors(weights, "pt")
        with damaged_if_unreadable(weights, "file"):
            made = make_training(self.series.values, graphs, options, calendar, fitted=fitted)
        assert isinstance(made, ForecastTraining)
        return made

    @cached_property
    def scale(self) -> FloatArray:
        """The standard deviation of every series, which turns z-scores into its units. shape: [N1, ..., NM]"""
        path = self.artifact.path / WEIGHTS
        found: FloatArray = read_tensors(path, "np").get("scaler.scale", np.zeros(0))
        with damaged_if_unreadable(path, "file"):
            check_array(found, "scaler.scale", np.float32, *self.series.values.shape[1:])
        return found

    @cached_property
    def intervals(self) -> Conformal:
        """Prediction intervals up to the horizon, from the stored residuals."""
        return read_intervals(self.artifact.path, self.series.values.shape[1:])

    def forecast(self, schema: pa.Schema, end: int, steps: int, level: float, warn: Warn) -> Iterator[pa.RecordBatch]:
        """Every series at the steps that follow step `end`, by step and then in key order."""
        training, start = self.training, end + 1 - self.options.window
        self._warn_of_unknown(end, warn)
        scale = training.scaler.scale
        predicted = training.forecast(np.array([start]), steps)
        spread, conformal = training.spreads(np.array([start])), self.intervals
        if steps > len(conformal.scores):
            spread, conformal = self._far(spread, steps)
        _warn_of_few(conformal, level, warn)
        lower, upper = conformal.interval(predicted, spread[:, :steps], scale, level)
        predicted = conformal.clip(predicted)
        stamps = self.series.axis.stamps(end + 1, steps)
        places = np.unravel_index(np.arange(scale.size), scale.shape)
        for h in range(steps):
            numbers = [of_step[0, h].reshape(-1) for of_step in (predicted, lower, upper)]
            for lo in range(0, scale.size, ROWS):
                ids = tuple(place[lo : lo + ROWS] for place in places)
                count = len(ids[0])
                times = stamps.take(pa.array(np.full(count, h)))
                last = np.full(count, h + 1)
                yield self._batch(schema, times, ids, [column[lo : lo + ROWS] for column in numbers], last)

    def _warn_of_unknown(self, end: int, warn: Warn) -> None:
        """Warn about series of which little or nothing is known in the window that a forecast reads."""
        W = self.options.window
        first, at = max(0, end + 1 - W), self.series.axis.stamps(end, 1)[0]
        known = np.isfinite(np.asarray(self.series.values[first : end + 1])).sum(axis=0)
        none, few = int(np.count_nonzero(known == 0)), int(np.count_nonzero((known > 0) & (2 * known < W)))
        window = f"the window of {counted(W, 'step')} up to {at}"
        if end + 1 < W:
            warn(f"only {end + 1:,} of the {W:,} steps of the window up to {at} are in the series")
        elif none:
            warn(
                f"{none:,} of {counted(known.size, 'series')} have no reading in {window}: their forecasts are little "
                "more than seasonal means"
            )
        elif few:
            warn(f"{few:,} of {counted(known.size, 'series')} have readings in less than half of {window}")

    def _far(self, spread: FloatArray, steps: int) -> tuple[FloatArray, Conformal]:
        """Intervals of steps beyond the horizon: the model forecasts the validation split from its own forecasts.

        All of these steps have the spread of the last step of the horizon.
        """
        from graphlearn.models.net3.conformal import Conformal
        from graphlearn.models.net3.data.tensor import gather

        training, W = self.training, self.options.window
        lo, hi = training.split.span(Split.VALID)
        origins = np.arange(max(0, lo - W), max(0, hi - W))
        if len(origins):
            origins = origins[np.unique(np.linspace(0, len(origins) - 1, min(ORIGINS, len(origins))).astype(int))]
        found: list[list[FloatArray]] = [[] for _ in range(steps)]
        ahead = min(steps, hi - lo)  # further steps are beyond the split for any start
        for first in range(0, len(origins), 16):
            chosen = origins[first : first + 16]
            residual = np.abs(training.forecast(chosen, ahead) - gather(self.series.values, chosen, ahead, W))
            scored = residual / training.scaler.scale / self._extended(training.spreads(chosen), ahead)
            for h in range(ahead):
                found[h].append(scored[chosen + W + h < hi, h].ravel())
        scores = [np.concatenate(f) if f else np.zeros(0, np.float32) for f in found]
        return self._extended(spread, steps), Conformal.fit(scores, floor=self.intervals.floor)

    @staticmethod
    def _extended(spread: FloatArray, steps: int) -> FloatArray:
        """With the spread of the last step for further steps. shape: [B, H, N...] -> [B, steps, N...]"""
        return spread[:, np.minimum(np.arange(steps), spread.shape[1] - 1)]

    def _by_step(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The stored metrics."""
        return iter(pa.Table.from_pylist(read_metrics(self.artifact.path), schema=schema).to_batches())

    def _by_series(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The metrics of each series, of the model and then of the best baseline."""
        from graphlearn.models.net3.metrics import figures

        shape = self.series.values.shape[1:]
        for method, split, sums in read_series_errors(self.artifact.path, math.prod(shape)):
            found, cells = figures(sums), sums[:, 0]
            for lo in range(0, len(sums), ROWS):
                part = slice(lo, lo + ROWS)
                ids = np.unravel_index(np.arange(lo, min(lo + ROWS, len(sums))), shape)
                keys = [m.keys.take(i) for m, i in zip(self.series.modes, ids, strict=True) if m.name is not None]
                count = len(ids[0])
                columns = [
                    pa.array([method] * count), pa.array([split] * count), *keys,
                    *(pa.array(found[name][part], mask=~np.isfinite(found[name][part])) for name in FIGURES),
                    pa.array(cells[part].astype(np.int64)), pa.array(cells[part] < TOO_FEW),
                    pa.array([self.artifact.manifest.get("protocol")] * count),
                ]  # fmt: skip
                yield _record_batch(columns, schema)

    def recover(self, schema: pa.Schema, *, every: bool, level: float, warn: Warn) -> Iterator[pa.RecordBatch]:
        """The missing cells, or every cell, by step and then in key order."""
        values, filled = self.series.values, read_recovered(self.artifact.path, self.series.values.shape)
        _warn_of_few(self.intervals, level, warn)
        intervals, scale = self.intervals, self.scale
        assert intervals.spread is not None
        stamps = self.series.axis.stamps()
        size = max(1, ROWS // max(1, scale.size))
        for lo in range(0, len(values), size):
            known = np.isfinite(values[lo : lo + size])
            wanted = np.ones_like(known) if every else ~known
            if not wanted.any():
                continue
            block = np.asarray(filled[lo : lo + size])
            lower, upper = (x[:, 0] for x in intervals.interval(block[:, None], intervals.spread, scale, level))
            where = np.nonzero(wanted)
            times = stamps.take(pa.array(where[0] + lo))
            numbers = [block[where], lower[where], upper[where]]
            yield self._batch(schema, times, where[1:], numbers, known[where])

    def _batch(
        self, schema: pa.Schema, times: pa.Array, ids: tuple[Any, ...], numbers: list[FloatArray], last: Any
    ) -> pa.RecordBatch:
        keys = [mode.keys.take(i) for mode, i in zip(self.series.modes, ids, strict=True) if mode.name is not None]
        columns = [times, *keys, *(pa.array(x, mask=~np.isfinite(x)) for x in numbers), pa.array(last)]
        return _record_batch(columns, schema)


def _record_batch(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """The columns, cast to the types of the schema."""
    return pa.record_batch(
        [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
    )


def _warn_of_few(conformal: Conformal, level: float, warn: Warn) -> None:
    """Warn about missing intervals, with the reason."""
    known = [len(row) for row in conformal.scores]
    missing = [n for n, wide in zip(known, conformal.quantile(level), strict=True) if wide == np.inf]
    if missing:
        needed = math.ceil(level / (1 - level) - 1e-9)
        warn(
            f"no interval for {len(missing):,} of {len(known):,} steps: level {level:g} takes {needed:,} known cells "
            f"of the validation split, and there are {min(missing):,}"
        )
