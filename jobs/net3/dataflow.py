"""Tensor time series as a dataflow: scan -> encode -> graphs -> prepare -> train -> evaluate -> publish."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphlearn.errors import InputError
from graphlearn.events import Emit, Evaluated, Note, PhaseStarted
from graphlearn.jobs.create import Bound, ModelRequest
from graphlearn.jobs.dataflow import Data, Dataflow, Estimate, Operator
from graphlearn.jobs.families import Family, RoleSpec
from graphlearn.jobs.kge.dataflow import BASE_MEMORY
from graphlearn.jobs.machine import gemm_flops, memory_available
from graphlearn.jobs.net3.options import Net3JobOptions, check_modes, model_options, resolve_columns
from graphlearn.storage.columns import describe, find_column
from graphlearn.storage.files import disk_errors
from graphlearn.storage.series.graph import check_graph_columns, encode_mode_graph
from graphlearn.storage.series.ingest import check_series_columns, encode_series
from graphlearn.storage.series.sizes import measure_series
from graphlearn.text import counted

if TYPE_CHECKING:
    from graphlearn.jobs.functions import ArrowSource, FunctionSpec, LoadedModel, Question
    from graphlearn.models.net3.mode_products import Graph
    from graphlearn.models.net3.options import Net3Options
    from graphlearn.models.net3.training import SeriesTraining
    from graphlearn.storage.artifacts import Artifact
    from graphlearn.storage.series.ingest import SeriesTensor

METHOD = "net3"


def protocol(options: Net3Options) -> str:
    """How the metrics were measured, in a sentence."""
    if options.task == "recover":
        return f"{options.hidden:.0%} of the known cells held out at random, half of them for the test"
    return "each step ahead of every window in the part, forecast from known values only"


class Net3Family(Family):
    """TYPE net3: a series, and for each of its modes an edge table or a graph that is made."""

    roles = (RoleSpec("series", ("time", "keys…", "value")),)

    def __init__(self, name: str) -> None:
        self.name = name
        self.options_type = Net3JobOptions

    def roles_for(self, options: Any, given: list[str]) -> tuple[RoleSpec, ...]:
        if options.modes is not None:
            given = list(options.modes)
        extra = (RoleSpec(n, ("source", "target", "[weight]"), required=False) for n in given if n != "series")
        return (*self.roles, *extra)

    def check_input(self, role: str, columns: dict[str, dict[str, str]], options: Any) -> None:
        series = columns["series"]
        if role == "series":
            time_name, modes, value = resolve_columns(series, options)
            check_series_columns(series, time_name, modes, value)
            check_modes(options, modes, [r for r in columns if r != "series"])
        else:  # a role that is not a column is reported when the series is checked
            found = find_column(series, role.lower())
            check_graph_columns(columns[role], None if found is None else series[found], role=role)

    @property
    def functions(self) -> Mapping[str, FunctionSpec]:
        from graphlearn.jobs.net3.functions import FUNCTIONS

        return FUNCTIONS

    def load(self, artifact: Artifact) -> LoadedModel:
        from graphlearn.jobs.net3.functions import Net3Model

        return Net3Model(artifact)

    def unborn(self, request: ModelRequest, columns: dict[str, dict[str, str]], question: Question) -> ArrowSource:
        from graphlearn.jobs.net3.functions import describe_unborn

        return describe_unborn(request.options, columns["series"], question)

    def compile(self, bound: Bound) -> Dataflow:
        return _Net3(bound).dataflow()


class _Net3:
    """The operators of one request."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.options: Net3JobOptions = bound.request.options
        self.sql = bound.request.inputs["series"]
        self.graphs_sql = {role: sql for role, sql in bound.request.inputs.items() if role != "series"}
        columns = describe(bound.cursor, self.sql)
        self.time, self.modes, self.value = resolve_columns(columns, self.options)
        check_series_columns(columns, self.time, self.modes, self.value)
        check_modes(self.options, self.modes, list(self.graphs_sql))

    def dataflow(self) -> Dataflow:
        options = self.options
        sizes = measure_series(
            self.bound.cursor,
            self.sql,
            time=self.time,
            modes=self.modes,
            value=self.value,
            freq=options.freq,
            start=options.start,
        )
        if self.bound.run is None:
            sizes.check_memory(memory_available(), "the free memory")
        else:
            sizes.check_rows()
        rows, steps, array = sizes.rows, sizes.steps, sizes.bytes
        cells = sizes.cells // max(1, steps)
        windows = max(0, steps if options.task == "recover" else round(steps * options.split[0]) - options.window)
        length = 2 * options.window + 1 if options.task == "recover" else options.window
        width = sum(min(options.core_limit, int(options.core * n) + 1) for n in sizes.modes.values())
        flops_window = 6.0 * length * cells * options.dim * (2 * options.dim + 2 * width + 16)
        epoch = windows * flops_window
        batch = 4 * options.batch_size * length * cells * options.dim * 12
        copies = 8 if options.task == "recover" and options.recovery == "smooth" else 1

        def estimate(**kw: Any) -> Estimate:
            return Estimate(**kw) if rows else Estimate()

        return Dataflow(
            [
                Operator(
                    name="scan",
                    inputs=(),
                    outputs=("query",),
                    run=self.scan,
                    detail="read the query of role series",
                    estimate=estimate(rows=rows, bytes=rows * 32, memory=BASE_MEMORY, seconds=rows / 5e6),
                ),
                Operator(
                    name="encode",
                    inputs=("query",),
                    outputs=("series",),
                    run=self.encode,
                    detail=sizes.text() if rows else "",
                    describe=lambda out: out["series"].report.line(),
                    estimate=estimate(rows=steps, bytes=array, memory=BASE_MEMORY + 2 * array, seconds=rows / 1.5e6),
                ),
                Operator(
                    name="graphs",
                    inputs=("series",),
                    outputs=("graphs",),
                    run=self.graphs,
                    detail=", ".join([*self.graphs_sql, *(f"{m}: {kind}" for m, kind in options.graphs.items())])
                    or "none given",
                    describe=lambda out: ", ".join(
                        f"{self._label(m)}: {len(g[0]):,} edges" for m, g in out["graphs"].items()
                    ),
                    estimate=estimate(memory=BASE_MEMORY + array, seconds=0.1),
                ),
                Operator(
                    name="prepare",
                    inputs=("series", "graphs"),
                    outputs=("training", "report"),
                    run=self.prepare,
                    detail="scale, seasonal means, linear AR; last value, seasonal naive and the other baselines",
                    describe=lambda out: _best(out["report"]),
                    estimate=estimate(
                        memory=BASE_MEMORY + copies * array + 2 * batch, seconds=max(0.2, array * copies / 2e7)
                    ),
                ),
                Operator(
                    name="train",
                    inputs=("training",),
                    outputs=("trained",),
                    run=self.train,
                    reports_itself=True,
                    detail=f"net3, {options.task}, window {options.window}, {options.epochs} epochs at most",
                    devices=("cuda", "cpu"),
                    estimate=estimate(
                        rows=windows * options.epochs,
                        flops=epoch * options.epochs,
                        memory=BASE_MEMORY + copies * array + batch,
                        seconds=epoch * options.epochs / (0.15 * gemm_flops()),
                    ),
                ),
                Operator(
                    name="evaluate",
                    inputs=("trained", "report"),
                    outputs=("metrics", "rows"),
                    run=self.evaluate,
                    reports_itself=True,
                    detail=protocol(options),
                    devices=("cuda", "cpu"),
                    estimate=estimate(
                        rows=steps,
                        flops=steps * flops_window / 3,
                        memory=BASE_MEMORY + copies * array + batch,
                        seconds=steps * flops_window / 3 / (0.15 * gemm_flops()),
                    ),
                ),
                Operator(
                    name="publish",
                    inputs=("series", "graphs", "trained", "metrics", "rows"),
                    outputs=("version", "counts"),
                    run=self.publish,
                    detail=f"model {self.bound.request.name}",
                    describe=lambda out: f"version {out['version']}",
                    estimate=estimate(bytes=array, memory=BASE_MEMORY + copies * array, seconds=array / 5e8),
                ),
            ]
        )

    def _label(self, mode: int) -> str:
        return self.modes[mode] if self.modes else "series"

    def scan(self, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """Check that the query still has the columns it was bound with."""
        check_series_columns(describe(self.bound.cursor, self.sql), self.time, self.modes, self.value)
        return {"query": self.sql}

    def encode(self, data: Data, emit: Emit) -> Data:
        """Long rows to the tensor."""
        from graphlearn.models.net3.series import TimeSplit

        run, options = self.bound.run, self.options
        assert run is not None
        series = encode_series(
            self.bound.cursor,
            data["query"],
            time=self.time,
            modes=self.modes,
            value=self.value,
            freq=options.freq,
            aggregate=options.aggregate,
            start=options.start,
            limit=memory_available(),
            folder=run.path,
            emit=emit,
        )
        _check_length(len(series.axis), options)
        if options.task != "recover":
            split = TimeSplit.of(len(series.axis), options.split)
            series = replace(series, borders=(split.train_end, split.valid_end))
        return {"series": series}

    def graphs(self, data: Data, emit: Emit) -> Data:
        """The edges of every mode that has a graph."""
        from graphlearn.models.net3 import graphs as series_graphs
        from graphlearn.models.net3.time_split import TimeSplit

        series: SeriesTensor = data["series"]
        options = self.options
        found: dict[int, Graph] = {}
        for role, sql in self.graphs_sql.items():
            mode = series.mode(role)
            graph = encode_mode_graph(self.bound.cursor, sql, series.modes[mode], role=role, emit=emit)
            found[mode] = (graph.source, graph.target, graph.weight)
        for name, kind in options.graphs.items():
            mode = series.mode(name)
            n = len(series.modes[mode])
            if kind == "pearson":
                stop = TimeSplit.of(len(series.axis), options.split).train_end
                built = series_graphs.pearson(series.values, mode, slice(0, stop), top_k=options.neighbours)
            else:
                built = series_graphs.chain(n) if kind == "chain" else series_graphs.identity(n)
            found[mode] = (built.source, built.target, built.weight)
        return {"graphs": found}

    def prepare(self, data: Data, emit: Emit) -> Data:
        """Everything that is fitted in closed form, and the baselines."""
        from graphlearn.jobs.net3.calendar import calendar_of
        from graphlearn.jobs.net3.training import measure_baselines
        from graphlearn.models.core.device import choose_device
        from graphlearn.models.core.threads import threads
        from graphlearn.models.net3.tasks import make_training

        choose_device(self.options.device)  # raises before anything is fitted
        series: SeriesTensor = data["series"]
        if not np.isfinite(series.values).any():
            raise InputError("the series has no known value", role="series", help="check the value column for NULLs")
        self._warn_of_unseen(series, emit)
        with threads(self.options.threads):
            calendar = calendar_of(series.axis, self.options)
            training = make_training(series.values, data["graphs"], model_options(self.options), calendar)
            if not training.steps_per_epoch:
                raise InputError("the train part holds no window to learn from", role="series", help=_SHORT)
            rows = measure_baselines(training, series.axis)
        if not rows:
            emit(
                Note(
                    message="no known cell lies in the validation or test part, so nothing is measured", level="warning"
                )
            )
        return {"training": training, "report": rows}

    def _warn_of_unseen(self, series: SeriesTensor, emit: Emit) -> None:
        """Say that a forecast of a series which the train part does not know is worth little."""
        from graphlearn.models.net3.tensor import blocks
        from graphlearn.models.net3.time_split import TimeSplit

        if self.options.task == "recover":
            return
        stop = TimeSplit.of(len(series.axis), self.options.split).train_end
        seen = np.zeros(series.values.shape[1:], np.bool_)
        for _, block in blocks(series.values, stop):
            seen |= np.isfinite(block).any(axis=0)
        missing = int(np.count_nonzero(~seen))
        if missing and missing < seen.size:
            message = f"{counted(missing, 'series')} without a reading in the train part: their forecasts will be poor"
            emit(Note(message=message, level="warning"))
        elif missing:
            raise InputError("no reading lies in the train part", role="series", help=_SHORT)

    def train(self, data: Data, emit: Emit) -> Data:
        """Fit the network."""
        from graphlearn.jobs.net3.training import Net3Trainer
        from graphlearn.models.core.threads import threads

        run = self.bound.run
        assert run is not None
        emit(PhaseStarted(phase="train", total=self.options.epochs, unit="epochs"))
        with threads(self.options.threads):
            trainer = Net3Trainer(data["training"], run.checkpoints, run.id, emit)
            if self.bound.resume:
                trainer.resume()
            trainer.fit()
        return {"trained": trainer.training}

    def evaluate(self, data: Data, emit: Emit) -> Data:
        """Metrics of the best weights, compared with the baselines."""
        from graphlearn.jobs.net3.metrics import headline, metric_rows, verdict
        from graphlearn.jobs.net3.training import MEASURED
        from graphlearn.models.core.threads import threads

        training: SeriesTraining = data["trained"]
        emit(PhaseStarted(phase="evaluate"))
        rows: list[dict[str, Any]] = []
        with threads(self.options.threads):
            for split in MEASURED:
                found = metric_rows(METHOD, split, training.evaluate(split))
                rows += found
                if found:
                    figures = {k: v for k, v in headline(found, METHOD).items() if k != "count"}
                    emit(Evaluated(epoch=0, split=split, metrics=figures))
        rows += data["report"]
        wins, sentence = verdict(rows, METHOD)
        if sentence:
            emit(Note(message=sentence, level="info" if wins else "warning"))
        return {"metrics": headline(rows, METHOD), "rows": rows}

    def publish(self, data: Data, emit: Emit) -> Data:  # noqa: ARG002
        """Store weights, series, graphs, intervals and metrics as a new version."""
        from safetensors.torch import save_file

        from graphlearn.jobs.net3.functions import RECOVERED
        from graphlearn.jobs.net3.metrics import METRICS, verdict, write_metrics
        from graphlearn.models.core.threads import threads

        bound, series = self.bound, cast("SeriesTensor", data["series"])
        assert bound.store is not None
        assert bound.run is not None
        training: SeriesTraining = data["trained"]
        counts = series.report.to_json()
        with bound.store.stage(bound.request.name) as staged, threads(self.options.threads):
            save_file({k: v.contiguous() for k, v in training.weights().items()}, staged.path / "weights.safetensors")
            save_file(_intervals(training), staged.path / "intervals.safetensors")
            series.write(staged.path)
            for mode, (source, target, weight) in data["graphs"].items():
                table = pa.table({"source": source, "target": target, "weight": weight})
                with disk_errors(staged.path):
                    pq.write_table(table, staged.path / f"graph_{mode}.parquet", compression="zstd")
            if self.options.task == "recover":
                _write_recovered(training, staged.path / RECOVERED)
            write_metrics(staged.path / METRICS, data["rows"], protocol(self.options))
            version = staged.commit(
                {
                    "family": bound.request.family.lower(),
                    "options": asdict(self.options),
                    "inputs": bound.request.inputs,
                    "statement": bound.request.statement,
                    "fingerprint": bound.fingerprint,
                    "data_fingerprint": series.fingerprint,
                    "graphs": sorted(data["graphs"]),
                    "counts": counts,
                    "metrics": data["metrics"],
                    "verdict": verdict(data["rows"], METHOD)[1],
                    "protocol": protocol(self.options),
                    "run": bound.run.id,
                    "seconds": time.perf_counter() - bound.started,
                }
            )
        series.close()
        return {"version": version, "counts": counts}


_SHORT = "shorten window or horizon, give more time steps, or change split"


def _check_length(steps: int, options: Net3JobOptions) -> None:
    """Raise InputError when not one window fits into the train part."""
    if options.task == "recover":
        return
    train = round(steps * options.split[0])
    if train < options.window + options.horizon:
        raise InputError(
            f"the train part has {train:,} of {steps:,} time steps, and a window of {options.window} with a horizon of "
            f"{options.horizon} needs {options.window + options.horizon}",
            role="series",
            help=_SHORT,
        )


def _best(rows: list[dict[str, Any]]) -> str:
    total = [row for row in rows if row["split"] == "test" and row["step"] is None]
    return ", ".join(f"{row['method']}: RMSE {row['rmse']:.4g}" for row in sorted(total, key=lambda r: r["rmse"]))


def _intervals(training: SeriesTraining) -> dict[str, Any]:
    """Quantiles of the validation residuals, at most 10,000 a horizon step."""
    import torch

    out = {}
    for step, row in enumerate(training.conformal().sorted_residuals, 1):
        kept = row if len(row) <= 10_000 else row[np.linspace(0, len(row) - 1, 10_000).astype(int)]
        out[f"step_{step}"] = torch.from_numpy(np.ascontiguousarray(kept))
    return out


def _write_recovered(training: SeriesTraining, path: Any) -> None:
    """What the model says of every cell, block by block."""
    values, W = training.values, training.options.window
    smooth = training.options.recovery == "smooth"
    with disk_errors(path):
        out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=values.shape)
        size = max(1, training.options.batch_size)
        for lo in range(0, len(values), size):
            steps = np.arange(lo, min(lo + size, len(values)))
            out[lo : lo + size] = training.predict(steps if smooth else steps - W)[:, 0]
        out.flush()
