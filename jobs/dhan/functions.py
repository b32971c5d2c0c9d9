"""What a model of a graph can be asked: predict, embeddings, explain, evaluate.

Columns of the results (keys and classes have the types they had in their tables):

predict     id, label, probability FLOAT, rank INTEGER           where classes of nodes were learnt
predict     source, target, score FLOAT, rank INTEGER            where links were learnt
embeddings  id, embedding FLOAT[hidden]
explain     id, kind, relation, side, type, neighbour, weight FLOAT
            kind: 'relation' or 'neighbour'; side: which end of the relation neighbours are, 'hub' where they share one
evaluate    method, split, figures (macro_f1, mrr, nmi, …; NULL those of other tasks), count, protocol
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphlearn.errors import OptionError, UserError, did_you_mean
from graphlearn.jobs.dhan.metrics import METRICS, SCHEMA, metrics_table, read_metrics
from graphlearn.jobs.dhan.options import DhanJobOptions, Target, model_options, read_target
from graphlearn.jobs.dhan.questions import find_nodes, id_column, link_columns
from graphlearn.jobs.functions import VERSION, ArrowSource, FunctionSpec, LoadedModel, Question
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.dictionary import key_field
from graphlearn.storage.hetero.nodes import Keys
from graphlearn.storage.hetero.roles import name_ends, plain, read_roles, settle_ends
from graphlearn.storage.hetero.tables import HeteroTables, read_hetero
from graphlearn.types import FloatArray, IdArray

if TYPE_CHECKING:
    from graphlearn.jobs.create import ModelRequest
    from graphlearn.models.dhan.training import HeteroTraining

ROWS = 1 << 16
"""Rows of a batch of answers."""
LINKS = 10

FUNCTIONS: dict[str, FunctionSpec] = {
    "predict": FunctionSpec(
        "optional",
        {
            "k": (
                int,
                None,
                "answers per node, by default 1 class (all likely ones if there can be several) or 10 links",
            ),
            "exclude_known": (bool, False, "links: leave out those that the model was given"),
            **VERSION,
        },
        "'m', nodes",
    ),
    "embeddings": FunctionSpec(
        "none", {"of": (str, None, "a node table, by default the one that is learnt"), **VERSION}
    ),
    "explain": FunctionSpec("required", {"k": (int, 5, "neighbours for each relation"), **VERSION}, "'m', nodes"),
    "evaluate": FunctionSpec(),
}
"""What a model of a graph can be asked."""


@dataclass(frozen=True)
class Shape:
    """What a model answers about: its node tables with the fields of their keys, and what is learnt."""

    keys: dict[str, pa.Field]
    hidden: int
    node: str | None = None
    label: pa.Field | None = None
    source: str | None = None
    target: str | None = None

    @property
    def main(self) -> str:
        """The node table that is meant when none is named."""
        return self.node or self.source or next(iter(self.keys))

    def schema(self, question: Question) -> pa.Schema:
        """Columns of a call. Raises UserError, OptionError for what this model cannot answer."""
        function = question.function
        if function == "evaluate":
            return SCHEMA
        if function == "embeddings":
            of = question.options["of"] or self.main
            vector = pa.list_(pa.float32(), self.hidden)
            return pa.schema([self.keys[self.table(of, "of")].with_name("id"), pa.field("embedding", vector)])
        if function == "explain":
            kinds = {str(field.type) for field in self.keys.values()}
            neighbour = next(iter(self.keys.values())) if len(kinds) == 1 else pa.field("neighbour", pa.string())
            texts = [pa.field(name, pa.string()) for name in ("kind", "relation", "side", "type")]
            first, last = self.keys[self.main].with_name("id"), pa.field("weight", pa.float32())
            return pa.schema([first, *texts, neighbour.with_name("neighbour"), last])
        rank = pa.field("rank", pa.int32())
        if self.label is not None:
            first = self.keys[self.main].with_name("id")
            return pa.schema([first, self.label.with_name("label"), pa.field("probability", pa.float32()), rank])
        if self.source is None or self.target is None:
            raise UserError(
                "the model has embeddings only, it was given no target",
                help="FROM embeddings('m'); or train it with OPTIONS (target = 'a column or an edge table')",
            )
        ends = self.keys[self.source].with_name("source"), self.keys[self.target].with_name("target")
        return pa.schema([*ends, pa.field("score", pa.float32()), rank])

    def check(self, question: Question) -> None:
        """Raise InputError, before anything is computed, when the relation asked about lacks the columns it needs."""
        if question.argument is None:
            return
        if question.function == "predict" and self.source is not None and self.target is not None:
            link_columns(question, self.source, self.target)
        else:
            id_column(question, self.main, self.keys)

    def table(self, name: str, key: str) -> str:
        """A node table by its name in any case. Raises OptionError."""
        found = next((known for known in self.keys if known.lower() == name.lower()), None)
        if found is None:
            raise OptionError(f"the model has no node table {name}", key=key, help=did_you_mean(name, list(self.keys)))
        return found


def options_of(artifact: Artifact) -> DhanJobOptions:
    """The options that a stored version was made with."""
    known, stored = {f.name for f in fields(DhanJobOptions)}, artifact.manifest["options"]
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
    return DhanJobOptions(**given)


class DhanModel(LoadedModel):
    """A stored version; graph and weights are read when first used."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.options = options_of(artifact)
        self.target = Target(**artifact.manifest["target"])
        self._tables: HeteroTables | None = None
        self._training: HeteroTraining | None = None

    @property
    def tables(self) -> HeteroTables:
        """The graph that the model was trained on."""
        if self._tables is None:
            self._tables = read_hetero(self.artifact.path)
        return self._tables

    @property
    def training(self) -> Any:
        """The model, ready to answer; what it can do is the task's."""
        if self._training is None:
            from safetensors.torch import load_file

            from graphlearn.jobs.dhan.graph import make_graph, make_task
            from graphlearn.models.dhan.tasks import make_training

            weights = load_file(self.artifact.path / "weights.safetensors")
            task = make_task(self.tables, self.target, learnt=self.options.target is not None)
            self._training = make_training(make_graph(self.tables), task, model_options(self.options), weights)
        return self._training

    @property
    def shape(self) -> Shape:
        """What the model answers about."""
        tables, target = self.tables, self.target
        keys = {name: table.keys.dictionary.field for name, table in tables.nodes.items()}
        labels = tables.labelled.labels if tables.labelled is not None and self.options.target is not None else None
        label = labels.classes.dictionary.field if labels is not None else None
        if target.edges is None:
            return Shape(keys, self.options.hidden, target.node, label)
        relation = tables.edges[target.relation]
        return Shape(keys, self.options.hidden, source=relation.source, target=relation.target)

    def open(self, question: Question) -> ArrowSource:
        if question.function == "evaluate":
            rows, protocol = read_metrics(self.artifact.path / METRICS), self.artifact.manifest["protocol"]
            return ArrowSource(SCHEMA, lambda: iter(metrics_table(rows, protocol).to_batches()))
        shape = self.shape
        schema = shape.schema(question)
        shape.check(question)
        if question.function == "embeddings":
            table = shape.table(question.options["of"] or shape.main, "of")
            return ArrowSource(schema, lambda: self._embeddings(table, schema))
        answers = {"explain": self._explain, "predict": self._links if shape.label is None else self._classes}
        return ArrowSource(schema, lambda: answers[question.function](question, schema))

    def _nodes(self, question: Question, table: str, column: str | None) -> tuple[IdArray, pa.Array]:
        """Positions and keys of the nodes asked for: those of a column, or all of a table."""
        keys = self.tables.nodes[table].keys
        if column is None:
            return np.arange(len(keys)), keys.dictionary.keys
        ids, asked = find_nodes(question, {column: keys}, self.artifact.model)
        return ids[0], asked[0]

    def _classes(self, question: Question, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        from graphlearn.models.dhan.classes import LIKELY

        node = self.tables.labelled
        assert node is not None
        assert node.labels is not None
        column = None if question.argument is None else id_column(question, node.name, self.tables.nodes)
        ids, keys = self._nodes(question, node.name, column)
        known, classes = np.flatnonzero(ids >= 0), len(node.labels.classes)
        several = node.labels.kind == "multi" and question.options["k"] is None
        k = classes if several else min(int(question.options["k"] or 1), classes)
        labels, chances = np.full((len(ids), k), -1, np.int64), np.full((len(ids), k), np.nan, np.float32)
        if len(known):
            labels[known], chances[known] = self.training.predict(ids[known], k)
        rank = np.broadcast_to(np.arange(1, k + 1, dtype=np.int32), labels.shape)
        likely = chances >= LIKELY if several else np.isfinite(chances)
        rows, places = np.nonzero(likely | (rank == 1))
        answers = labels[rows, places], chances[rows, places], rank[rows, places]
        yield from _ranked(keys, node.labels.classes, rows, answers, schema)

    def _links(self, question: Question, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        relation = self.tables.edges[self.target.relation]
        source = target = None
        if question.argument is not None:
            source, target = link_columns(question, relation.source, relation.target)
        if source is not None and target is not None:
            yield from self._pairs(question, schema, source, target)
            return
        sources, keys = self._nodes(question, relation.source, source)
        candidates = self.tables.nodes[relation.target].keys
        k, without = min(int(question.options["k"] or LINKS), len(candidates)), bool(question.options["exclude_known"])
        known = np.flatnonzero(sources >= 0)
        found, scores = np.full((len(sources), k), -1, np.int64), np.full((len(sources), k), np.nan, np.float32)
        if len(known):
            found[known], scores[known] = self.training.predict(sources[known], k, exclude_known=without)
        rank = np.broadcast_to(np.arange(1, k + 1, dtype=np.int32), found.shape)
        rows, places = np.nonzero((found >= 0) | ((rank == 1) & (sources < 0)[:, None]))
        answers = found[rows, places], scores[rows, places], rank[rows, places]
        yield from _ranked(keys, candidates, rows, answers, schema)

    def _pairs(self, question: Question, schema: pa.Schema, source: str, target: str) -> Iterator[pa.RecordBatch]:
        """Scores of given links."""
        relation = self.tables.edges[self.target.relation]
        ends = {source: self.tables.nodes[relation.source].keys, target: self.tables.nodes[relation.target].keys}
        (a, b), keys = find_nodes(question, ends, self.artifact.model)
        both = (a >= 0) & (b >= 0)
        scores = np.full(len(a), np.nan, np.float32)
        if both.any():
            scores[both] = self.training.pair_scores(a[both], b[both])
        for lo in range(0, len(a), ROWS):
            part = slice(lo, lo + ROWS)
            ranks = pa.nulls(len(a[part]), pa.int32())
            links = [k.slice(lo, ROWS) for k in keys]
            yield _batch([*links, pa.array(scores[part], mask=~both[part]), ranks], schema)

    def _embeddings(self, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        keys = self.tables.nodes[table].keys.dictionary
        vectors: FloatArray = np.ascontiguousarray(self.training.embeddings(table), np.float32)
        for lo in range(0, len(keys), ROWS):
            part = vectors[lo : lo + ROWS]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
            yield _batch([keys.take(np.arange(lo, lo + len(part))), lists], schema)

    def _explain(self, question: Question, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        from graphlearn.models.dhan.explain import explain

        main = self.shape.main
        ids, keys = self._nodes(question, main, id_column(question, main, self.tables.nodes))
        known = np.flatnonzero(ids >= 0)
        if not len(known):
            return
        wanted, first = np.unique(ids[known], return_index=True)
        found = explain(self.training, main, wanted, int(question.options["k"]))
        if not found:
            return
        place = np.searchsorted(wanted, [reason.node for reason in found])
        types, places = np.array([r.neighbour_type for r in found]), np.array([r.neighbour for r in found], np.int64)
        columns = [
            keys.take(pa.array(known[first][place])),
            pa.array([r.kind for r in found], pa.string()),
            pa.array([r.relation for r in found], pa.string()),
            pa.array([self._side(r.relation, r.back) for r in found], pa.string()),
            pa.array(types, pa.string()),
            self._neighbours(types, places, schema.field("neighbour").type),
            pa.array([r.weight for r in found], pa.float32()),
        ]
        yield _batch(columns, schema)

    def _side(self, relation: str, back: bool) -> str:
        """Which end of the relation the neighbours are."""
        table = self.tables.edges.get(relation)  # None for the relation of option knn
        if table is not None and table.hubs is not None:
            return "hub"
        return "target" if back else "source"

    def _neighbours(self, types: Any, places: IdArray, wanted: pa.DataType) -> pa.Array:
        """Keys of nodes of several tables, as text where their types differ; NULL where there is no neighbour."""
        parts: list[pa.Array] = []
        first = np.zeros(len(places), np.int64)
        for name, table in self.tables.nodes.items():
            first[types == name] = sum(len(part) for part in parts)
            keys = table.keys.dictionary.keys
            parts.append(keys if keys.type == wanted else pa.array(map(str, keys.to_pylist()), wanted))
        return pa.concat_arrays(parts).take(pa.array(first + places, mask=places < 0))


def _ranked(
    asked: pa.Array, answers: Keys, rows: IdArray, found: tuple[IdArray, FloatArray, IdArray], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Batches of (key asked, key of the answer, score, rank); NULL for what follows an unknown key."""
    for lo in range(0, len(rows), ROWS):
        places, scores, ranks = found[0][lo : lo + ROWS], found[1][lo : lo + ROWS], found[2][lo : lo + ROWS]
        missing = places < 0
        figures = [pa.array(scores, mask=missing), pa.array(ranks, mask=missing)]
        yield _batch([asked.take(pa.array(rows[lo : lo + ROWS])), answers.dictionary.take(places), *figures], schema)


def _batch(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    fitting = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.record_batch(fitting, schema=schema)


def describe_unborn(request: ModelRequest, columns: dict[str, dict[str, str]], question: Question) -> ArrowSource:
    """A call on a model that an earlier statement will create: right columns, no rows."""
    options: DhanJobOptions = request.options
    roles = read_roles(columns)
    target = read_target(roles, options)
    keys = {name: key_field(node.key_type) for name, node in roles.nodes.items()}
    shape = Shape(keys, options.hidden)
    if target.edges is not None:
        connection = question.cursor()
        try:
            role = settle_ends(name_ends(connection, roles, request.inputs, options.ends)).edges[target.edges]
        finally:
            connection.close()
        shape = Shape(keys, options.hidden, source=role.source.node, target=role.target.node)
    elif target.node is not None and target.column is not None:
        kind = plain(roles.nodes[target.node].columns[target.column].removesuffix("[]"))
        label = key_field(kind) if options.target is not None else None
        shape = Shape(keys, options.hidden, target.node, label)
    schema = shape.schema(question)
    shape.check(question)
    return ArrowSource(schema, lambda: iter(()))
