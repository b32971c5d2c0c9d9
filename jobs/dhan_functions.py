"""What a model of a graph can be asked: predict, embeddings, explain, evaluate.

Columns of the results (keys and classes have the types they had in their tables):

predict     id, label, probability FLOAT, rank INTEGER           where classes of nodes were learnt
predict     source, target, score FLOAT, rank INTEGER            where links were learnt
embeddings  id, embedding FLOAT[hidden]
explain     id, kind, relation, type, neighbour, weight FLOAT    kind: 'relation' or 'neighbour'
evaluate    method, split, macro_f1, micro_f1, accuracy, mrr, ndcg_10, hits_at_1, hits_at_10, auc, nmi, ari, count, protocol
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError, OptionError, UserError, did_you_mean
from graphlearn.jobs.dhan import model_options
from graphlearn.jobs.dhan_options import DhanJobOptions, Target, read_target
from graphlearn.jobs.functions import VERSION, ArrowSource, FunctionSpec, LoadedModel, Question
from graphlearn.jobs.hetero_metrics import METRICS, SCHEMA, metrics_table, read_metrics
from graphlearn.jobs.kge_functions import Unknown, same_key
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.columns import describe, find_column, quoted, subquery
from graphlearn.storage.dictionary import key_field
from graphlearn.storage.hetero import HeteroTables, read_hetero
from graphlearn.storage.hetero_nodes import Keys
from graphlearn.storage.hetero_roles import find_ends, plain, read_roles
from graphlearn.types import FloatArray, IdArray

if TYPE_CHECKING:
    from graphlearn.jobs.create import ModelRequest
    from graphlearn.models.dhan_training import HeteroTraining

ROWS = 1 << 16
"""Rows of a batch of answers."""
LINKS = 10
LIKELY = 0.5
"""Of several classes a node, those of at least this probability are the answer."""

FUNCTIONS: dict[str, FunctionSpec] = {
    "predict": FunctionSpec(
        "optional",
        {
            "k": (int, None, "answers a node: 1 class (of several a node: the likely ones), or 10 links, unless told"),
            "exclude_known": (bool, False, "links: leave out those that the model was given"),
            **VERSION,
        },
        "'m', nodes",
    ),
    "embeddings": FunctionSpec("none", {"of": (str, None, "a node table; the one that is learnt unless told"), **VERSION}),
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
            texts = [pa.field(name, pa.string()) for name in ("kind", "relation", "type")]
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

    def table(self, name: str, key: str) -> str:
        """A node table by its name in any case. Raises OptionError."""
        found = next((known for known in self.keys if known.lower() == name.lower()), None)
        if found is None:
            raise OptionError(f"the model has no node table {name}", key=key, help=did_you_mean(name, list(self.keys)))
        return found


def options_of(artifact: Artifact) -> DhanJobOptions:
    """The options that a stored version was made with."""
    known = DhanJobOptions.__dataclass_fields__
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in artifact.manifest["options"].items() if k in known}
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
        """The model, ready to answer."""
        if self._training is None:
            from safetensors.torch import load_file

            from graphlearn.jobs.dhan_graph import make_graph, make_task
            from graphlearn.models.dhan_tasks import make_training

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
        relation = tables.edges[target.relation] if target.edges is not None else None
        return Shape(
            keys,
            self.options.hidden,
            target.node,
            labels.classes.dictionary.field if labels is not None else None,
            relation.source if relation is not None else None,
            relation.target if relation is not None else None,
        )

    def open(self, question: Question) -> ArrowSource:
        if question.function == "evaluate":
            rows = read_metrics(self.artifact.path / METRICS)
            return ArrowSource(SCHEMA, lambda: iter(metrics_table(rows, self.artifact.manifest["protocol"]).to_batches()))
        shape = self.shape
        schema = shape.schema(question)
        _check_asked(shape, question)
        if question.function == "embeddings":
            table = shape.table(question.options["of"] or shape.main, "of")
            return ArrowSource(schema, lambda: self._embeddings(table, schema))
        if question.function == "explain":
            return ArrowSource(schema, lambda: self._explain(question, schema))
        answer = self._classes if shape.label is not None else self._links
        return ArrowSource(schema, lambda: answer(question, schema))

    def _asked(self, question: Question, table: str, column: str | None) -> tuple[IdArray, pa.Array]:
        """Positions and keys of the nodes of a relation, -1 for unknown ones, which are warned of; of all without."""
        keys = self.tables.nodes[table].keys
        if column is None:
            return np.arange(len(keys)), keys.dictionary.keys
        connection = question.cursor()
        try:
            assert question.argument is not None
            kind = describe(connection, question.argument)[column]
            found = connection.sql(_position_sql(keys, question.argument, {"": (column, kind)})).to_arrow_table()
        finally:
            connection.close()
        ids = found.column("id").to_numpy()
        asked = found.column("key").combine_chunks()
        unknown = Unknown()
        unknown.add(pa.record_batch([asked], names=["asked"]), {"asked": ids})
        if unknown.lost:
            name = self.artifact.model
            question.warn(f"{question.function}: {name} has never seen {unknown.text(f'nodes of {table}')}")
        known = keys.dictionary.take(ids)
        same = asked.type == known.type
        return ids, pa.compute.coalesce(known, asked.cast(known.type)) if same else known

    def _classes(self, question: Question, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        node = self.tables.labelled
        assert node is not None
        assert node.labels is not None
        ids, keys = self._asked(question, node.name, _id_column(question, node.name))
        known, classes = np.flatnonzero(ids >= 0), len(node.labels.classes)
        several = node.labels.kind == "multi" and question.options["k"] is None
        k = classes if several else min(int(question.options["k"] or 1), classes)
        labels = np.full((len(ids), k), -1, np.int64)
        chances = np.full((len(ids), k), np.nan, np.float32)
        labels[known], chances[known] = self.training.predict(ids[known], k)
        rank = np.broadcast_to(np.arange(1, k + 1, dtype=np.int32), labels.shape)
        with np.errstate(invalid="ignore"):
            kept = (rank == 1) | ((labels >= 0) & ((chances >= LIKELY) | (not several)))
        rows = np.repeat(np.arange(len(ids)), k).reshape(labels.shape)[kept]
        values = node.labels.classes.dictionary
        missing = labels[kept] < 0
        for lo in range(0, len(rows), ROWS):
            part = slice(lo, lo + ROWS)
            columns = [
                keys.take(pa.array(rows[part])),
                values.take(labels[kept][part]),
                pa.array(chances[kept][part], mask=missing[part]),
                pa.array(rank[kept][part], mask=missing[part]),
            ]
            yield _batch(columns, schema)

    def _links(self, question: Question, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        relation = self.tables.edges[self.target.relation]
        source, target = _link_columns(question, relation.source, relation.target)
        if question.argument is None:
            sources, keys = self._asked(question, relation.source, None)
        elif source is not None:
            sources, keys = self._asked(question, relation.source, source)
        else:
            raise AssertionError("the relation was checked")
        if target is not None:
            yield from self._pairs(question, schema, source, target)
            return
        k = int(question.options["k"] or LINKS)
        size = max(1, ROWS // k)
        candidates = self.tables.nodes[relation.target].keys.dictionary
        for lo in range(0, len(sources), size):
            ids = sources[lo : lo + size]
            known = np.flatnonzero(ids >= 0)
            found, scores = self.training.predict(ids[known], k, exclude_known=bool(question.options["exclude_known"]))
            lost = np.flatnonzero(ids < 0)
            there = found >= 0
            rows = np.concatenate([np.repeat(known, found.shape[1]).reshape(found.shape)[there], lost])
            none = np.full(len(lost), -1)
            places = np.concatenate([found[there], none])
            values = np.concatenate([scores[there], none]).astype(np.float32)
            ranks = np.concatenate([np.broadcast_to(np.arange(1, found.shape[1] + 1), found.shape)[there], none])
            order = np.lexsort((ranks, rows))
            missing = places[order] < 0
            columns = [
                keys.take(pa.array(rows[order] + lo)),
                candidates.take(places[order]),
                pa.array(values[order], mask=missing),
                pa.array(ranks[order].astype(np.int32), mask=missing),
            ]
            yield _batch(columns, schema)

    def _pairs(self, question: Question, schema: pa.Schema, source: str | None, target: str) -> Iterator[pa.RecordBatch]:
        """Scores of the links of a relation."""
        relation = self.tables.edges[self.target.relation]
        assert source is not None
        assert question.argument is not None
        connection = question.cursor()
        try:
            kinds = describe(connection, question.argument)
            ends = [(relation.source, source), (relation.target, target)]
            parts, joins = [], []
            for i, (table, column) in enumerate(ends):
                dictionary = self.tables.nodes[table].keys.dictionary
                parts.append(f"coalesce(n{i}.id, -1)::BIGINT AS id{i}, TRY_CAST(q.{quoted(column)} AS "
                             f"{dictionary.type}) AS key{i}")
                where = same_key(dictionary, f"n{i}", f"q.{quoted(column)}", kinds[column])
                joins.append(f"LEFT JOIN {dictionary.sql} n{i} ON {where}")
            sql = f"SELECT {', '.join(parts)} FROM {subquery(question.argument)} q {' '.join(joins)}"
            found = connection.sql(sql).to_arrow_table()
        finally:
            connection.close()
        a, b = (found.column(f"id{i}").to_numpy() for i in range(2))
        both = (a >= 0) & (b >= 0)
        scores = np.full(len(a), np.nan, np.float32)
        scores[both] = self.training.score_pairs(a[both], b[both])
        if not both.all():
            lost = int(np.count_nonzero(~both))
            name = self.artifact.model
            question.warn(f"predict: {name} has never seen an end of {lost:,} of {len(a):,} links; their score is NULL")
        for lo in range(0, len(a), ROWS):
            part = slice(lo, lo + ROWS)
            none = pa.array(np.zeros(len(a[part]), np.int32), mask=np.ones(len(a[part]), bool))
            asked = [found.column(f"key{i}").combine_chunks().slice(lo, ROWS) for i in range(2)]
            yield _batch([*asked, pa.array(scores[part], mask=~both[part]), none], schema)

    def _embeddings(self, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        keys = self.tables.nodes[table].keys.dictionary
        vectors: FloatArray = np.ascontiguousarray(self.training.embeddings(table), np.float32)
        for lo in range(0, len(keys), ROWS):
            part = vectors[lo : lo + ROWS]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
            yield _batch([keys.take(np.arange(lo, lo + len(part))), lists], schema)

    def _explain(self, question: Question, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        shape = self.shape
        ids, keys = self._asked(question, shape.main, _id_column(question, shape.main))
        known = np.flatnonzero(ids >= 0)
        if not len(known):
            return
        wanted, first = np.unique(ids[known], return_index=True)
        found = self.training.explain(wanted, int(question.options["k"]))
        mine = keys.take(pa.array(known[first]))
        place = np.searchsorted(wanted, np.asarray(found.node))
        text = schema.field("neighbour").type == pa.string()
        kinds = np.asarray(found.neighbour_type, object)
        neighbours = _neighbours(self.tables, kinds, np.asarray(found.neighbour), schema.field("neighbour").type, text)
        columns = [
            mine.take(pa.array(place)),
            pa.array(list(found.kind), pa.string()),
            pa.array(list(found.relation), pa.string()),
            pa.array(list(kinds), pa.string()),
            neighbours,
            pa.array(np.asarray(found.weight, np.float32)),
        ]
        yield _batch(columns, schema)


def _neighbours(tables: HeteroTables, kinds: Any, places: IdArray, wanted: pa.DataType, text: bool) -> pa.Array:
    """Keys of nodes of several tables, NULL where there is none."""
    out = pa.nulls(len(places), wanted)
    for name, table in tables.nodes.items():
        mine = (kinds == name) & (places >= 0)
        if mine.any():
            keys = table.keys.dictionary.take(np.where(mine, places, -1))
            out = pa.compute.coalesce(out, pa.array([None if k is None else str(k) for k in keys.to_pylist()], pa.string()) if text else keys)
    return out


def _batch(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    fitting = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.record_batch(fitting, schema=schema)


def _position_sql(keys: Keys, argument: str, of: dict[str, tuple[str, str]]) -> str:
    column, kind = of[""]
    d = keys.dictionary
    return (
        f"SELECT coalesce(n.id, -1)::BIGINT AS id, TRY_CAST(q.{quoted(column)} AS {d.type}) AS key "
        f"FROM {subquery(argument)} q LEFT JOIN {d.sql} n ON {same_key(d, 'n', 'q.' + quoted(column), kind)}"
    )


def _asked_columns(question: Question) -> dict[str, str]:
    assert question.argument is not None
    connection = question.cursor()
    try:
        return describe(connection, question.argument)
    finally:
        connection.close()


def _id_column(question: Question, table: str) -> str | None:
    """The column that names the nodes asked for; None without a relation. Raises InputError when there is none."""
    if question.argument is None:
        return None
    columns = _asked_columns(question)
    found = find_column(columns, "id") or find_column(columns, table.lower())
    found = found or (next(iter(columns)) if len(columns) == 1 else None)
    if found is None:
        raise InputError(
            f"the relation has no column id (its columns: {', '.join(columns)})",
            help=f"name the ids of {table} with AS: SELECT … AS id",
        )
    return found


def _link_columns(question: Question, source: str, target: str) -> tuple[str | None, str | None]:
    """The columns with the ends of links asked for. Raises InputError when there is no source."""
    if question.argument is None:
        return None, None
    columns = _asked_columns(question)
    first = find_column(columns, "source") or find_column(columns, source.lower())
    last = find_column(columns, "target") or (find_column(columns, target.lower()) if target != source else None)
    if first is None and len(columns) == 1 and last is None:
        first = next(iter(columns))
    if first is None:
        raise InputError(
            f"the relation has no column source (its columns: {', '.join(columns)})",
            help=f"name the ids of {source} with AS: SELECT … AS source",
        )
    return first, last


def _check_asked(shape: Shape, question: Question) -> None:
    """Raise InputError, before anything is scanned, when the relation lacks the columns it needs."""
    if question.argument is None or question.function not in ("predict", "explain"):
        return
    if question.function == "predict" and shape.source is not None and shape.target is not None:
        _link_columns(question, shape.source, shape.target)
    else:
        _id_column(question, shape.main)


def describe_unborn(request: ModelRequest, columns: dict[str, dict[str, str]], question: Question) -> ArrowSource:
    """A call on a model that an earlier statement will create: right columns, no rows."""
    options: DhanJobOptions = request.options
    roles = read_roles(columns)
    target = read_target(roles, options)
    source = end = None
    if target.edges is not None:
        connection = question.cursor()
        try:
            role = find_ends(connection, roles, request.inputs, options.ends, look=False).edges[target.edges]
        finally:
            connection.close()
        source, end = role.source.node, role.target.node
    label = None
    if target.node is not None and target.column is not None and options.target is not None:
        label = key_field(plain(roles.nodes[target.node].columns[target.column].removesuffix("[]")))
    keys = {name: key_field(node.key_type) for name, node in roles.nodes.items()}
    shape = Shape(keys, options.hidden, target.node, label, source, end)
    schema = shape.schema(question)
    _check_asked(shape, question)
    return ArrowSource(schema, lambda: iter(()))
