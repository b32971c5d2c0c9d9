"""In-memory DuckDB databases for casts, hashes and lookups of our own. Nothing in them can reach the outside.

They have no access to files (except those named), the network, extensions or other databases, and run one statement at
a time. So a string from a stored model that found its way into their SQL could do no harm.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from graphlearn.storage.columns import literal
from graphlearn.storage.memory import memory_available

LEAST_MEMORY = 128 << 20
"""Bytes of a scratch database's memory_limit on a machine that has hardly any left."""


def scratch(*reads: Path, threads: int | None = None, time_zone: str | None = None) -> duckdb.DuckDBPyConnection:
    """A new database that can read the files `reads` and no others, with this TimeZone (None: the system's).

    It may use half of the memory that is free now. Its Arrow output preserves every type and has 64-bit offsets, for
    any size. Raises duckdb.Error for an unknown zone.
    """
    connection = duckdb.connect(config={} if threads is None else {"threads": threads})
    settings = {
        "memory_limit": f"'{max(LEAST_MEMORY, memory_available() // 2)}B'",
        "arrow_lossless_conversion": "true",
        "arrow_large_buffer_size": "true",
        **({"TimeZone": literal(time_zone)} if time_zone else {}),
        **({"allowed_paths": f"[{', '.join(literal(os.path.abspath(path)) for path in reads)}]"} if reads else {}),
        "enable_external_access": "false",
        "lock_configuration": "true",
    }
    try:
        for name, value in settings.items():
            connection.execute(f"SET {name} = {value}")
    except BaseException:
        connection.close()
        raise
    return connection


def ask(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> duckdb.DuckDBPyRelation:
    """The rows of one query. `values`: of its parameters $1, $2, …

    Raises duckdb.Error, also for a text that is not exactly one statement.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise duckdb.ParserException(f"expected one statement, not {len(statements)}")
    return connection.sql(statements[0], params=list(values)) if values else connection.sql(statements[0])
