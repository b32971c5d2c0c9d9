"""TYPE dhan: graphs of nodes and edges, each table in a role that the user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphlearn.errors import InputError
from graphlearn.jobs.dhan.metrics import METRICS
from graphlearn.jobs.dhan.options import DhanJobOptions, check_names, check_nodes, unused
from graphlearn.jobs.family import Columns, Count, Family, ModelShape, Predictor, Role, Sizes, Summary, TableFunction
from graphlearn.storage.hetero.roles import read_roles
from graphlearn.storage.hetero.target import find_target

if TYPE_CHECKING:
    import duckdb
    from matplotlib.figure import Figure

    from graphlearn.jobs.dataflow import Dataflow
    from graphlearn.jobs.drawing import History
    from graphlearn.jobs.request import ModelRequest
    from graphlearn.storage.artifacts import Artifact
    from graphlearn.storage.hetero.tables import HeteroTables

ONLY = "graph"
"""The role of a single query without a name, which is never a whole graph."""


class DhanFamily(Family):
    """Node tables, edge tables and hub tables."""

    names = ("dhan",)
    title = "Graphs of nodes and edges"
    metrics = METRICS
    counts = (Count("nodes", "nodes"), Count("edges", "edges"))
    functions: ClassVar[Mapping[str, TableFunction]] = {
        "predict": TableFunction(
            "optional",
            {
                "k": (
                    int,
                    None,
                    "answers per node, by default 1 class (all likely ones if there can be several) or 10 links",
                ),
                "exclude_known": (bool, True, "links: leave out those it was trained on, never held-out ones"),
            },
            "'m', nodes",
            returns="it returns each node with its classes or links",
        ),
        "embeddings": TableFunction("none", {"of": (str, None, "a node table, by default the one with the target")}),
        "explain": TableFunction("required", {"k": (int, 5, "neighbours per relation")}, "'m', nodes"),
        "evaluate": TableFunction("none"),
    }

    @property
    def options_type(self) -> type[Any]:
        return DhanJobOptions

    def answered(self, options: Mapping[str, Any]) -> Mapping[str, TableFunction]:
        learns = options.get("target") is not None
        return {name: function for name, function in self.functions.items() if learns or name != "predict"}

    def roles(self, options: Any, given: Sequence[str]) -> tuple[Role, ...]:  # noqa: ARG002
        columns = ("id", "features…")
        return tuple(Role(name, columns, required=False) for name in given) or (Role(ONLY, columns),)

    def check(self, role: str, columns: Mapping[str, Columns], options: Any) -> None:
        if list(columns) == [ONLY]:
            raise InputError(
                "a graph needs an input for each table of nodes and of edges",
                role=role,
                help="AS (paper AS (SELECT … AS id, …), cites AS (SELECT … AS source, … AS target FROM …))",
            )
        try:
            roles = read_roles(columns)
            check_names(roles, options)
            target = find_target(roles, options.target)
            if role in roles.nodes:
                check_nodes(roles.nodes[role], target, options)
        except InputError as error:
            if error.role in (role, None):  # the error of another role is raised when that role is checked
                raise

    def unused(self, columns: Mapping[str, Columns], options: Any) -> Mapping[str, str]:
        return unused(read_roles(columns), options)

    def shape(self, request: ModelRequest, columns: Mapping[str, Columns]) -> ModelShape:
        from graphlearn.jobs.dhan.shape import DhanShape

        return DhanShape.of_columns(columns, request.inputs, request.options)

    def measure(self, cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Sizes:
        from graphlearn.jobs.dhan.plan import measure

        return measure(cursor, request)

    def plan(self, request: ModelRequest, sizes: Sizes) -> Dataflow:
        from graphlearn.jobs.dhan.plan import DhanSizes, plan

        assert isinstance(sizes, DhanSizes)
        return plan(request, sizes)

    def fits(self, request: ModelRequest, sizes: Sizes, available: int) -> None:
        from graphlearn.jobs.dhan.plan import DhanSizes
        from graphlearn.jobs.dhan.sizes import check_memory

        assert isinstance(sizes, DhanSizes)
        check_memory(sizes.graph, request.options, available)

    def load(self, artifact: Artifact) -> Predictor:
        from graphlearn.jobs.dhan.predictor import DhanPredictor

        return DhanPredictor(artifact)

    def summary(self, artifact: Artifact) -> Summary:
        from graphlearn.jobs.dhan.view import summary

        return summary(artifact)

    def picture(self, history: History, version_folder: Path | None) -> Figure:
        from graphlearn.jobs.dhan.picture import draw

        return draw(history, version_folder)

    def graph(self, artifact: Artifact) -> HeteroTables:
        from graphlearn.storage.hetero.tables import read_hetero

        return read_hetero(artifact.path)
