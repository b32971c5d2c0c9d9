"""Answers of a stored knowledge-graph embedding: predict, evaluate, embeddings, similar. For columns see shape.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.jobs.answers import EXAMPLES, Unknown, complete, echo, find_field
from graphlearn.jobs.family import Predictor, Question, Warn
from graphlearn.jobs.kge.metrics import PROTOCOL, metric_rows, metrics_table
from graphlearn.jobs.kge.shape import ENDS, KgeShape, can_fill
from graphlearn.jobs.kge.tasks import EVALUATION_MEMORY
from graphlearn.jobs.metrics import read_metrics
from graphlearn.jobs.train import WEIGHTS
from graphlearn.models.kge.scorers.registry import scorer_type
from graphlearn.storage.artifacts import Artifact
from graphlearn.storage.dictionary import Dictionary
from graphlearn.storage.stored import damaged_if_unreadable, read_tensors, tensor_shapes
from graphlearn.storage.triples.snapshot import ENTITIES, RELATIONS, read_snapshot
from graphlearn.types import BoolArray, IdArray, Side, Split, Triples

if TYPE_CHECKING:
    from torch import Tensor

    from graphlearn.models.core.known import KnownAnswers
    from graphlearn.models.kge.embedding import Embedding
    from graphlearn.models.kge.scorer import Scorer

BATCH = 8192
"""Rows per batch of answers."""
ASKED, UNKNOWN = -2, -1
"""In place of an id: the end of a triple that is asked for, and a key unknown to the model."""


class KgePredictor(Predictor):
    """A stored version. Its parts are read into memory on first use."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.entities = Dictionary(artifact.path / ENTITIES)
        self.relations = Dictionary(artifact.path / RELATIONS)
        self.scorer = _scorer(artifact)
        self._dictionaries = {"head": self.entities, "relation": self.relations, "tail": self.entities}
        widths = {"entities": self.scorer.entity_width, "relations": self.scorer.relation_width}
        rows = {"entities": len(self.entities), "relations": len(self.relations) * (1 + self.scorer.options.reciprocal)}
        path = artifact.path / WEIGHTS
        with damaged_if_unreadable(path, "file"):
            found = tensor_shapes(path)
            wrong = [of for of in widths if found.get(of) != ("F32", (rows[of], widths[of]))]
            if wrong:
                raise ValueError(f"the embeddings of {wrong[0]} do not fit the options and keys of the model")
        self.shape = KgeShape(self.entities.field, self.relations.field, widths)

    def check(self, question: Question, batches: Iterable[pa.RecordBatch]) -> None:
        """Refuse to evaluate rows of which none can be ranked. A relation without rows may still be filled."""
        if question.function != "evaluate" or question.asked is None:
            return
        rows = 0
        for batch in batches:
            ids = self._ids(batch, question.time_zone)
            if (np.minimum.reduce([ids[name] for name in ENDS]) >= 0).any():
                return
            rows += batch.num_rows
        if rows:
            raise unanswerable()

    def answer(
        self, question: Question, batches: Iterable[pa.RecordBatch], schema: pa.Schema, warn: Warn
    ) -> Iterator[pa.RecordBatch]:
        options = question.options
        if question.function == "predict":
            return self.predict(question, batches, schema, warn)
        if question.function == "similar":
            return self.similar(question, batches, schema, warn)
        if question.function == "embeddings":
            return self.embeddings(options["of"], schema)
        if question.asked is None:
            stored = read_metrics(self.artifact.path)
            protocol = str(self.artifact.manifest.get("protocol", PROTOCOL))
            return iter(metrics_table(stored, self.relations, schema, protocol).to_batches())
        return self.evaluate(question, batches, schema, warn)

    @cached_property
    def embedding(self) -> Embedding:
        """The weights and scoring function, on the CPU."""
        from torch import Generator

        from graphlearn.models.core.restored import check_restored
        from graphlearn.models.kge.embedding import Embedding

        path = self.artifact.path / WEIGHTS
        tensors = read_tensors(path, "pt")
        entities, relations = tensors.pop("entities"), tensors.pop("relations")
        with damaged_if_unreadable(path, "file"):
            check_restored(tensors, "", lambda: self.scorer.initial_dense(Generator()))
        return Embedding(self.scorer, entities, relations, tensors, len(self.relations))

    @cached_property
    def known(self) -> dict[Side, KnownAnswers]:
        """All triples of the train, valid and test splits, as known answers."""
        return self._known_with([])

    @cached_property
    def learnt(self) -> dict[Side, KnownAnswers]:
        """The triples of the train split, as known answers."""
        from graphlearn.models.core.known import KnownAnswers

        train = read_snapshot(self.artifact.path)[Split.TRAIN]
        return {side: KnownAnswers.of([train], side, len(self.relations)) for side in Side}

    def _known_with(self, more: list[Triples]) -> dict[Side, KnownAnswers]:
        from graphlearn.models.core.known import KnownAnswers

        parts = [*read_snapshot(self.artifact.path).values(), *more]
        return {side: KnownAnswers.of(parts, side, len(self.relations)) for side in Side}

    @cached_property
    def alive(self) -> BoolArray | None:
        """Entities that occur in a fact, None for all; the others are never answers. shape: [E]"""
        if not self.artifact.manifest.get("counts", {}).get("vanished_entities"):
            return None
        alive = np.zeros(len(self.entities), np.bool_)
        for triples in read_snapshot(self.artifact.path).values():
            alive[triples.heads] = alive[triples.tails] = True
        return alive

    @cached_property
    def _unit(self) -> Tensor:
        """The normalised vectors of the entities. shape: [E, D]"""
        from torch.nn import functional as F

        return F.normalize(self.embedding.entities, dim=1)

    def _ids(self, batch: pa.RecordBatch, time_zone: str | None) -> dict[str, IdArray]:
        """Ids of the heads, relations and tails of a batch; ASKED for NULLs and for a missing column."""
        found: dict[str, IdArray] = {}
        for name in ENDS:
            column = find_field(batch.schema, name)
            if column is None:
                found[name] = np.full(batch.num_rows, ASKED, np.int64)
                continue
            keys = batch.column(column)
            ids = self._dictionaries[name].ids(keys, time_zone)
            found[name] = np.where(keys.is_null().to_numpy(zero_copy_only=False), ASKED, ids)
        return found

    def predict(
        self, question: Question, batches: Iterable[pa.RecordBatch], schema: pa.Schema, warn: Warn
    ) -> Iterator[pa.RecordBatch]:
        """The best answers to each question, in the order of the questions."""
        unknown, asked, open_ended = Unknown(self._dictionaries), 0, 0
        for batch in batches:
            if batch.num_rows:
                ids = self._ids(batch, question.time_zone)
                asked += batch.num_rows
                nothing = (ids["relation"] == ASKED) | ((ids["head"] == ASKED) & (ids["tail"] == ASKED))
                open_ended += int(nothing.sum())
                given = {name: batch.column(c) for name in ENDS if (c := find_field(batch.schema, name)) is not None}
                unknown.add(given, {name: ids[name] for name in given})
                yield self._complete(question, batch, ids, schema)
        if unknown.lost:
            name = self.artifact.model
            text = f"predict: {name} has never seen a key of {unknown.text('questions')}; their rank and score are NULL"
            warn(text + unknown.suggestion())
        if open_ended:
            few = f"predict: {open_ended:,} of {asked:,} questions have no relation, or neither head nor tail"
            warn(f"{few}; their rank and score are NULL")

    def _complete(
        self, question: Question, batch: pa.RecordBatch, ids: dict[str, IdArray], schema: pa.Schema
    ) -> pa.RecordBatch:
        k, exclude = int(question.options["k"]), bool(question.options["exclude_known"])
        h, r, t = (ids[name] for name in ENDS)
        model, known = self.embedding, self.known
        usable = (r >= 0) & (h != UNKNOWN) & (t != UNKNOWN)
        columns: list[list[Any]] = [[] for _ in range(6)]

        def add(*values: Any) -> None:
            for target, value in zip(columns, values, strict=True):
                target.append(np.asarray(value))

        for side in Side:
            anchors, asked = (h, t) if side is Side.TAIL else (t, h)
            rows = np.flatnonzero(usable & (anchors >= 0) & (asked == ASKED))
            if not len(rows):
                continue
            hidden = self.learnt[side] if exclude else None
            found, scores = model.top_k(
                anchors[rows], r[rows], side, k, hidden, alive=self.alive, memory_limit=EVALUATION_MEMORY
            )
            kept = found >= 0
            flat_rows = np.repeat(rows, found.shape[1]).reshape(found.shape)[kept]
            ranks = np.broadcast_to(np.arange(1, found.shape[1] + 1), found.shape)[kept]
            answers = found[kept]
            seen = known[side].contain(anchors[flat_rows], r[flat_rows], answers)
            heads, tails = (h[flat_rows], answers) if side is Side.TAIL else (answers, t[flat_rows])
            add(flat_rows, heads, tails, ranks, scores[kept], seen)
        given = np.flatnonzero(usable & (h >= 0) & (t >= 0))
        if len(given):
            seen = known[Side.TAIL].contain(h[given], r[given], t[given])
            scores = model.score(h[given], r[given], t[given])
            add(given, h[given], t[given], np.full(len(given), -1), scores, seen)
        answered = np.unique(np.concatenate(columns[0])) if columns[0] else np.empty(0, np.int64)
        rest = np.setdiff1d(np.arange(batch.num_rows), answered)
        if len(rest):
            add(rest, h[rest], t[rest], np.full(len(rest), -1), np.full(len(rest), np.nan), np.zeros(len(rest), bool))
        rows, heads, tails, ranks, scores, seen = (np.concatenate(column) for column in columns)
        order = np.lexsort((ranks, rows))
        rows, heads, tails, ranks, seen = rows[order], heads[order], tails[order], ranks[order], seen[order]
        scores = scores[order].astype(np.float32)
        none = np.isnan(scores)
        made = {
            "rank": pa.array(ranks.astype(np.int32), mask=ranks < 0),
            "score": pa.array(scores, mask=none),
            "known": pa.array(seen.astype(bool), mask=none),
        }
        keys = {"head": heads, "tail": tails}
        taken = pa.array(rows)
        out = []
        for field in schema:
            asked_as = find_field(batch.schema, field.name.lower())
            column = made.get(field.name)
            if column is None and asked_as is not None:
                column = batch.column(asked_as).take(taken)
                if field.name in keys and can_fill(batch.schema, field.name):
                    given = pa.Table.from_arrays([column], schema=pa.schema([batch.schema.field(asked_as)]))
                    known = self.entities.take(np.maximum(keys[field.name], -1))
                    column = complete(given, known, self.entities.field, field, question.time_zone)
                elif field.name in ENDS:
                    column = echo(column, field)
            elif column is None:
                column = self.entities.take(np.maximum(keys[field.name], -1))
            out.append(column if column.type == field.type else column.cast(field.type))
        return pa.record_batch(out, schema=schema)

    def similar(
        self, question: Question, batches: Iterable[pa.RecordBatch], schema: pa.Schema, warn: Warn
    ) -> Iterator[pa.RecordBatch]:
        """The entities nearest to each key, by cosine similarity."""
        import torch

        step = max(1, EVALUATION_MEMORY // (4 * len(self.entities)))
        k = min(int(question.options["k"]), (len(self.entities) if self.alive is None else int(self.alive.sum())) - 1)
        unknown, relations = Unknown({"key": self.entities}), list[str]()
        for batch in batches:
            asked = batch.column(0)
            every = self.entities.ids(asked, question.time_zone)
            named = (every < 0) & (self.relations.ids(asked, question.time_zone) >= 0)
            relations += [repr(asked[int(row)].as_py()) for row in np.flatnonzero(named)]
            unknown.add({"key": asked}, {"key": np.where(named, ASKED, every)})
            for lo in range(0, batch.num_rows, step):
                ids = every[lo : lo + step]
                found = np.flatnonzero(ids >= 0)
                with torch.inference_mode():
                    mine = torch.from_numpy(ids[found])
                    scores = self._unit[mine] @ self._unit.T
                    scores[torch.arange(len(mine)), mine] = -torch.inf
                    if self.alive is not None:
                        scores[:, torch.from_numpy(~self.alive)] = -torch.inf
                    best = torch.topk(scores, k, dim=1)
                lost = np.flatnonzero(ids < 0)
                rows = np.concatenate([np.repeat(found, k), lost])
                order = np.argsort(rows, kind="stable")
                nothing = np.full(len(lost), -1)
                neighbours = np.concatenate([best.indices.numpy().ravel(), nothing])[order]
                ranks = np.concatenate([np.tile(np.arange(1, k + 1), len(found)), nothing])[order]
                values = np.concatenate([best.values.numpy().ravel(), nothing.astype(np.float32)])[order]
                missing = neighbours < 0
                columns = [
                    echo(asked.take(pa.array(lo + rows[order])), schema.field(0)),
                    self.entities.take(neighbours),
                    pa.array(ranks.astype(np.int32), mask=missing),
                    pa.array(values.astype(np.float32), mask=missing),
                ]
                yield pa.record_batch(columns, schema=schema)
        if unknown.lost:
            text = f"similar: {self.artifact.model} has never seen {unknown.text('keys')}; their neighbour is NULL"
            warn(text + unknown.suggestion())
        if relations:
            name, shown = self.artifact.model, ", ".join(list(dict.fromkeys(relations))[:EXAMPLES])
            warn(
                f"similar: {shown} in {name} is a relation, not an entity, so its neighbour is NULL; "
                f"compare relations by FROM embeddings('{name}', of := 'relations')"
            )

    def embeddings(self, of: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The vectors of all entities, or of all relations."""
        dictionary = self.entities if of == "entities" else self.relations
        table = self.embedding.entities if of == "entities" else self.embedding.relations
        for lo in range(0, len(dictionary), BATCH):
            part = table[lo : min(lo + BATCH, len(dictionary))].contiguous().numpy()
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), table.shape[1])
            yield pa.record_batch([dictionary.take(np.arange(lo, lo + len(part))), vectors], schema=schema)

    def evaluate(
        self, question: Question, batches: Iterable[pa.RecordBatch], schema: pa.Schema, warn: Warn
    ) -> Iterator[pa.RecordBatch]:
        """Metrics on given triples, filtered by them and by all triples of the model."""
        unknown, parts = Unknown(self._dictionaries), [np.empty((3, 0), np.int64)]
        for batch in batches:
            ids = {
                name: np.where(column == ASKED, UNKNOWN, column)
                for name, column in self._ids(batch, question.time_zone).items()
            }
            unknown.add({name: batch.column(str(find_field(batch.schema, name))) for name in ENDS}, ids)
            parts.append(np.stack([ids["relation"], ids["head"], ids["tail"]]))
        r, h, t = np.unique(np.concatenate(parts, axis=1), axis=1)
        usable = (h >= 0) & (r >= 0) & (t >= 0)
        if not unknown.rows:
            raise InputError("the relation to evaluate on has no rows", help="check its WHERE clause")
        if not usable.any():
            raise unanswerable()
        triples = Triples(*(np.ascontiguousarray(column[usable].astype(np.int32)) for column in (h, r, t)))
        known = self._known_with([triples])
        ranks = self.embedding.rank(triples, known, alive=self.alive, memory_limit=EVALUATION_MEMORY)
        protocol = PROTOCOL
        if unknown.lost:
            protocol += f"; {unknown.lost:,} of {unknown.rows:,} triples left out: their keys are unknown"
            name = self.artifact.model
            text = f"evaluate: {name} has never seen a key of {unknown.text('triples')}; the metrics leave them out"
            warn(text + unknown.suggestion())
        rows = metric_rows(str(self.artifact.manifest["family"]), "given", ranks)
        yield from metrics_table(rows, self.relations, schema, protocol).to_batches()


def unanswerable() -> InputError:
    """The error for triples of which none can be ranked."""
    return InputError(
        "no triple of the relation has a head, relation and tail that the model knows",
        help="check that it uses the keys that the model was trained on",
    )


def _scorer(artifact: Artifact) -> Scorer:
    """The scoring function with the options that a version was trained with."""
    kind = scorer_type(artifact.manifest["family"])
    return kind(kind.options_type.stored(artifact.manifest["options"]))
