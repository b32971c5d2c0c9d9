"""TYPE net3: forecasts and recovery of tensor time series over graphs of their modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from graphlearn.jobs.family import Columns, Count, Family, ModelShape, Predictor, Role, Sizes, Summary, TableFunction
from graphlearn.jobs.net3.metrics import NET3_METRICS
from graphlearn.jobs.net3.options import Net3JobOptions, check_modes, resolve_columns
from graphlearn.storage.columns import find_column

if TYPE_CHECKING:
    import duckdb
    from matplotlib.figure import Figure

    from graphlearn.jobs.dataflow import Dataflow
    from graphlearn.jobs.drawing import History
    from graphlearn.jobs.request import ModelRequest
    from graphlearn.storage.artifacts import Artifact

LEVEL = {"level": (float, 0.9, "share of true values that the interval should contain")}


class Net3Family(Family):
    """A model of a series, with an edge table or a generated graph for any of its modes."""

    names = ("net3",)
    title = "Time series"
    metrics = NET3_METRICS
    counts = (Count("steps", "steps"), Count("freq", "freq", pa.string()), Count("series", "series"))
    functions: ClassVar[Mapping[str, TableFunction]] = {
        "forecast": TableFunction(
            named={
                "horizon": (
                    int,
                    None,
                    "steps ahead, by default the horizon of the model; later steps read its own forecasts",
                ),
                "at": (object, None, "the last time step to read, by default the end of the series"),
                **LEVEL,
            }
        ),
        "recover": TableFunction(
            named={"every": (bool, False, "also return known cells, not only missing ones"), **LEVEL}
        ),
        "evaluate": TableFunction(
            named={"by": (str, "step", "'step': a row per step ahead and one for all; 'series': a row per series")}
        ),
    }

    @property
    def options_type(self) -> type[Any]:
        return Net3JobOptions

    def roles(self, options: Any, given: Sequence[str]) -> tuple[Role, ...]:
        modes = given if options.modes is None else options.modes
        graphs = (Role(name, ("source", "target", "[weight]"), required=False) for name in modes if name != "series")
        return (Role("series", ("time", "keys…", "value")), *graphs)

    def answered(self, options: Mapping[str, Any]) -> Mapping[str, TableFunction]:
        other = "forecast" if options.get("task") == "recover" else "recover"
        return {name: function for name, function in self.functions.items() if name != other}

    def check(self, role: str, columns: Mapping[str, Columns], options: Any) -> None:
        from graphlearn.storage.series.graph import check_graph_columns
        from graphlearn.storage.series.source import check_series_columns

        series = dict(columns["series"])
        if role == "series":
            time, modes, value = resolve_columns(series, options)
            check_series_columns(series, time, modes, value)
            check_modes(options, modes, [name for name in columns if name != "series"])
        else:  # a role that is not a column is reported when the series is checked
            found = find_column(series, role.lower())
            check_graph_columns(dict(columns[role]), None if found is None else series[found], role=role)

    def shape(self, request: ModelRequest, columns: Mapping[str, Columns]) -> ModelShape:
        from graphlearn.jobs.net3.shape import Net3Shape

        return Net3Shape.of_columns(columns["series"], request.options)

    def measure(self, cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Sizes:
        from graphlearn.jobs.net3.plan import measure

        return measure(cursor, request)

    def plan(self, request: ModelRequest, sizes: Sizes) -> Dataflow:
        from graphlearn.jobs.net3.plan import Net3Sizes, plan

        assert isinstance(sizes, Net3Sizes)
        return plan(request, sizes)

    def fits(self, request: ModelRequest, sizes: Sizes, available: int) -> None:
        from graphlearn.jobs.net3.plan import Net3Sizes

        assert isinstance(sizes, Net3Sizes)
        sizes.series.check_memory(available, "the free memory")
        super().fits(request, sizes, available)

    def load(self, artifact: Artifact) -> Predictor:
        from graphlearn.jobs.net3.predictor import Net3Predictor

        return Net3Predictor(artifact)

    def summary(self, artifact: Artifact) -> Summary:
        from graphlearn.jobs.net3.view import summary

        return summary(artifact)

    def picture(self, history: History, version_folder: Path | None) -> Figure:
        from graphlearn.jobs.net3.picture import draw

        return draw(history, version_folder)
