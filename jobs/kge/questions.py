"""Questions about a knowledge-graph embedding: their columns and those of the answers, and their keys as ids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.jobs.functions import CursorFactory
from graphlearn.jobs.kge.metrics import metrics_schema
from graphlearn.storage.columns import describe, find_column, quoted, subquery
from graphlearn.storage.dictionary import Dictionary
from graphlearn.types import IdArray

if TYPE_CHECKING:
    from graphlearn.jobs.kge.functions import KgeModel

BATCH = 8192
"""Questions answered at a time."""

EXAMPLES = 3
"""Unknown keys that a warning names."""


def output_schema(
    function: str,
    entity: pa.Field,
    relation: pa.Field,
    width: int,
    options: dict[str, Any],
    columns: dict[str, str],
    cursor: duckdb.DuckDBPyConnection,
    argument: str | None,
) -> pa.Schema:
    """The columns of a call's result. `columns` are those of its relation."""
    if function == "evaluate":
        return metrics_schema(relation)
    if function == "embeddings":
        key = entity if options["of"] == "entities" else relation
        return pa.schema([key.with_name("key"), pa.field("embedding", pa.list_(pa.float32(), width))])
    tail = [pa.field("rank", pa.int32()), pa.field("score", pa.float32())]
    if function == "similar":
        return pa.schema([entity.with_name("key"), entity.with_name("neighbour").with_nullable(True), *tail])
    assert argument is not None
    asked = cursor.sql(f"FROM {subquery(argument)} LIMIT 0").to_arrow_table().schema
    mine = {"head": entity, "relation": relation, "tail": entity}
    fields = [mine[f.name.lower()].with_name(f.name.lower()) if f.name.lower() in mine else f for f in asked]
    for name in ("head", "relation", "tail"):
        if find_column(columns, name) is None:
            fields.append(mine[name].with_name(name))
    fields = [f.with_nullable(True) for f in fields]
    return pa.schema([*fields, *tail, pa.field("known", pa.bool_())])


def columns_of(function: str, cursor: duckdb.DuckDBPyConnection, argument: str | None) -> dict[str, str]:
    """Columns of the relation, checked for the function. Raises InputError."""
    if argument is None:
        return {}
    columns = describe(cursor, argument)
    if function == "similar":
        if len(columns) != 1:
            raise InputError(
                f"similar takes one column of keys, not {len(columns)}", help="e.g. similar('m', (SELECT key FROM t))"
            )
        return columns
    wanted = ("relation",) if function == "predict" else ("head", "relation", "tail")
    for name in wanted:
        if find_column(columns, name) is None:
            raise InputError(
                f'{function} needs a column "{name}"; there is {", ".join(columns)}',
                help="name the columns head, relation, tail, e.g. SELECT subject AS head, …",
            )
    if function == "predict":
        if find_column(columns, "head") is None and find_column(columns, "tail") is None:
            raise InputError(
                f'predict needs a column "head" (to ask for tails) or "tail" (to ask for heads); there is '
                f"{', '.join(columns)}",
                help="name the known end, e.g. SELECT person AS head, 'lives_in' AS relation",
            )
        taken = [name for name in ("rank", "score", "known") if find_column(columns, name) is not None]
        if taken:
            raise InputError(
                f'the question\'s column "{taken[0]}" collides with a column of predict',
                help=f"rename it: SELECT * RENAME ({taken[0]} AS my_{taken[0]})",
            )
    return columns


def encoded_sql(loaded: KgeModel, argument: str, columns: dict[str, str]) -> str:
    """The relation with its ids as the last columns __h, __r, __t: -1 unknown to the model, -2 asked for (NULL)."""
    parts, joins = ["q.*"], []
    for alias, name, dictionary in (
        ("__h", "head", loaded.entities),
        ("__r", "relation", loaded.relations),
        ("__t", "tail", loaded.entities),
    ):
        column = find_column(columns, name)
        if column is None:
            parts.append(f"-2::BIGINT AS {alias}")
            continue
        where = f"q.{quoted(column)}"
        parts.append(f"CASE WHEN {where} IS NULL THEN -2 ELSE coalesce({alias}.id, -1) END::BIGINT AS {alias}")
        joins.append(f"LEFT JOIN {dictionary.sql} {alias} ON {same_key(dictionary, alias, where, columns[column])}")
    return f"SELECT {', '.join(parts)} FROM {subquery(argument)} q {' '.join(joins)}"


def same_key(dictionary: Dictionary, alias: str, value: str, kind: str) -> str:
    """The join condition; a value of another type must survive the cast both ways, so that 5.7 is not the key 6."""
    there = f"{alias}.key = TRY_CAST({value} AS {dictionary.type})"
    return there if kind == dictionary.type else f"{there} AND TRY_CAST({alias}.key AS {kind}) = {value}"


def stream(cursor: CursorFactory, sql: str) -> Iterator[pa.RecordBatch]:
    """Record batches of a query on a connection of its own."""
    connection = cursor()
    try:
        yield from connection.sql(sql).to_arrow_reader(BATCH)
    finally:
        connection.close()


class Unknown:
    """Counts rows with keys that a model does not know, and keeps a few of the keys."""

    def __init__(self) -> None:
        self.rows = self.lost = 0
        self.keys: list[str] = []

    def add(self, batch: pa.RecordBatch, ids: dict[str, IdArray]) -> None:
        """Count a batch; `ids` are those of each column of keys, -1 for an unknown one."""
        self.rows += batch.num_rows
        lost = np.zeros(batch.num_rows, bool)
        for name, column_ids in ids.items():
            found = np.flatnonzero(column_ids == -1)
            lost[found] = True
            for row in found[: 2 * EXAMPLES] if len(self.keys) <= EXAMPLES else ():
                value = batch.column(name)[int(row)].as_py()
                key = repr(value) if value is not None else "NULL"
                if key not in self.keys:
                    self.keys.append(key)
        self.lost += int(lost.sum())

    def text(self, what: str) -> str:
        """`4 of 5 questions ('x', 'y', 'z', …)`."""
        shown = [key if len(key) <= 40 else f"{key[:39]}…" for key in self.keys[:EXAMPLES]]
        more = ["…"] if len(self.keys) > EXAMPLES else []
        return f"{self.lost:,} of {self.rows:,} {what} ({', '.join([*shown, *more])})"


def are_text(*columns: pa.Array) -> bool:
    """Whether all columns hold text, of either width."""
    return all(pa.types.is_string(c.type) or pa.types.is_large_string(c.type) for c in columns)
