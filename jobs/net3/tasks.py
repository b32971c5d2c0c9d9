"""The tasks of a run: the series as a tensor, graphs of its modes, baselines, training, evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError, OptionError
from graphlearn.events import Emit, Evaluated, Note, PhaseAdvanced, PhaseStarted
from graphlearn.jobs.dataflow import Data, Needs, Task
from graphlearn.jobs.machine import memory_available
from graphlearn.jobs.metrics import TOO_FEW, MetricTable
from graphlearn.jobs.net3.baselines import MEASURED, block_of
from graphlearn.jobs.net3.calendar import season_lengths
from graphlearn.jobs.net3.metrics import METHOD, NET3_METRICS, BySplit, compared, headline, metric_rows
from graphlearn.jobs.net3.options import Net3JobOptions, model_options
from graphlearn.jobs.net3.parts import Intervals, ModeGraphs, Recovered, SeriesErrors
from graphlearn.jobs.train import ANYWHERE, Evaluation, Train, check_unchanged
from graphlearn.models.net3.data.graphs import chain, identity, pearson
from graphlearn.models.net3.data.tensor import blocks
from graphlearn.models.net3.data.time_split import TimeSplit
from graphlearn.models.net3.options import Net3Options
from graphlearn.storage.columns import describe
from graphlearn.storage.series.graph import encode_mode_graph
from graphlearn.storage.series.ingest import encode_series
from graphlearn.storage.series.source import check_series_columns
from graphlearn.text import counted
from graphlearn.types import FloatArray, Split

if TYPE_CHECKING:
    from graphlearn.jobs.execute import Context
    from graphlearn.jobs.loop import Loop
    from graphlearn.models.net3.network.mode_products import Graph
    from graphlearn.models.net3.training.training import SeriesTraining
    from graphlearn.storage.series.axis import TimeAxis
    from graphlearn.storage.series.tensor import SeriesTensor

TABLE = MetricTable(
    keys=(pa.field("method", pa.string()), pa.field("split", pa.string()), pa.field("step", pa.int32())),
    metrics=NET3_METRICS,
    count="cells",
)
"""Metrics of the model and of every baseline by split and step ahead; step NULL is all steps together."""
SeriesColumns: TypeAlias = tuple[str, tuple[str, ...], str]
"""Columns of a series: its time, its modes, its value."""
LONGEST = 200
"""Steps of the longest window that is recommended."""


def protocol(options: Net3Options) -> str:
    """A sentence on how the metrics were measured."""
    if options.task == "recover":
        return f"{options.hidden:.0%} of the known cells held out at random, half of them for the test"
    return "each step ahead of every window in the split, forecast from known values only"


@dataclass(frozen=True, kw_only=True)
class ScanSeries(Task):
    """Check that the query still has the columns it was bound with."""

    needs: ClassVar[Needs] = Needs(database=True)

    sql: str
    columns: SeriesColumns

    def run(self, data: Data, context: Context) -> Data:  # noqa: ARG002
        check_series_columns(describe(context.cursor, self.sql), *self.columns)
        return {"query": self.sql}


@dataclass(frozen=True, kw_only=True)
class EncodeSeries(Task):
    """Turn rows into the tensor. Raises InputError if the rows have changed since they were measured."""

    needs: ClassVar[Needs] = Needs(database=True)

    columns: SeriesColumns
    options: Net3JobOptions
    fingerprint: str

    def run(self, data: Data, context: Context) -> Data:
        options, (time, modes, value) = self.options, self.columns
        series = encode_series(
            context.cursor,
            data["query"],
            time=time,
            modes=modes,
            value=value,
            freq=options.freq,
            aggregate=options.aggregate,
            start=options.start,
            limit=memory_available(),
            folder=context.folder,
            emit=context.emit,
        )
        check_unchanged(series.fingerprint, self.fingerprint, "series")
        if options.task == "forecast":
            split = TimeSplit.of(len(series.axis), options.split)
            series = replace(series, borders=(split.train_end, split.valid_end))
        return {"series": series, "values": series.values, "axis": series.axis}

    def describe(self, outputs: Data) -> str:
        line: str = outputs["series"].report.line()
        return line


@dataclass(frozen=True, kw_only=True)
class ReadGraphs(Task):
    """The edges of every mode that has a graph: from its edge table (role -> SQL), or generated.

    `fingerprints`: of the inputs, by role. Raises InputError if the rows have changed since they were measured.
    """

    needs: ClassVar[Needs] = Needs(database=True)

    queries: Mapping[str, str]
    fingerprints: Mapping[str, str]
    options: Net3JobOptions
    modes: tuple[str, ...]

    def run(self, data: Data, context: Context) -> Data:
        series: SeriesTensor = data["series"]
        found: dict[int, Graph] = {}
        for role, sql in self.queries.items():
            mode = series.mode(role)
            graph = encode_mode_graph(context.cursor, sql, series.modes[mode], role=role, emit=context.emit)
            check_unchanged(graph.fingerprint, self.fingerprints[role], role)
            found[mode] = (graph.source, graph.target, graph.weight)
        for name, kind in self.options.graphs.items():
            found[series.mode(name)] = self._generated(series, series.mode(name), kind)
        return {"graphs": ModeGraphs(found)}

    def _generated(self, series: SeriesTensor, mode: int, kind: str) -> Graph:
        n = len(series.modes[mode])
        if kind == "pearson":
            stop = TimeSplit.of(len(series.axis), self.options.split).train_end
            built = pearson(series.values, mode, slice(0, stop), top_k=self.options.neighbours)
        else:
            built = chain(n) if kind == "chain" else identity(n)
        return built.source, built.target, built.weight

    def describe(self, outputs: Data) -> str:
        edges: Mapping[int, Graph] = outputs["graphs"].edges
        return ", ".join(f"{self.modes[mode]}: {len(graph[0]):,} edges" for mode, graph in edges.items())


@dataclass(frozen=True, kw_only=True)
class PrepareNet3(Task):
    """Everything that is fitted in closed form: scale, seasonal means, linear AR or low-rank completion."""

    needs: ClassVar[Needs] = ANYWHERE

    options: Net3JobOptions

    def run(self, data: Data, context: Context) -> Data:
        from graphlearn.jobs.net3.calendar import calendar_of
        from graphlearn.models.core.device import choose_device
        from graphlearn.models.core.threads import threads
        from graphlearn.models.net3.training.make import make_training, number_of_fits

        choose_device(self.options.device)  # raises before anything is fitted
        values, axis = data["values"], data["axis"]
        calendar, options = calendar_of(axis, self.options), model_options(self.options)
        context.emit(PhaseStarted(phase="prepare", total=number_of_fits(options, values.shape, calendar), unit="fits"))
        if not np.isfinite(values).any():
            raise InputError("the series has no known value", role="series", help="check the value column for NULLs")
        self._warn_of_unseen(values, context.emit)
        done = count(1)

        def fitted() -> None:
            context.emit(PhaseAdvanced(phase="prepare", done=next(done)))

        with threads(self.options.threads):
            training = make_training(values, data["graphs"].edges, options, calendar, advance=fitted)
        if not any(training.windows(split) for split in MEASURED):
            message = "the validation and test splits have no window, so nothing is measured"
            context.emit(Note(message=message, level="warning"))
        return {"training": training}

    def _warn_of_unseen(self, values: FloatArray, emit: Emit) -> None:
        """Warn about series without readings in the train split, whose forecasts will be poor."""
        if self.options.task == "recover":
            return
        stop = TimeSplit.of(len(values), self.options.split).train_end
        seen = np.zeros(values.shape[1:], np.bool_)
        for _, block in blocks(values, stop):
            seen |= np.isfinite(block).any(axis=0)
        missing = int(np.count_nonzero(~seen))
        if missing and missing < seen.size:
            message = f"{counted(missing, 'series')} without readings in the train split: their forecasts will be poor"
            emit(Note(message=message, level="warning"))
        elif missing:
            raise InputError(
                "the train split has no readings", role="series", help="enlarge the first fraction of split"
            )


@dataclass(frozen=True, kw_only=True)
class TrainNet3(Train):
    """Train the network."""

    def loop(self, data: Data, context: Context) -> Loop:
        from graphlearn.jobs.net3.training import Net3Loop

        return Net3Loop(data["training"], context.checkpoints, context.run, context.emit)


@dataclass(frozen=True, kw_only=True)
class EvaluateNet3(Task):
    """Compare the best weights with the baselines; calibrate intervals and, in a recovery, compute all cells."""

    needs: ClassVar[Needs] = ANYWHERE

    options: Net3JobOptions

    def run(self, data: Data, context: Context) -> Data:
        from graphlearn.models.core.threads import threads

        training: SeriesTraining = data["trained"]
        baselines: Mapping[str, BySplit] = data.get("baselines", {})
        context.emit(PhaseStarted(phase="evaluate"))
        rows: list[dict[str, Any]] = []
        outputs: Data = {}
        with threads(self.options.threads):
            intervals = training.conformal()
            blocks = {split: block_of(training, data["axis"], split) for split in MEASURED}
            ours = {split: training.evaluate(split, intervals, blocks[split]) for split in MEASURED}
            outputs["intervals"] = Intervals(intervals)
            if self.options.task == "recover":
                outputs["recovered"] = Recovered.by(training)
        for split, metrics in ours.items():
            found = metric_rows(METHOD, str(split), metrics)
            rows += found
            if found:
                figures = {k: v for k, v in headline(found, METHOD).items() if k != "count"}
                context.emit(Evaluated(epoch=0, split=str(split), metrics=figures))
        rows += [row for name, by in baselines.items() for s, m in by.items() for row in metric_rows(name, str(s), m)]
        verdict = compared(ours, baselines, advice(data["axis"], self.options), cut=bool(data.get("cuts")))
        if verdict is not None:
            context.emit(Note(message=verdict.sentence, level=verdict.level))
        split = Split.TEST if ours[Split.TEST].total["cells"] else Split.VALID
        best = {verdict.best: baselines[verdict.best][split]} if verdict is not None else {}
        sums = {name: metrics.series for name, metrics in ({METHOD: ours[split]} | best).items()}
        outputs["series_errors"] = SeriesErrors(str(split), sums)
        few = int(np.count_nonzero(sums[METHOD][:, 0] < TOO_FEW))
        if few:
            what = "test" if split == Split.TEST else "validation"
            message = f"{few:,} of {counted(len(sums[METHOD]), 'series')} have fewer than {TOO_FEW} {what} readings: "
            context.emit(Note(message=message + "judge them together, not one by one"))
        sentence = verdict.sentence if verdict is not None else ""
        return {**outputs, "evaluation": Evaluation(headline(rows, METHOD), rows, protocol(self.options), sentence)}


def advice(axis: TimeAxis, options: Net3JobOptions) -> str:
    """What to try when a baseline is as good."""
    train = round(len(axis) * (1.0 if options.task == "recover" else options.split[0]))
    longer = [n for n in season_lengths(axis) if options.window < n <= LONGEST and 4 * n <= train]
    window = f"window = {max(longer)}, which is a whole season" if longer else "another window"
    return f"use the baseline, or try {window}, other graphs or more epochs"


def check_length(steps: int, options: Net3JobOptions) -> None:
    """Raise InputError if no window fits into the train split, OptionError if no horizon fits into the test split."""
    if options.task == "recover":
        return
    split = TimeSplit.of(steps, options.split)
    needed, train = options.window + options.horizon, split.train_end
    if train < needed:
        raise InputError(
            f"the train split has {train:,} of {steps:,} time steps, but a window of {options.window} with a horizon "
            f"of {options.horizon} needs {needed}",
            role="series",
            help="shorten window or horizon, give more time steps, or change split",
        )
    test = split.length - split.valid_end
    if options.split[2] and test < options.horizon:
        share = math.ceil(100 * options.horizon / steps + 0.5) / 100
        enlarged = f", or enlarge the test split, e.g. split = [{0.9 - share:.2f}, 0.10, {share:.2f}]"
        raise OptionError(
            f"horizon = {options.horizon} is longer than the test split, which has {test:,} of {steps:,} time steps",
            key="horizon",
            help=f"use horizon = {max(1, test)} or less{enlarged if share < 0.5 else ''}",
        )
