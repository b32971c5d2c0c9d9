"""The plan of a run: scan -> encode -> graphs -> prepare -> train -> baselines -> evaluate -> publish."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from graphlearn.jobs.dataflow import Dataflow, Estimate, Operator
from graphlearn.jobs.family import Sizes
from graphlearn.jobs.machine import BASE_MEMORY
from graphlearn.jobs.net3 import estimate as cost
from graphlearn.jobs.net3.baselines import FORECAST_METHODS, RECOVERY_METHODS, MeasureBaselines
from graphlearn.jobs.net3.options import Net3JobOptions, check_modes, resolve_columns
from graphlearn.jobs.net3.tasks import (
    TABLE,
    EncodeSeries,
    EvaluateNet3,
    PrepareNet3,
    ReadGraphs,
    ScanSeries,
    TrainNet3,
    check_length,
    protocol,
)
from graphlearn.jobs.request import ModelRequest
from graphlearn.jobs.train import PUBLISHED, Publish, budget_text, within_budget
from graphlearn.storage import fingerprint
from graphlearn.storage.columns import describe
from graphlearn.storage.series.sizes import SeriesSizes, measure_series
from graphlearn.text import counted

if TYPE_CHECKING:
    import duckdb

ROLE = "series"
LARGEST = (1 << 63) - 1
"""The largest count in a plan, which holds 64 bits: with an outlying time stamp, a series can have more cells."""


@dataclass(frozen=True, kw_only=True)
class Net3Sizes(Sizes):
    """The sizes of the series, and the rows of the edge tables by role."""

    series: SeriesSizes
    edges: Mapping[str, int]


def measure(cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Net3Sizes:
    """Digests and sizes of the series and of every edge table, each scanned once."""
    options: Net3JobOptions = request.options
    sql = request.inputs[ROLE]
    graphs = {role: query for role, query in request.inputs.items() if role != ROLE}
    time, modes, value = resolve_columns(describe(cursor, sql), options)
    check_modes(options, modes, list(graphs))
    series = measure_series(cursor, sql, time=time, modes=modes, value=value, freq=options.freq, start=options.start)
    prints, edges = {ROLE: series.fingerprint}, {}
    for role, query in graphs.items():
        found = fingerprint.measure(cursor, query, describe(cursor, query))
        prints[role], edges[role] = found.fingerprint, found.rows
    return Net3Sizes(fingerprints=prints, known=series.rows > 0, series=series, edges=edges)


def plan(request: ModelRequest, sizes: Net3Sizes) -> Dataflow:
    """The operators of a run, with what each will cost.

    Raises InputError, OptionError if no window fits into a split.
    """
    options: Net3JobOptions = request.options
    if sizes.known:
        check_length(sizes.series.steps, options)
    series, prints = sizes.series, dict(sizes.fingerprints)
    columns = (series.time, tuple(series.modes), series.value)
    graphs = {role: sql for role, sql in request.inputs.items() if role != ROLE}
    rows, steps, array = series.rows, series.steps, series.bytes
    cells = series.cells // max(1, steps)
    recover = options.task == "recover"
    windows, *_ = cost.windows(steps, options)
    length = 2 * options.window + 1 if recover else options.window
    batch = 4 * options.batch_size * length * cells * options.dim * 12
    smooth = recover and options.recovery == "smooth"
    copies = 8 if smooth else 1
    advice = "choose a longer freq, fewer keys, a smaller dim or batch_size, or a larger machine"

    def estimate(time: Estimate | None = None, **costs: Any) -> Estimate:
        if not sizes.known:
            return Estimate()
        bounded: dict[str, Any] = {
            k: min(cost, LARGEST) if isinstance(cost, int) else cost for k, cost in costs.items()
        }
        return replace(time or Estimate(), **bounded).by(options.task)

    parts = ("intervals", "series_errors", *(("recovered",) if recover else ()))
    baselines = Operator(
        name="baselines",
        task=MeasureBaselines(options=options, share=options.baseline_share),
        inputs=("trained", "axis", "training_seconds"),
        outputs=("baselines", "cuts"),
        reports_itself=True,
        detail=", ".join(RECOVERY_METHODS if recover else FORECAST_METHODS) + budget_text(options.baseline_share),
        advice=advice,
        estimate=estimate(
            within_budget(cost.baselines(series), cost.training(series, options), options.baseline_share),
            rows=steps,
            memory=BASE_MEMORY + (copies + 2) * array,
        ),
    )
    return Dataflow(
        [
            Operator(
                name="scan",
                task=ScanSeries(sql=request.inputs[ROLE], columns=columns),
                outputs=("query",),
                detail="read the query of role series",
                estimate=estimate(rows=rows, bytes=rows * 32, memory=BASE_MEMORY, seconds=rows / 5e6),
            ),
            Operator(
                name="encode",
                task=EncodeSeries(columns=columns, options=options, fingerprint=prints[ROLE]),
                inputs=("query",),
                outputs=("series", "values", "axis"),
                detail=series.text() if sizes.known else "",
                advice=advice,
                estimate=estimate(rows=steps, bytes=array, memory=BASE_MEMORY + 2 * array, seconds=rows / 1.5e6),
            ),
            Operator(
                name="graphs",
                task=ReadGraphs(queries=graphs, fingerprints=prints, options=options, modes=tuple(series.modes)),
                inputs=("series",),
                outputs=("graphs",),
                detail=", ".join([*graphs, *(f"{mode}: {kind}" for mode, kind in options.graphs.items())])
                or "none given",
                advice=advice,
                estimate=estimate(memory=BASE_MEMORY + array, seconds=0.1 + sum(sizes.edges.values()) / 1e6),
            ),
            Operator(
                name="prepare",
                task=PrepareNet3(options=options),
                inputs=("values", "axis", "graphs"),
                outputs=("training",),
                reports_itself=True,
                detail="scale, seasonal means, " + ("low-rank completion" if smooth else "linear AR"),
                advice=advice,
                estimate=estimate(cost.preparation(series, options), memory=BASE_MEMORY + copies * array + 2 * batch),
            ),
            Operator(
                name="train",
                task=TrainNet3(),
                inputs=("training",),
                outputs=("trained", "training_seconds"),
                reports_itself=True,
                detail=f"net3, {options.task}, window {options.window}, at most {counted(options.epochs, 'epoch')}",
                advice=advice,
                estimate=estimate(
                    cost.training(series, options),
                    rows=windows * options.epochs,
                    memory=BASE_MEMORY + copies * array + batch,
                ),
            ),
            *((baselines,) if options.baselines else ()),
            Operator(
                name="evaluate",
                task=EvaluateNet3(options=options),
                inputs=("trained", "axis", *(baselines.outputs if options.baselines else ())),
                outputs=("evaluation", *parts),
                reports_itself=True,
                detail=protocol(options),
                advice=advice,
                estimate=estimate(
                    cost.evaluation(series, options),
                    rows=steps,
                    memory=BASE_MEMORY + (copies + recover) * array + batch,
                ),
            ),
            Operator(
                name="publish",
                task=Publish(
                    request=request,
                    fingerprint=request.fingerprint(prints),
                    table=TABLE,
                    parts=("series", "graphs", *parts),
                ),
                inputs=("series", "graphs", "trained", "evaluation", *parts, *(("cuts",) if options.baselines else ())),
                outputs=PUBLISHED,
                detail=f"model {request.name}",
                advice=advice,
                estimate=estimate(bytes=array, memory=BASE_MEMORY + copies * array, seconds=array / 5e8),
            ),
        ],
        options,
    )
