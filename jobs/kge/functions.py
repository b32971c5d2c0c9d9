"""What knowledge-graph embeddings can be asked: predict, evaluate, embeddings, similar.

Columns of the results (keys have the types the model was trained with):

predict     the question's columns, with head and tail filled in, + rank INTEGER, score FLOAT, known BOOLEAN
evaluate    split, side, relation, mrr, mr, amri, hits_at_1, hits_at_3, hits_at_10, count, protocol
embeddings  key, embedding FLOAT[dim]
similar     key, neighbour, rank INTEGER, score FLOAT (cosine)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from graphlearn.errors import InputError, OptionError
from graphlearn.jobs.functions import VERSION, ArrowSource, CursorFactory, FunctionSpec, LoadedModel, Question, Warn
from graphlearn.jobs.kge.dataflow import EVALUATION_MEMORY, PROTOCOL
from graphlearn.jobs.kge.metrics import metric_rows, metrics_table, read_metrics
from graphlearn.jobs.kge.questions import (
    BATCH,
    EXAMPLES,
    Unknown,
    are_text,
    columns_of,
    encoded_sql,
    output_schema,
    same_key,
    stream,
)
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.columns import common_type, describe, find_column, quoted, subquery
from graphlearn.storage.dictionary import Dictionary, key_field
from graphlearn.storage.triples.snapshot import ENTITIES, RELATIONS, read_snapshot
from graphlearn.types import IdArray, Side, Triples

if TYPE_CHECKING:
    from graphlearn.models.core.known import KnownAnswers
    from graphlearn.models.kge.embedding import Embedding

FUNCTIONS: dict[str, FunctionSpec] = {
    "predict": FunctionSpec(
        "required",
        {
            "k": (int, 10, "answers per question"),
            "exclude_known": (bool, False, "leave out answers that are facts the model has seen"),
            **VERSION,
        },
        "'m', questions",
    ),
    "evaluate": FunctionSpec("optional"),
    "embeddings": FunctionSpec("none", {"of": (str, "entities", "'entities' or 'relations'"), **VERSION}),
    "similar": FunctionSpec("required", {"k": (int, 10, "neighbours per key"), **VERSION}, "'m', 'a key'"),
}
"""What a knowledge-graph embedding can be asked."""


class KgeModel(LoadedModel):
    """A stored version in memory, its parts read when first used."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.entities = Dictionary(artifact.path / ENTITIES)
        self.relations = Dictionary(artifact.path / RELATIONS)
        self._embedding: Embedding | None = None
        self._known: dict[Side, KnownAnswers] = {}

    def open(self, question: Question) -> ArrowSource:
        function, argument, options = question.function, question.argument, question.options
        cursor, warn = question.cursor, question.warn
        _check_of(question)
        entity, relation = self.entities.field, self.relations.field
        width = int(self.artifact.manifest["options"]["dim"])
        if function == "embeddings":
            width = self._width(options["of"])
        connection = cursor()
        try:
            columns = columns_of(function, connection, argument)
            schema = output_schema(function, entity, relation, width, options, columns, connection, argument)
        finally:
            connection.close()
        if function == "evaluate" and argument is not None:
            _check_answerable(self, argument, cursor)
        if function == "predict":
            assert argument is not None
            return ArrowSource(schema, lambda: _predict(self, argument, schema, options, cursor, warn))
        if function == "similar":
            assert argument is not None
            return ArrowSource(schema, lambda: _similar(self, argument, schema, options["k"], cursor, warn))
        if function == "embeddings":
            return ArrowSource(schema, lambda: _embeddings(self, options["of"], schema))
        return ArrowSource(schema, lambda: _evaluate(self, argument, cursor, warn))

    def _width(self, of: str) -> int:
        from safetensors import safe_open

        with safe_open(self.artifact.path / "weights.safetensors", "pt") as file:
            return int(file.get_slice(of).get_shape()[1])

    @property
    def embedding(self) -> Embedding:
        """Weights and equation, on the CPU."""
        if self._embedding is None:
            from safetensors.torch import load_file

            from graphlearn.models.kge.embedding import Embedding
            from graphlearn.models.kge.scorers.registry import scorer_type

            manifest = self.artifact.manifest
            kind = scorer_type(manifest["family"])
            known = kind.options_type.__dataclass_fields__
            options = kind.options_type(**{k: v for k, v in manifest["options"].items() if k in known})
            tensors = load_file(self.artifact.path / "weights.safetensors")
            entities, relations = tensors.pop("entities"), tensors.pop("relations")
            self._embedding = Embedding(kind(options), entities, relations, tensors, len(self.relations))
        return self._embedding

    @property
    def known(self) -> dict[Side, KnownAnswers]:
        """Every triple the model was given, train, valid and test, as known answers."""
        if not self._known:
            from graphlearn.models.core.known import KnownAnswers

            parts = list(read_snapshot(self.artifact.path).values())
            self._known = {side: KnownAnswers.of(parts, side, len(self.relations)) for side in Side}
        return self._known


def describe_unborn(options: Any, columns: dict[str, str], question: Question) -> ArrowSource:
    """A call on a model that an earlier statement will create: right columns, no rows.

    `columns` are those of the model's query (name -> DuckDB type), `options` its options.
    """
    _check_of(question)
    function, argument, given = question.function, question.argument, question.options
    connection = question.cursor()
    try:
        head, tail, relation = (columns[str(find_column(columns, name))] for name in ("head", "tail", "relation"))
        entity_field = key_field(common_type(connection, [head, tail]))
        relation_field = key_field(common_type(connection, [relation]))
        asked = columns_of(function, connection, argument)
        width = int(options.dim)
        schema = output_schema(function, entity_field, relation_field, width, given, asked, connection, argument)
    finally:
        connection.close()
    return ArrowSource(schema, lambda: iter(()))


def _check_of(question: Question) -> None:
    if question.function == "embeddings" and question.options["of"] not in ("entities", "relations"):
        raise OptionError(
            f"of must be 'entities' or 'relations', not {question.options['of']!r}",
            key="of",
            help="embeddings(…, of := 'relations')",
        )


def _predict(
    loaded: KgeModel, argument: str, schema: pa.Schema, options: dict[str, Any], cursor: CursorFactory, warn: Warn
) -> Iterator[pa.RecordBatch]:
    connection = cursor()
    try:
        columns = describe(connection, argument)
    finally:
        connection.close()
    keys = {name: column for column in columns if (name := column.lower()) in ("head", "relation", "tail")}
    unknown = Unknown()
    for batch in stream(cursor, encoded_sql(loaded, argument, columns)):
        if batch.num_rows:
            unknown.add(batch, {column: batch.column(f"__{name[0]}").to_numpy() for name, column in keys.items()})
            yield _answer(loaded, batch, schema, int(options["k"]), bool(options["exclude_known"]))
    if unknown.lost:
        name = loaded.artifact.model
        warn(f"predict: {name} has never seen a key of {unknown.text('questions')}; their rank and score are NULL")


def _answer(loaded: KgeModel, batch: pa.RecordBatch, schema: pa.Schema, k: int, exclude: bool) -> pa.RecordBatch:
    """Answers to a batch of questions, in the order of the questions."""
    h, r, t = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("__h", "__r", "__t"))
    model, known = loaded.embedding, loaded.known
    usable = (r >= 0) & (h != -1) & (t != -1)
    columns: list[list[Any]] = [[] for _ in range(6)]
    rows_out, heads_out, tails_out, ranks_out, scores_out, known_out = columns

    def add(rows: IdArray, heads: IdArray, tails: IdArray, ranks: IdArray, scores: Any, seen: Any) -> None:
        for target, value in zip(columns, (rows, heads, tails, ranks, scores, seen), strict=True):
            target.append(np.asarray(value))

    for side in Side:
        anchors, asked = (h, t) if side is Side.TAIL else (t, h)
        rows = np.flatnonzero(usable & (anchors >= 0) & (asked == -2))
        if not len(rows):
            continue
        hidden = known[side] if exclude else None
        ids, scores = model.top_k(anchors[rows], r[rows], side, k, hidden, memory_limit=EVALUATION_MEMORY)
        kept = ids >= 0
        flat_rows = np.repeat(rows, ids.shape[1]).reshape(ids.shape)[kept]
        ranks = np.broadcast_to(np.arange(1, ids.shape[1] + 1), ids.shape)[kept]
        answers = ids[kept]
        seen = is_known(known[side], anchors[flat_rows], r[flat_rows], answers)
        heads, tails = (h[flat_rows], answers) if side is Side.TAIL else (answers, t[flat_rows])
        add(flat_rows, heads, tails, ranks, scores[kept], seen)
    given = np.flatnonzero(usable & (h >= 0) & (t >= 0))
    if len(given):
        seen = is_known(known[Side.TAIL], h[given], r[given], t[given])
        scores = model.score(h[given], r[given], t[given])
        add(given, h[given], t[given], np.full(len(given), -1), scores, seen)
    answered = np.unique(np.concatenate(rows_out)) if rows_out else np.empty(0, np.int64)
    rest = np.setdiff1d(np.arange(batch.num_rows), answered)
    if len(rest):
        add(rest, h[rest], t[rest], np.full(len(rest), -1), np.full(len(rest), np.nan), np.zeros(len(rest), bool))
    rows = np.concatenate(rows_out)
    ranks = np.concatenate(ranks_out)
    order = np.lexsort((ranks, rows))
    rows, ranks = rows[order], ranks[order]
    heads, tails = np.concatenate(heads_out)[order], np.concatenate(tails_out)[order]
    scores = np.concatenate(scores_out)[order].astype(np.float32)
    none = np.isnan(scores)
    made = {
        "rank": pa.array(ranks.astype(np.int32), mask=ranks < 0),
        "score": pa.array(scores, mask=none),
        "known": pa.array(np.concatenate(known_out)[order].astype(bool), mask=none),
    }
    lower = {name.lower(): i for i, name in enumerate(batch.schema.names)}
    taken = pa.array(rows)
    out = []
    for f in schema:
        asked = batch.column(lower[f.name.lower()]).take(taken) if f.name.lower() in lower else None
        if f.name in made:
            column = made[f.name]
        elif f.name in ("head", "relation", "tail"):
            ids = {"head": heads, "relation": r[rows], "tail": tails}[f.name]
            dictionary = loaded.relations if f.name == "relation" else loaded.entities
            column = dictionary.take(np.where(ids < 0, -1, ids))
            if asked is not None and (asked.type == column.type or are_text(asked, column)):
                column = pa.compute.coalesce(column, asked.cast(column.type))  # an unknown key stays as it was asked
        else:
            column = asked
        out.append(column if column.type == f.type else column.cast(f.type))
    return pa.record_batch(out, schema=schema)


def is_known(known: KnownAnswers, anchors: IdArray, relations: IdArray, answers: IdArray) -> Any:
    """Which triples are known. shape: [n] each -> [n]"""
    keys = known.keys(anchors, relations)
    distinct: IdArray = np.unique(keys)
    rows, found = known.rows(distinct)
    stride = np.int64(max(int(known.answers.max(initial=0)), int(answers.max(initial=0))) + 1)
    pairs = distinct[rows] * stride + found
    return np.isin(keys * stride + answers, pairs)


def _similar(
    loaded: KgeModel, argument: str, schema: pa.Schema, k: int, cursor: CursorFactory, warn: Warn
) -> Iterator[pa.RecordBatch]:
    import torch
    from torch.nn import functional as F

    connection = cursor()
    try:
        column, kind = next(iter(describe(connection, argument).items()))
    finally:
        connection.close()
    d = loaded.entities
    sql = (
        f"SELECT TRY_CAST(q.{quoted(column)} AS {d.type}) AS key, coalesce(e.id, -1)::BIGINT AS id, "
        f"q.{quoted(column)} AS asked "
        f"FROM {subquery(argument)} q LEFT JOIN {d.sql} e ON {same_key(d, 'e', 'q.' + quoted(column), kind)}"
    )
    unit = F.normalize(loaded.embedding.entities, dim=1)
    step = max(1, EVALUATION_MEMORY // (4 * len(unit)))
    k = min(k, len(unit) - 1)
    unknown = Unknown()
    for batch in stream(cursor, sql):
        unknown.add(batch, {"asked": batch.column("id").to_numpy()})
        for lo in range(0, batch.num_rows, step):
            part = batch.slice(lo, step)
            ids = part.column("id").to_numpy(zero_copy_only=False)
            found = np.flatnonzero(ids >= 0)
            with torch.inference_mode():
                mine = torch.from_numpy(ids[found])
                scores = unit[mine] @ unit.T
                scores[torch.arange(len(mine)), mine] = -torch.inf
                best = torch.topk(scores, k, dim=1)
            lost = np.flatnonzero(ids < 0)
            rows = np.concatenate([np.repeat(found, k), lost])
            order = np.argsort(rows, kind="stable")
            nothing = np.full(len(lost), -1)
            neighbours = np.concatenate([best.indices.numpy().ravel(), nothing])[order]
            ranks = np.concatenate([np.tile(np.arange(1, k + 1), len(found)), nothing])[order]
            values = np.concatenate([best.values.numpy().ravel(), nothing.astype(np.float32)])[order]
            missing = neighbours < 0
            keys, asked = d.take(ids), part.column("key")
            if asked.type == keys.type or are_text(asked, keys):
                keys = pa.compute.coalesce(keys, asked.cast(keys.type))  # an unknown key stays as it was asked
            yield pa.record_batch(
                [
                    keys.take(pa.array(rows[order])),
                    d.take(neighbours),
                    pa.array(ranks.astype(np.int32), mask=missing),
                    pa.array(values.astype(np.float32), mask=missing),
                ],
                schema=schema,
            )
    if unknown.lost:
        warn(f"similar: {loaded.artifact.model} has never seen {unknown.text('keys')}; their neighbour is NULL")


def _embeddings(loaded: KgeModel, of: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    model = loaded.embedding
    dictionary = loaded.entities if of == "entities" else loaded.relations
    table = model.entities if of == "entities" else model.relations
    width = table.shape[1]
    for lo in range(0, len(dictionary), BATCH):
        part = table[lo : min(lo + BATCH, len(dictionary))].contiguous().numpy()
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), width)
        keys = dictionary.take(np.arange(lo, lo + len(part)))
        yield pa.record_batch([keys, vectors], schema=schema)


def _check_answerable(loaded: KgeModel, argument: str, cursor: CursorFactory) -> None:
    """Raise InputError, before anything is scanned, when no triple of the relation can be ranked.

    A relation without rows passes: it may be a table that a job is still going to fill.
    """
    connection = cursor()
    try:
        sql = encoded_sql(loaded, argument, describe(connection, argument))
        rows, usable = connection.execute(
            f"SELECT count(*), count(*) FILTER (__h >= 0 AND __r >= 0 AND __t >= 0) FROM ({sql})"
        ).fetchall()[0]
    finally:
        connection.close()
    if rows and not usable:
        raise InputError(
            "no triple of the relation has a head, relation and tail that the model knows",
            help="check that its keys are those the model was trained on",
        )


def _evaluate(loaded: KgeModel, argument: str | None, cursor: CursorFactory, warn: Warn) -> Iterator[pa.RecordBatch]:
    """The metrics stored at training time, or those of other triples, filtered by everything the model was given."""
    from graphlearn.models.core.known import KnownAnswers

    if argument is None:
        rows = read_metrics(loaded.artifact.path / "metrics.parquet")
        yield from metrics_table(rows, loaded.relations, PROTOCOL).to_batches()
        return
    connection = cursor()
    try:
        columns = {k: v for k, v in describe(connection, argument).items() if k.lower() in ("head", "relation", "tail")}
        sql = encoded_sql(loaded, argument, columns)
        table = connection.sql(f"SELECT DISTINCT __h, __r, __t FROM ({sql}) ORDER BY 2, 1, 3").to_arrow_table()
        ends = {str(find_column(columns, name)): f"__{name[0]}" for name in ("head", "relation", "tail")}
        unknown = Unknown()
        unknown.rows, unknown.lost = connection.execute(
            f"SELECT count(*), count(*) FILTER (least(__h, __r, __t) < 0) FROM ({sql})"
        ).fetchall()[0]
        for column, alias in ends.items() if unknown.lost else ():
            keys = f"SELECT DISTINCT {quoted(column)} FROM ({sql}) WHERE {alias} < 0 LIMIT {EXAMPLES + 1}"
            unknown.keys += [repr(key) if key is not None else "NULL" for (key,) in connection.execute(keys).fetchall()]
    finally:
        connection.close()
    h, r, t = (table.column(name).to_numpy() for name in ("__h", "__r", "__t"))
    usable = (h >= 0) & (r >= 0) & (t >= 0)
    if not usable.any():
        raise InputError("the relation to evaluate on has no rows", help="check its WHERE clause")
    triples = Triples(*(np.ascontiguousarray(c[usable].astype(np.int32)) for c in (h, r, t)))
    parts = [*read_snapshot(loaded.artifact.path).values(), triples]
    known = {side: KnownAnswers.of(parts, side, len(loaded.relations)) for side in Side}
    ranks = loaded.embedding.rank(triples, known, memory_limit=EVALUATION_MEMORY)
    protocol = PROTOCOL
    if unknown.lost:
        protocol += f"; {unknown.lost:,} of {unknown.rows:,} triples left out: their keys are unknown"
        name = loaded.artifact.model
        warn(f"evaluate: {name} has never seen a key of {unknown.text('triples')}; the metrics leave them out")
    yield from metrics_table(metric_rows("given", ranks), loaded.relations, protocol).to_batches()
