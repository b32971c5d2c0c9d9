"""Answers of a stored graph model: predict, embeddings, explain, evaluate. For columns see shape.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from graphlearn.jobs.answers import Unknown, echo
from graphlearn.jobs.dhan.options import DhanJobOptions, model_options
from graphlearn.jobs.dhan.shape import DhanShape
from graphlearn.jobs.family import Predictor, Question, Warn
from graphlearn.jobs.metrics import read_metrics
from graphlearn.jobs.train import WEIGHTS
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.hetero.nodes import Keys
from graphlearn.storage.hetero.tables import read_hetero
from graphlearn.storage.hetero.target import Target
from graphlearn.storage.stored import check_sizes, damaged_if_unreadable, read_tensors
from graphlearn.text import counted
from graphlearn.types import FloatArray, IdArray

ROWS = 1 << 16
"""Rows per batch of answers."""
LINKS = 10
"""Links per node by default."""


class DhanPredictor(Predictor):
    """A stored version with its graph; the model is built when first used.

    The nodes of a question are computed together: on the whole graph, one pass serves all of them.
    """

    shape: DhanShape

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.options = DhanJobOptions.stored(artifact.manifest["options"])
        self.target = Target(**artifact.manifest["target"])
        self.tables = read_hetero(artifact.path)
        options = self.options
        features = (node.features.width for node in self.tables.nodes.values() if node.features is not None)
        bounded = *features, options.hops, options.layers
        check_sizes(artifact.path / WEIGHTS, ("model",), options.hidden, bounded=bounded)
        self.shape = DhanShape.of_tables(self.tables, self.target, self.options)

    def answer(
        self, question: Question, batches: Iterable[pa.RecordBatch], schema: pa.Schema, warn: Warn
    ) -> Iterator[pa.RecordBatch]:
        if question.function == "evaluate":
            return iter(pa.Table.from_pylist(read_metrics(self.artifact.path), schema=schema).to_batches())
        if question.function == "embeddings":
            return self.embeddings(self.shape.table(question.options["of"]), schema)
        asked = _Asked(question, batches, self.artifact.model, warn)
        if question.function == "explain":
            return self.explain(asked, schema)
        return self.links(asked, schema) if self.shape.label is None else self.classes(asked, schema)

    @cached_property
    def training(self) -> Any:
        """The model; which methods it has depends on what was learnt."""
        from graphlearn.jobs.dhan.graph import make_graph, make_task
        from graphlearn.models.dhan.training.make import make_training

        weights = read_tensors(self.artifact.path / WEIGHTS, "pt")
        task = make_task(self.tables, self.target, learnt=self.options.target is not None)
        with damaged_if_unreadable(self.artifact.path / WEIGHTS, "file"):
            return make_training(make_graph(self.tables), task, model_options(self.options), weights)

    def classes(self, asked: _Asked, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The most probable classes of each node; all likely ones if a node can have several and k is not given."""
        from graphlearn.models.hetero.classes import LIKELY

        node = self.tables.labelled
        assert node is not None
        assert node.labels is not None
        ids, keys = self._nodes(asked, node.name, self.shape.id_column)
        known, count = np.flatnonzero(ids >= 0), len(node.labels.classes)
        several = node.labels.kind == "multi" and asked.k is None
        k = count if several else min(asked.k or 1, count)
        labels, chances = np.full((len(ids), k), -1, np.int64), np.full((len(ids), k), np.nan, np.float32)
        if len(known):
            labels[known], chances[known] = self.training.predict(ids[known], k)
        rank = np.broadcast_to(np.arange(1, k + 1, dtype=np.int32), labels.shape)
        likely = chances >= LIKELY if several else np.isfinite(chances)
        rows, places = np.nonzero(likely | (rank == 1))
        answers = labels[rows, places], chances[rows, places], rank[rows, places]
        yield from _ranked(keys, node.labels.classes, rows, answers, schema)

    def links(self, asked: _Asked, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The best targets of each source, or the scores of given links."""
        relation = self.tables.edges[self.target.relation]
        ends = self.shape.link_columns(asked.schema) if asked.schema is not None else None
        if ends is not None and ends[1] is not None:
            yield from self._pairs(asked, schema, ends[0], ends[1])
            return
        sources, keys = self._nodes(asked, relation.source, lambda there: self.shape.link_columns(there)[0])
        candidates = self.tables.nodes[relation.target].keys
        k = min(asked.k or LINKS, len(candidates))
        known = np.flatnonzero(sources >= 0)
        found, scores = np.full((len(sources), k), -1, np.int64), np.full((len(sources), k), np.nan, np.float32)
        if len(known):
            hide = bool(asked.options["exclude_known"])
            found[known], scores[known] = self.training.predict(sources[known], k, exclude_known=hide)
        rank = np.broadcast_to(np.arange(1, k + 1, dtype=np.int32), found.shape)
        rows, places = np.nonzero((found >= 0) | ((rank == 1) & (sources < 0)[:, None]))
        answers = found[rows, places], scores[rows, places], rank[rows, places]
        yield from _ranked(keys, candidates, rows, answers, schema)

    def _pairs(self, asked: _Asked, schema: pa.Schema, source: str, target: str) -> Iterator[pa.RecordBatch]:
        relation = self.tables.edges[self.target.relation]
        ends = {source: self.tables.nodes[relation.source].keys, target: self.tables.nodes[relation.target].keys}
        (a, b), keys = asked.nodes(ends)
        both = (a >= 0) & (b >= 0)
        scores = np.full(len(a), np.nan, np.float32)
        if both.any():
            scores[both] = self.training.pair_scores(a[both], b[both])
        for lo in range(0, len(a), ROWS):
            part = slice(lo, lo + ROWS)
            links = [k.slice(lo, ROWS) for k in keys]
            yield _batch([*links, pa.array(scores[part], mask=~both[part]), pa.nulls(len(a[part]), pa.int32())], schema)

    def embeddings(self, table: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The vectors of all nodes of a table."""
        keys = self.tables.nodes[table].keys.dictionary
        vectors: FloatArray = np.ascontiguousarray(self.training.embeddings(table), np.float32)
        for lo in range(0, len(keys), ROWS):
            part = vectors[lo : lo + ROWS]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1])
            yield _batch([keys.take(np.arange(lo, lo + len(part))), lists], schema)

    def explain(self, asked: _Asked, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The share of each relation in the predictions of nodes, and the neighbours with the largest weights."""
        from graphlearn.models.dhan.explain import explain

        ids, keys = self._nodes(asked, self.shape.main, self.shape.id_column)
        known = np.flatnonzero(ids >= 0)
        if not len(known):
            return
        wanted, first = np.unique(ids[known], return_index=True)
        found = explain(self.training, self.shape.main, wanted, int(asked.options["k"]))
        if not found:
            return
        place = np.searchsorted(wanted, [reason.node for reason in found])
        types, places = np.array([r.neighbour_type for r in found]), np.array([r.neighbour for r in found], np.int64)
        columns = [
            keys.take(pa.array(known[first][place])),
            pa.array([r.part for r in found], pa.string()),
            pa.array([r.kind for r in found], pa.string()),
            pa.array([r.relation for r in found], pa.string()),
            pa.array([self._side(r.relation, r.back) for r in found], pa.string()),
            pa.array(types, pa.string()),
            self._neighbours(types, places, schema.field("neighbour").type),
            pa.array([r.weight for r in found], pa.float32()),
            pa.array([r.contribution for r in found], pa.float32()),
        ]
        yield _batch(columns, schema)

    def _nodes(self, asked: _Asked, table: str, column: Callable[[pa.Schema], str]) -> tuple[IdArray, pa.Array]:
        """Positions and keys of the nodes asked about: those of a column, or all of a table."""
        keys = self.tables.nodes[table].keys
        if asked.schema is None:
            return np.arange(len(keys)), keys.dictionary.keys
        ids, found = asked.nodes({column(asked.schema): keys})
        return ids[0], found[0]

    def _side(self, relation: str | None, back: bool) -> str | None:
        """The end of the relation that the neighbours are."""
        if relation is None:
            return None
        table = self.tables.edges.get(relation)  # None for the relation of option knn
        if table is not None and table.hubs is not None:
            return "hub"
        return "target" if back else "source"

    def _neighbours(self, types: Any, places: IdArray, wanted: pa.DataType) -> pa.Array:
        """Keys of nodes of several tables, as text if their types differ; NULL without a neighbour."""
        parts: list[pa.Array] = []
        first = np.zeros(len(places), np.int64)
        for name, table in self.tables.nodes.items():
            first[types == name] = sum(len(part) for part in parts)
            keys = table.keys.dictionary.keys
            parts.append(keys if keys.type == wanted else pa.array(map(str, keys.to_pylist()), wanted))
        return pa.concat_arrays(parts).take(pa.array(first + places, mask=places < 0))


class _Asked:
    """The rows of a question."""

    def __init__(self, question: Question, batches: Iterable[pa.RecordBatch], model: str, warn: Warn) -> None:
        self.function, self.options, self.schema = question.function, question.options, question.asked
        self._batches, self._model, self._warn, self._zone = batches, model, warn, question.time_zone

    @property
    def k(self) -> int | None:
        """Answers per node, None for the default."""
        k: int | None = self.options["k"]
        return k

    def nodes(self, ends: Mapping[str, Keys]) -> tuple[list[IdArray], list[pa.Array]]:
        """For each column of nodes (name -> keys of its table) their positions, -1 for unknown ones, and the column.

        Warns about unknown keys.
        """
        assert self.schema is not None
        table = pa.Table.from_batches(self._batches, self.schema)
        asked = {column: _array(table.column(column)) for column in ends}
        ids = {column: keys.dictionary.ids(asked[column], self._zone) for column, keys in ends.items()}
        unknown = Unknown({column: keys.dictionary for column, keys in ends.items()})
        empty = [column.is_null().to_numpy(zero_copy_only=False) for column in asked.values()]
        missing = empty[-1] if len(ends) == 2 else np.zeros(len(empty[0]), bool)
        unknown.add(asked, {column: np.where(missing, 0, found) for column, found in ids.items()})
        if missing.any():
            text = (
                f"without a {list(ends)[1]}: {missing.sum():,} of {counted(len(missing), 'link')}; their score is NULL"
            )
            self._warn(f"{self.function}: {text}; leave the column out to ask for targets")
        if unknown.lost:
            what = "nodes" if len(ends) == 1 else "links"
            text = f"{self.function}: {self._model} has never seen a key of {unknown.text(what)}"
            self._warn(text + unknown.suggestion())
        found = zip(asked.values(), ends.values(), strict=True)
        return list(ids.values()), [echo(column, keys.dictionary.field) for column, keys in found]


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _ranked(
    asked: pa.Array, answers: Keys, rows: IdArray, found: tuple[IdArray, FloatArray, IdArray], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Batches of (key asked, key of the answer, score, rank), NULL after an unknown key."""
    for lo in range(0, len(rows), ROWS):
        places, scores, ranks = found[0][lo : lo + ROWS], found[1][lo : lo + ROWS], found[2][lo : lo + ROWS]
        missing = places < 0
        figures = [pa.array(scores, mask=missing), pa.array(ranks, mask=missing)]
        yield _batch([asked.take(pa.array(rows[lo : lo + ROWS])), answers.dictionary.take(places), *figures], schema)


def _batch(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    fitting = [c if c.type == f.type else c.cast(f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.record_batch(fitting, schema=schema)
