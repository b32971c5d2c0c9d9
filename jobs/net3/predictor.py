"""Answers of a stored time series model: forecast, recover, evaluate. For columns see shape.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphlearn.jobs.family import Predictor, Question, Warn
from graphlearn.jobs.metrics import read_metrics
from graphlearn.jobs.net3.calendar import calendar_of
from graphlearn.jobs.net3.options import Net3JobOptions, model_options
from graphlearn.jobs.net3.parts import read_graphs, read_intervals, read_recovered
from graphlearn.jobs.net3.shape import Net3Shape
from graphlearn.jobs.train import WEIGHTS
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.series.tensor import read_series
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
            return iter(pa.Table.from_pylist(read_metrics(self.artifact.path), schema=schema).to_batches())
        level = float(options["level"])
        if question.function == "recover":
            return self.recover(schema, every=bool(options["every"]), level=level, warn=warn)
        return self.forecast(schema, self.shape.last_step(options["at"]), self.shape.steps(question), level, warn)

    @cached_property
    def training(self) -> ForecastTraining:
        """The model, ready to forecast, on the stored series."""
        from safetensors.torch import load_file

        from graphlearn.models.net3.training.forecast import ForecastTraining
        from graphlearn.models.net3.training.make import make_training

        made = make_training(
            self.series.values,
            read_graphs(self.artifact),
            model_options(self.options),
            calendar_of(self.series.axis, self.options),
            fitted=load_file(self.artifact.path / WEIGHTS),
        )
        assert isinstance(made, ForecastTraining)
        return made

    @cached_property
    def scale(self) -> FloatArray:
        """The standard deviation of every series, which turns z-scores into its units. shape: [N1, ..., NM]"""
        from safetensors import safe_open

        with safe_open(self.artifact.path / WEIGHTS, "np") as weights:
            found: FloatArray = weights.get_tensor("scaler.scale")
        return found

    @cached_property
    def intervals(self) -> Conformal:
        """Prediction intervals up to the horizon, from the stored residuals."""
        return read_intervals(self.artifact.path)

    def forecast(self, schema: pa.Schema, end: int, steps: int, level: float, warn: Warn) -> Iterator[pa.RecordBatch]:
        """Every series at the steps that follow step `end`, by step and then in key order."""
        scale = self.training.scaler.scale
        predicted = self.training.forecast(np.array([end + 1 - self.options.window]), steps)
        conformal = self.intervals
        if steps > len(conformal.sorted_residuals):
            conformal = self._far_intervals(steps)
        _warn_of_few(conformal, level, warn)
        lower, upper = conformal.interval(predicted, scale, level)
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

    def _far_intervals(self, steps: int) -> Conformal:
        """Intervals of steps beyond the horizon: the model forecasts the validation split from its own forecasts."""
        from graphlearn.models.net3.conformal import Conformal
        from graphlearn.models.net3.data.tensor import gather

        training, W = self.training, self.options.window
        lo, hi = training.split.span(Split.VALID)
        starts = np.arange(max(0, lo - W), max(0, hi - W))
        if len(starts):
            starts = starts[np.unique(np.linspace(0, len(starts) - 1, min(ORIGINS, len(starts))).astype(int))]
        found: list[list[FloatArray]] = [[] for _ in range(steps)]
        ahead = min(steps, hi - lo)  # further steps are beyond the split for any start
        for first in range(0, len(starts), 16):
            chosen = starts[first : first + 16]
            residual = np.abs(training.forecast(chosen, ahead) - gather(self.series.values, chosen, ahead, W))
            for h in range(ahead):
                inside = chosen + W + h < hi
                found[h].append((residual[inside, h] / training.scaler.scale).ravel())
        return Conformal.fit([np.concatenate(f) if f else np.zeros(0, np.float32) for f in found])

    def recover(self, schema: pa.Schema, *, every: bool, level: float, warn: Warn) -> Iterator[pa.RecordBatch]:
        """The missing cells, or every cell, by step and then in key order."""
        values, filled = self.series.values, read_recovered(self.artifact.path)
        _warn_of_few(self.intervals, level, warn)
        half = float(self.intervals.half_width(level)[0]) * self.scale
        stamps = self.series.axis.stamps()
        size = max(1, ROWS // max(1, half.size))
        for lo in range(0, len(values), size):
            known = np.isfinite(values[lo : lo + size])
            wanted = np.ones_like(known) if every else ~known
            if not wanted.any():
                continue
            block = np.asarray(filled[lo : lo + size])
            where = np.nonzero(wanted)
            times = stamps.take(pa.array(where[0] + lo))
            numbers = [block[where], (block - half)[where], (block + half)[where]]
            yield self._batch(schema, times, where[1:], numbers, known[where])

    def _batch(
        self, schema: pa.Schema, times: pa.Array, ids: tuple[Any, ...], numbers: list[FloatArray], last: Any
    ) -> pa.RecordBatch:
        keys = [mode.keys.take(i) for mode, i in zip(self.series.modes, ids, strict=True) if mode.name is not None]
        columns = [times, *keys, *(pa.array(x, mask=~np.isfinite(x)) for x in numbers), pa.array(last)]
        return pa.record_batch(
            [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
        )


def _warn_of_few(conformal: Conformal, level: float, warn: Warn) -> None:
    """Warn about missing intervals, with the reason."""
    known = [len(row) for row in conformal.sorted_residuals]
    missing = [n for n, half in zip(known, conformal.half_width(level), strict=True) if half == np.inf]
    if missing:
        needed = math.ceil(level / (1 - level) - 1e-9)
        warn(
            f"no interval for {len(missing):,} of {len(known):,} steps: level {level:g} takes {needed:,} known cells "
            f"of the validation split, and there are {min(missing):,}"
        )
