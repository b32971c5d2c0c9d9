"""Shared by the predictors of all families: keys are returned as asked, and unknown ones are named in a warning."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import duckdb
import numpy as np
import pyarrow as pa

from graphlearn.storage.columns import common_type, compatible, kind_of
from graphlearn.storage.dictionary import Dictionary, key_field
from graphlearn.storage.scratch import scratch
from graphlearn.types import IdArray

EXAMPLES = 3
"""Unknown keys named in a warning, at most."""
COMPARED = 2_000_000
"""Keys of a model that an unknown one is compared with, at most: less than a second."""
LONGEST = 200
"""Characters of an unknown key that is compared with those of the model, at most."""


class Unknown:
    """Counts the rows with keys unknown to a model and keeps a few of these keys."""

    def __init__(self, dictionaries: Mapping[str, Dictionary]) -> None:
        """`dictionaries`: the keys of the model, by column of the question."""
        self.rows = self.lost = 0
        self._dictionaries = dictionaries
        self._keys: dict[str, tuple[str, object]] = {}

    def add(self, columns: Mapping[str, pa.Array], ids: Mapping[str, IdArray]) -> None:
        """Count rows, given their keys and ids by column; the id of an unknown key is -1."""
        count = len(next(iter(ids.values())))
        self.rows += count
        lost = np.zeros(count, bool)
        for name, column_ids in ids.items():
            found = np.flatnonzero(column_ids == -1)
            lost[found] = True
            for row in found[: 2 * EXAMPLES] if len(self._keys) <= EXAMPLES else ():
                value = columns[name][int(row)].as_py()
                shown = repr(value) if isinstance(value, str) else "NULL" if value is None else str(value)
                self._keys.setdefault(shown, (name, value))
        self.lost += int(lost.sum())

    def text(self, what: str) -> str:
        """`4 of 5 questions ('x', 'y', 'z', …)`."""
        shown = [key if len(key) <= 40 else f"{key[:39]}…" for key in list(self._keys)[:EXAMPLES]]
        more = ["…"] if len(self._keys) > EXAMPLES else []
        return f"{self.lost:,} of {self.rows:,} {what} ({', '.join([*shown, *more])})"

    def suggestion(self) -> str:
        """`; did you mean 'x'?`, for those of the keys that resemble one of the model; empty if none does."""
        found = []
        for shown, (column, value) in list(self._keys.items())[:EXAMPLES]:
            if isinstance(value, str) and (near := similar_keys(self._dictionaries[column], value)):
                found.append((shown, " or ".join(map(repr, near))))
        if not found:
            return ""
        one = len(self._keys) == 1
        return f"; did you mean {', '.join(near if one else f'{near} for {shown}' for shown, near in found)}?"


def similar_keys(dictionary: Dictionary, wanted: str) -> list[str]:
    """The keys that differ from a text by a typing error or two, or in case; the nearest one, or two as near."""
    if dictionary.type != "VARCHAR" or not 0 < len(wanted) <= LONGEST:
        return []
    slips = 2 if len(wanted) > 5 else 1
    with closing(scratch(threads=1)) as connection:
        connection.register("keys", pa.table([dictionary.keys], names=["key"]))
        rows = connection.execute(
            f"FROM (SELECT key FROM keys WHERE abs(length(key) - length($1)) <= $2 LIMIT {COMPARED}) "
            "SELECT key, levenshtein(lower(key), lower($1)) AS slips "
            "WHERE jaro_winkler_similarity(lower(key), lower($1), 0.7) >= 0.7 AND slips <= $2 "  # the faster test first
            "ORDER BY slips, key LIMIT 2",
            [wanted, slips],
        ).fetchall()
    return [key for key, slips in rows if slips == rows[0][1]]


def echoed(asked: pa.Schema, column: str, key: pa.Field) -> pa.Field:
    """The field of an answer that repeats a column of keys of the question; called like `key`, a field of the model."""
    field = key if pa.types.is_null(asked.field(column).type) else asked.field(column)
    return field.with_name(key.name).with_nullable(True)


def echo(asked: pa.Array, field: pa.Field) -> pa.Array:
    """A column of the question as the field of the answer that repeats it. shape: [n] -> [n]"""
    return pa.nulls(len(asked), field.type) if pa.types.is_null(asked.type) else asked


def completed(asked: pa.Schema, column: str, key: pa.Field) -> pa.Field:
    """The field of an answer that repeats a column of the question with keys of the model in place of NULL.

    Its type is the common one of both where that holds all keys of either exactly, otherwise text.
    """
    field = echoed(asked, column, key)
    if field.type == key.type:
        return field
    with closing(scratch()) as connection:
        mine, theirs = _type_of(connection, key), _type_of(connection, field)
        kinds = kind_of(mine), kind_of(theirs)
        exact = kinds == ("timestamp", "date") or (compatible(mine, theirs) and kinds[0] != "text")
        both = common_type(connection, [mine, theirs]) if exact else "VARCHAR"
    return key_field(both).with_name(key.name).with_nullable(True)


def complete(asked: pa.Table, keys: pa.Array, key: pa.Field, field: pa.Field, time_zone: str | None) -> pa.Array:
    """The keys of a model (`key`: their field) as a column of `field`; what was asked where they are NULL.

    `asked` has one column; `field`: see `completed`. Times are cast as in a session with this time zone.
    shape: [n], [n] -> [n]
    """
    mine = _array(asked.column(0))
    if mine.type == keys.type == field.type or pa.types.is_null(mine.type):
        row = np.arange(len(keys))  # Arrow's coalesce does not support extension types
        missing = keys.is_null().to_numpy(zero_copy_only=False)
        return pa.concat_arrays([keys, echo(mine, field)]).take(pa.array(np.where(missing, row + len(keys), row)))
    with closing(scratch(time_zone=time_zone)) as connection:
        schema = pa.schema([key.with_name("key"), asked.schema.field(0).with_name("asked")])
        given = connection.from_arrow(pa.table([keys, mine], schema=schema))
        wanted = _type_of(connection, field)
        found = given.project(f"coalesce(key::{wanted}, asked::{wanted}) AS key").to_arrow_table().column("key")
    both = _array(found)
    return both if both.type == field.type else both.cast(field.type)


def _array(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _type_of(connection: duckdb.DuckDBPyConnection, field: pa.Field) -> str:
    """The name of DuckDB's type for an Arrow field."""
    return str(connection.from_arrow(pa.schema([field]).empty_table()).types[0])


def find_field(schema: pa.Schema, name: str) -> str | None:
    """The column as the schema spells it; names are compared case-insensitively, as DuckDB does."""
    return next((column for column in schema.names if column.lower() == name), None)
