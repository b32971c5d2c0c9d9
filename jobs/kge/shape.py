"""The columns of the answers of a knowledge-graph embedding.

predict     the question's columns with head and tail filled in, rank INTEGER, score FLOAT, known BOOLEAN
evaluate    method, split, side, relation, mrr, mrr_low, mrr_high, mr, amri, hits_at_1, hits_at_3, hits_at_10, count
            (of ranks, two per triple), too_few (triples), protocol
embeddings  key, embedding FLOAT[dim]
similar     key, neighbour, rank INTEGER, score FLOAT (cosine)

Keys have the types that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import pyarrow as pa

from graphlearn.errors import InputError, OptionError
from graphlearn.jobs.answers import find_field
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
                raise OptionError(
                    f"of must be 'entities' or 'relations', not {of!r}",
                    key="of",
                    help="embeddings(…, of := 'relations')",
                )
            key = self.entity if of == "entities" else self.relation
            return pa.schema([key.with_name("key"), pa.field("embedding", pa.list_(pa.float32(), self.widths[of]))])
        if asked is not None:
            check_asked(function, asked)
        if function == "evaluate":
            relation = self.relation.with_name("relation").with_nullable(True)
            return pa.schema([relation if field.name == "relation" else field for field in TABLE.schema])
        if function == "similar":
            return pa.schema(
                [self.entity.with_name("key"), self.entity.with_name("neighbour").with_nullable(True), *ANSWER]
            )
        assert asked is not None
        mine = {"head": self.entity, "relation": self.relation, "tail": self.entity}
        fields = [mine[f.name.lower()].with_name(f.name.lower()) if f.name.lower() in mine else f for f in asked]
        fields += [mine[name].with_name(name) for name in ENDS if find_field(asked, name) is None]
        return pa.schema([*(f.with_nullable(True) for f in fields), *ANSWER, pa.field("known", pa.bool_())])


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
