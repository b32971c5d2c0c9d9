"""The columns of the answers of a knowledge-graph embedding.

predict     the question's columns with head and tail filled in, rank INTEGER, score FLOAT, known BOOLEAN
evaluate    method, split, side, relation, mrr, mrr_low, mrr_high, mr, amri, hits_at_1, hits_at_3, hits_at_10, count
            (of ranks, two per triple), too_few (triples), protocol
embeddings  key, embedding FLOAT[dim]
similar     key, neighbour, rank INTEGER, score FLOAT (cosine)

A key that was asked about keeps the type that it was asked with, the other keys have those the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from graphlearn.errors import InputError, OptionError, nearest
from graphlearn.jobs.answers import completed, echoed, find_field
from graphlearn.jobs.family import Columns, ModelShape, Question
from graphlearn.jobs.kge.metrics import TABLE
from graphlearn.storage.columns import common_type, find_column
from graphlearn.storage.dictionary import key_field
from graphlearn.storage.scratch import scratch

ENDS = ("head", "relation", "tail")
ANSWER = (pa.field("rank", pa.int32()), pa.field("score", pa.float32()))


@dataclass(frozen=True)
class KgeShape(ModelShape):
    """The fields of entity and relation keys, and the width of the embeddings of 'entities' and 'relations'."""

    entity: pa.Field
    relation: pa.Field
    widths: Mapping[str, int]

    @classmethod
    def of_columns(cls, columns: Columns, dim: int) -> KgeShape:
        """The shape of a model before it is trained, from the columns of its query."""
        head, relation, tail = (columns[str(find_column(dict(columns), name))] for name in ENDS)
        with closing(scratch()) as connection:
            entity, relation = common_type(connection, [head, tail]), common_type(connection, [relation])
        return cls(key_field(entity), key_field(relation), {"entities": dim, "relations": dim})

    def columns(self, question: Question) -> pa.Schema:
        function, asked = question.function, question.asked
        if function == "embeddings":
            of = question.options["of"]
            if of not in self.widths:
                near = nearest(of, list(self.widths))
                raise OptionError(
                    f"of must be 'entities' or 'relations', not {of!r}",
                    key="of",
                    help=f"write of := '{near[0]}'"
                    if near
                    else "leave it out for entities, or write of := 'relations'",
                )
            key = self.entity if of == "entities" else self.relation
            return pa.schema([key.with_name("key"), pa.field("embedding", pa.list_(pa.float32(), self.widths[of]))])
        if asked is not None:
            check_asked(function, asked)
        if function == "evaluate":
            relation = self.relation.with_name("relation").with_nullable(True)
            return pa.schema([relation if field.name == "relation" else field for field in TABLE.schema])
        if function == "similar":
            assert asked is not None
            key, neighbour = echoed(asked, asked.names[0], self.entity), self.entity.with_name("neighbour")
            return pa.schema([key.with_name("key"), neighbour.with_nullable(True), *ANSWER])
        assert asked is not None
        fields = []
        for field in asked:
            name = field.name.lower()
            key = self.relation.with_name(name) if name == "relation" else self.entity.with_name(name)
            if name in ENDS:
                fields.append((completed if can_fill(asked, name) else echoed)(asked, field.name, key))
            else:
                fields.append(field)
        fields += [self.entity.with_name(name) for name in ("head", "tail") if find_field(asked, name) is None]
        return pa.schema([*(f.with_nullable(True) for f in fields), *ANSWER, pa.field("known", pa.bool_())])


def can_fill(asked: pa.Schema, name: str) -> bool:
    """Whether predict fills NULLs in this column of the question: an end whose other end is given in another column."""
    return name != "relation" and all(find_field(asked, end) is not None for end in ("head", "tail"))


def check_asked(function: str, asked: pa.Schema) -> None:
    """Raise InputError if a relation lacks columns that a function needs."""
    names = ", ".join(asked.names)
    if function == "similar":
        if len(asked) != 1:
            raise InputError(
                f"similar takes one column of keys, not {len(asked)}", help="e.g. similar('m', (SELECT key FROM t))"
            )
        return
    for name in ("relation",) if function == "predict" else ENDS:
        if find_field(asked, name) is None:
            raise InputError(
                f'{function} needs a column "{name}"; the relation has {names}',
                help="name the columns head, relation, tail, e.g. SELECT subject AS head, …",
            )
    if function != "predict":
        return
    if find_field(asked, "head") is None and find_field(asked, "tail") is None:
        raise InputError(
            f'predict needs a column "head" (to ask for tails) or "tail" (to ask for heads); the relation has {names}',
            help="name the known end, e.g. SELECT person AS head, 'lives_in' AS relation",
        )
    taken = [name for name in ("rank", "score", "known") if find_field(asked, name) is not None]
    if taken:
        raise InputError(
            f'the question\'s column "{taken[0]}" collides with a column of predict',
            help=f"rename it: SELECT * RENAME ({taken[0]} AS my_{taken[0]})",
        )
