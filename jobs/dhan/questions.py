"""The relations that a model of a graph is asked about: which of their columns are nodes, and which nodes those are."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.jobs.functions import Question
from graphlearn.jobs.kge.questions import Unknown, are_text, same_key
from graphlearn.storage.columns import describe, find_column, quoted, subquery
from graphlearn.storage.dictionary import keys_from_text
from graphlearn.storage.hetero.nodes import Keys
from graphlearn.types import IdArray


def id_column(question: Question, table: str, others: Collection[str]) -> str:
    """The column with nodes of a table, of these others. Raises InputError when there is none, or one of another."""
    columns = _columns(question)
    found = find_column(columns, "id") or find_column(columns, table.lower())
    if found is None and len(columns) == 1:
        found = next(iter(columns))
        other = next((name for name in others if name.lower() == found.lower()), None)
        if other is not None:
            raise InputError(
                f"the relation has nodes of {other}, and the model is asked of {table}",
                help=f"if they are ids of {table}, say so with AS: SELECT … AS id",
            )
    if found is None:
        raise InputError(
            f"the relation has no column id (its columns: {', '.join(columns)})",
            help=f"name the ids of {table} with AS: SELECT … AS id",
        )
    return found


def link_columns(question: Question, source: str, target: str) -> tuple[str, str | None]:
    """The columns with the sources and, where links are given, the targets. Raises InputError without a source."""
    columns = _columns(question)
    first = find_column(columns, "source") or find_column(columns, source.lower())
    last = find_column(columns, "target") or (find_column(columns, target.lower()) if target != source else None)
    if first is None and last is None and len(columns) == 1:
        first = next(iter(columns))
    if first is None:
        raise InputError(
            f"the relation has no column source (its columns: {', '.join(columns)})",
            help=f"name the ids of {source} with AS: SELECT … AS source",
        )
    return first, last


def find_nodes(question: Question, ends: Mapping[str, Keys], model: str) -> tuple[list[IdArray], list[pa.Array]]:
    """For each column of nodes (name -> keys of its table) their positions, -1 for unknown ones, and their keys.

    Unknown keys stay as they were asked, and are warned of.
    """
    assert question.argument is not None
    kinds = _columns(question)
    parts, joins = [], []
    special = {c: _special(k.dictionary.field.type) for c, k in ends.items()}
    for i, (column, keys) in enumerate(ends.items()):
        d, asked = keys.dictionary, f"q.{quoted(column)}"
        parts += [
            f"coalesce(n{i}.id, -1)::BIGINT AS id{i}",
            f"TRY_CAST({asked} AS {d.type}){'::VARCHAR' if special[column] else ''} AS key{i}",
        ]
        joins.append(f"LEFT JOIN {d.sql} n{i} ON {same_key(d, f'n{i}', asked, kinds[column])}")
    connection = question.cursor()
    try:
        sql = f"SELECT {', '.join(parts)} FROM {subquery(question.argument)} q {' '.join(joins)}"
        found = connection.sql(sql).to_arrow_table().combine_chunks()
    finally:
        connection.close()
    ids = [np.asarray(found.column(f"id{i}").to_numpy()) for i in range(len(ends))]
    asked_keys = [_array(found.column(f"key{i}")) for i in range(len(ends))]
    unknown = Unknown()
    unknown.add(pa.record_batch(asked_keys, names=list(ends)), dict(zip(ends, ids, strict=True)))
    if unknown.lost:
        what = "nodes" if len(ends) == 1 else "links"
        question.warn(f"{question.function}: {model} has never seen a key of {unknown.text(what)}")
    out = []
    for (column, keys), places, asked_key in zip(ends.items(), ids, asked_keys, strict=True):
        known = keys.dictionary.take(places)
        if special[column]:
            asked_key = keys_from_text(asked_key, keys.dictionary.type)
        elif asked_key.type != known.type and not are_text(asked_key, known):
            out.append(known)
            continue
        row = np.arange(len(places))
        both = pa.concat_arrays([known, asked_key.cast(known.type)])
        out.append(both.take(pa.array(np.where(places < 0, row + len(row), row))))
    return ids, out


def _special(kind: pa.DataType) -> bool:
    """Whether keys of a type leave DuckDB in another Arrow form than the dictionary's: UUIDs, structs and the like."""
    return isinstance(kind, pa.BaseExtensionType) or pa.types.is_nested(kind) or pa.types.is_large_binary(kind)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _columns(question: Question) -> dict[str, str]:
    assert question.argument is not None
    connection = question.cursor()
    try:
        return describe(connection, question.argument)
    finally:
        connection.close()
