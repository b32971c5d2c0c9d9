"""A digest of the rows of a query, taken in the same scan as anything else that is to be known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import duckdb

from graphlearn.storage.columns import describe, quoted, subquery
from graphlearn.storage.files import disk_errors

TEMPORARY = "the query's temporary files"
HASH = "graphlearn_hash"
"""Column of a copy of a query that holds `row_hash`."""


@dataclass(frozen=True)
class Measured:
    """What one scan of a query found: its digest, its number of rows, and the values that were asked for."""

    fingerprint: str
    rows: int
    values: tuple[Any, ...] = ()


def measure(
    cursor: duckdb.DuckDBPyConnection, sql: str, columns: dict[str, str], aggregates: Sequence[str] = ()
) -> Measured:
    """Digest and aggregates (SQL over the columns of the query) in one scan.

    `columns` are those of the query (name -> DuckDB type), see `describe`. Equal fingerprints mean equal rows, column
    names and types, whatever the order of rows and columns, up to a 64-bit hash. Raises duckdb.Error as the query does.
    """
    return _measure(cursor, subquery(sql), row_hash(columns), columns, aggregates)


def measure_copy(
    cursor: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], aggregates: Sequence[str] = ()
) -> Measured:
    """`measure` from a copy of a query with these columns, which keeps each row's `row_hash` in the column HASH.

    The copy may lack columns of the query; `aggregates` are over those of the copy.
    """
    return _measure(cursor, table, HASH, columns, aggregates)


def _measure(
    cursor: duckdb.DuckDBPyConnection, relation: str, hash_: str, columns: dict[str, str], aggregates: Sequence[str]
) -> Measured:
    asked = ", ".join(("count(*)", f"bit_xor({hash_})", f"sum({hash_})", *aggregates))
    with disk_errors(TEMPORARY):
        rows, xor, total, *values = cursor.execute(f"SELECT {asked} FROM {relation}").fetchall()[0]
    return Measured(digest(columns, rows, xor, total), int(rows), tuple(values))


def fingerprint(cursor: duckdb.DuckDBPyConnection, sql: str) -> str:
    """The digest alone; see `measure`."""
    return measure(cursor, sql, describe(cursor, sql)).fingerprint


def row_hash(columns: dict[str, str]) -> str:
    """SQL for a 64-bit hash of a row, whatever the order of its columns."""
    return f"hash({', '.join(f'hash({quoted(name)})' for name in sorted(columns, key=str.lower))})"


def digest(columns: dict[str, str], count: int, xor: int | None, total: int | None) -> str:
    """The fingerprint of rows that were counted, and whose hashes were combined by XOR and by sum."""
    names = sorted((name.lower(), type_name) for name, type_name in columns.items())
    return blake2b(repr((names, count, xor or 0, int(total or 0))).encode(), digest_size=16).hexdigest()
