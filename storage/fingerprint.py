"""A digest of the rows of a query, computed in one scan together with any aggregates."""

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
"""The column with `row_hash` in a copy of a query."""


@dataclass(frozen=True)
class Measured:
    """The results of one scan of a query: its digest, its number of rows, and the values of the aggregates."""

    fingerprint: str
    rows: int
    values: tuple[Any, ...] = ()


def measure(
    cursor: duckdb.DuckDBPyConnection, sql: str, columns: dict[str, str], aggregates: Sequence[str] = ()
) -> Measured:
    """Digest and aggregates (SQL over the columns of the query) in one scan.

    `columns`: of the query (name -> DuckDB type), see `describe`. Up to collisions of 64-bit hashes, equal fingerprints
    mean equal rows, column names and types; the order of rows and columns does not matter. Raises the duckdb.Error of
    the query.
    """
    return _measure(cursor, subquery(sql), row_hash(columns), columns, aggregates)


def measure_copy(
    cursor: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], aggregates: Sequence[str] = ()
) -> Measured:
    """Like `measure`, from a copy of a query that contains each row's `row_hash` in the column HASH.

    `columns`: of the query. The copy may lack some of them; `aggregates` are over the columns of the copy.
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
    """SQL for a 64-bit hash of a row that does not depend on the order of its columns."""
    return f"hash({', '.join(f'hash({quoted(name)})' for name in sorted(columns, key=str.lower))})"


def digest(columns: dict[str, str], count: int, xor: int | None, total: int | None) -> str:
    """The fingerprint of rows, from their number and the XOR and sum of their hashes."""
    names = sorted((name.lower(), type_name) for name, type_name in columns.items())
    return blake2b(repr((names, count, xor or 0, int(total or 0))).encode(), digest_size=16).hexdigest()
