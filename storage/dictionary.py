"""The users' keys by id: a Parquet file (id, key) ordered by id, read into Arrow on first use.

Ids are stable: the dictionary of a model's next version is the current one with new keys appended.

Parquet does not support some of DuckDB's types (HUGEINT, TIME WITH TIME ZONE, BIT, …). Keys of these types are stored
as text; the file's metadata contains the original type, and reading casts back to it.
"""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from graphlearn.errors import InputError
from graphlearn.storage.columns import common_type, compatible, key_sql, kind_of, literal
from graphlearn.storage.files import disk_errors
from graphlearn.storage.key_index import KeyIndex
from graphlearn.storage.scratch import ask, scratch
from graphlearn.storage.stored import check_texts, damaged_if_unreadable, parquet_metadata
from graphlearn.storage.type_names import is_type
from graphlearn.types import IdArray

_TYPE_KEY = b"graphlearn_key_type"
_AS_TEXT = ("HUGEINT", "UHUGEINT", "BIGNUM", "BIT", "TIMESTAMP_S", "TIMESTAMP_MS", "TIME_NS", "TIME WITH TIME ZONE")


def numbered(keys: str, key_type: str, base: Dictionary | None = None) -> str:
    """SQL (id, key) that numbers the distinct keys of a query (key), none of them NULL.

    `base`: the dictionary of the previous version. Its keys keep their ids, even if they no longer occur. New keys get
    the ids after them (without a base, from 0) in key order. `key_type`: of the query's keys; see `widened`.
    """
    found = f"(SELECT DISTINCT key FROM ({keys}))"
    number = "row_number() OVER (ORDER BY key ASC) - 1"
    if base is None:
        return f"SELECT {number} AS id, key FROM {found}"
    known = f"(SELECT id, {key_sql('key', key_type)} AS key FROM {base.sql})"
    return (
        f"SELECT id, key FROM {known} UNION ALL "
        f"SELECT {len(base)} + {number} AS id, key FROM {found} ANTI JOIN {known} USING (key)"
    )


def widened(
    cursor: duckdb.DuckDBPyConnection, base: Dictionary | None, key_type: str, what: str, role: str | None = None
) -> str:
    """The type for the keys of a base together with those of a query, which have the type `key_type`.

    Raises InputError, which calls the keys `what`, if the types are of different kinds or no type holds both exactly.
    """
    if base is None or base.type == key_type:
        return key_type
    if compatible(base.type, key_type):
        found = common_type(cursor, [base.type, key_type])
        back = f"TRY_CAST(TRY_CAST(key AS {found}) AS {base.type})"
        lost = f"SELECT count(*) FROM {base.sql} WHERE {back} IS DISTINCT FROM key"
        if found == base.type or not cursor.execute(lost).fetchall()[0][0]:
            return found
    raise InputError(
        f"the keys of {what} are {base.type} in the model, but {key_type} in the query",
        role=role,
        help=f"cast them to {base.type} in the query, or start over with CREATE OR REPLACE MODEL",
    )


def write_dictionary(cursor: duckdb.DuckDBPyConnection, sql: str, key_type: str, path: Path) -> None:
    """Write the rows (id, key) of a query as a dictionary, ordered by id.

    Raises InputError if keys of the type cannot be stored exactly, WorkspaceError when the disk is full.
    """
    if not is_type(key_type):
        raise InputError(f"keys of type {key_type} cannot be stored", help="cast them to VARCHAR in the query")
    as_text = key_type in _AS_TEXT or kind_of(key_type) == "nested"
    if as_text:
        lossy = cursor.execute(
            f"SELECT count(*) FROM ({sql}) WHERE TRY_CAST(key::VARCHAR AS {key_type}) IS DISTINCT FROM key"
        ).fetchall()[0][0]
        if lossy:
            raise InputError(
                f"{lossy:,} keys of type {key_type} cannot be stored exactly", help="cast them to VARCHAR in the query"
            )
    key = "key::VARCHAR" if as_text else "key"
    with disk_errors(path):
        cursor.execute(
            f"COPY (SELECT id, {key} AS key FROM ({sql}) ORDER BY id ASC) TO {literal(str(path))} "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{graphlearn_key_type: {literal(key_type)}}})"
        ).fetchall()


def key_field(type_name: str) -> pa.Field:
    """The Arrow field "key" of a dictionary with keys of a DuckDB type; see `Dictionary.field`."""
    with closing(scratch()) as connection:
        field: pa.Field = ask(connection, f"SELECT NULL::{type_name} AS key").to_arrow_table().schema.field("key")
    return field


class Dictionary:
    """The keys of a model's entities or relations. Opening reads only the footer; keys are read on first use."""

    def __init__(self, path: Path) -> None:
        """Open the file. Raises ArtifactError if it is missing or damaged."""
        self.path = Path(path)
        with damaged_if_unreadable(self.path, "dictionary"):
            metadata = parquet_metadata(self.path, "dictionary", ("id", "key"))
            self.type = (metadata.metadata or {}).get(_TYPE_KEY, b"").decode()
            if not is_type(self.type) or kind_of(self.type) is None:
                raise ValueError("the type of its keys is not a DuckDB type that keys can have")
        self._length: int = metadata.num_rows
        self._column: pa.Table | None = None
        self._index: KeyIndex | None = None
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return self._length

    @property
    def sql(self) -> str:
        """A subquery (id, key) for FROM clauses, with keys of their original type."""
        return f"(SELECT id, key::{self.type} AS key FROM read_parquet({literal(str(self.path))}))"

    @property
    def field(self) -> pa.Field:
        """The Arrow field "key", with which DuckDB reads `keys` as exactly `type`."""
        return self._table().schema.field("key")

    @property
    def keys(self) -> pa.Array:
        """All keys in id order, as one contiguous array. shape: [n]"""
        column = self._table().column("key")
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()

    def take(self, ids: IdArray) -> pa.Array:
        """The keys of the ids; NULL for a negative id. shape: [any n] -> [n]"""
        missing = ids < 0
        return self.keys.take(pa.array(ids, mask=missing if missing.any() else None))

    def ids(self, keys: pa.Array | pa.ChunkedArray, time_zone: str | None = None) -> IdArray:
        """The ids of keys of any type, -1 for unknown keys and for NULL. shape: [n] -> [n]

        A key must be unchanged by a cast to the dictionary's type and back: 6.0 is the key 6, 5.7 is not. Timestamps
        are cast as in a session with this TimeZone (None: the system's). The first call indexes the keys. Thread-safe.
        Raises InputError for keys of a type that DuckDB cannot cast to the dictionary's type or back, ArtifactError if
        a key occurs twice in the dictionary.
        """
        with self._lock:
            if self._index is None:
                known, field = self.keys, self.field
                with damaged_if_unreadable(self.path, "dictionary"):
                    self._index = KeyIndex(known, field, self.type)
            index = self._index
        return index.find(keys, time_zone)

    def close(self) -> None:
        """Release the index of `ids`; a later call rebuilds it."""
        with self._lock:
            if self._index is not None:
                self._index.close()
            self._index = None

    def lookup(self, cursor: duckdb.DuckDBPyConnection, key: object) -> int | None:
        """The id of one key (a Python value, cast to the dictionary's type), or None. Reads one row group or two."""
        try:  # as an INTEGER, 5.7 becomes 6, but is not that key
            exact = cursor.execute(f"SELECT TRY_CAST($1 AS {self.type}) = $1", [key]).fetchall()[0][0]
        except (duckdb.ConversionException, duckdb.BinderException, duckdb.NotImplementedException):
            return None
        if not exact:
            return None
        rows = cursor.execute(
            f"SELECT id FROM {self.sql} WHERE key = CAST($1 AS {self.type}) LIMIT 1", [key]
        ).fetchall()
        return int(rows[0][0]) if rows else None

    def _table(self) -> pa.Table:
        with self._lock:
            if self._column is None:
                self._column = self._read()
            return self._column

    def _read(self) -> pa.Table:
        """Read through DuckDB: only DuckDB knows the Arrow form of all its types."""
        with damaged_if_unreadable(self.path, "dictionary"), closing(scratch(self.path)) as connection:
            self._check_size(connection)
            found = ask(connection, f"SELECT id, key FROM {self.sql} ORDER BY id ASC").to_arrow_table()
            if not np.array_equal(found.column("id").to_numpy(), np.arange(len(self))):
                raise ValueError(f"its ids are not 0 to {len(self) - 1:,}")
            table: pa.Table = found.select(["key"]).combine_chunks()
            if table.column("key").null_count:
                raise ValueError("it has a NULL among its keys")
            return table

    def _check_size(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raise ValueError if the keys are larger than keys that we wrote. DuckDB counts repeated ones without copies.

        A key of another type than VARCHAR or BLOB has a fixed size, which `parquet_metadata` bounds.
        """
        stored = f"read_parquet({literal(str(self.path))})"
        type_name = str(ask(connection, f"SELECT key FROM {stored}").types[0])
        if type_name in ("VARCHAR", "BLOB", "JSON"):
            length = "octet_length(key)" if type_name == "BLOB" else "strlen(key)"
            size = ask(connection, f"SELECT coalesce(sum({length}), 0)::BIGINT FROM {stored}").fetchall()[0][0]
            check_texts(self.path, int(size))
