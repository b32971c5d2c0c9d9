"""TYPE transe, distmult, complex, rotate, simple, cp, rescal, tucker: embeddings of triples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphlearn.jobs.family import Columns, Count, Family, ModelShape, Predictor, Role, Sizes, Summary, TableFunction
from graphlearn.jobs.kge.metrics import METRICS
from graphlearn.models.kge.scorers.registry import SCORERS, scorer_type
from graphlearn.storage.columns import check_columns, find_column

if TYPE_CHECKING:
    import duckdb
    from matplotlib.figure import Figure

    from graphlearn.jobs.dataflow import Dataflow
    from graphlearn.jobs.drawing import History
    from graphlearn.jobs.request import ModelRequest
    from graphlearn.storage.artifacts import Artifact


class KgeFamily(Family):
    """Knowledge-graph embeddings. Only the scoring function differs between its TYPE names."""

    names = tuple(SCORERS)
    title = "Knowledge graph embeddings"
    protocol = "filtered"
    inputs = (Role("triples", ("head", "relation", "tail", "[split]")),)
    metrics = METRICS
    counts = (
        Count("entities", "entities"),
        Count("relations", "relations"),
        Count("train_triples", "train"),
        Count("valid_triples", "valid"),
        Count("test_triples", "test"),
    )
    functions: ClassVar[Mapping[str, TableFunction]] = {
        "predict": TableFunction(
            "required",
            {
                "k": (int, 10, "answers per question"),
                "exclude_known": (bool, True, "leave out facts that the model was trained on, but not held-out ones"),
            },
            "'m', (SELECT head, relation FROM …)",
            returns="it returns each question with its answers",
        ),
        "evaluate": TableFunction("optional", example="'m', triples"),
        "embeddings": TableFunction("none", {"of": (str, "entities", "'entities' or 'relations'")}),
        "similar": TableFunction(
            "required", {"k": (int, 10, "neighbours per key")}, "'m', (SELECT key FROM …)", keys=True
        ),
    }

    @property
    def options_type(self) -> type[Any]:
        return scorer_type(self.name).options_type

    def check(self, role: str, columns: Mapping[str, Columns], options: Any) -> None:  # noqa: ARG002
        check_columns(dict(columns[role]))

    def unused(self, columns: Mapping[str, Columns], options: Any) -> Mapping[str, str]:  # noqa: ARG002
        if find_column(dict(columns["triples"]), "split") is None:
            return {}
        return dict.fromkeys(("valid_fraction", "test_fraction"), "if the query has a column split")

    def shape(self, request: ModelRequest, columns: Mapping[str, Columns]) -> ModelShape:
        from graphlearn.jobs.kge.shape import KgeShape

        return KgeShape.of_columns(columns["triples"], request.options.dim)

    def measure(self, cursor: duckdb.DuckDBPyConnection, request: ModelRequest) -> Sizes:
        from graphlearn.jobs.kge.plan import measure

        return measure(cursor, request)

    def plan(self, request: ModelRequest, sizes: Sizes) -> Dataflow:
        from graphlearn.jobs.kge.plan import KgeSizes, plan

        assert isinstance(sizes, KgeSizes)
        return plan(request, sizes)

    def load(self, artifact: Artifact) -> Predictor:
        from graphlearn.jobs.kge.predictor import KgePredictor

        return KgePredictor(artifact)

    def summary(self, artifact: Artifact) -> Summary:
        from graphlearn.jobs.kge.view import summary

        return summary(artifact)

    def picture(self, history: History, version_folder: Path | None) -> Figure:
        from graphlearn.jobs.kge.picture import draw

        return draw(history, version_folder)
