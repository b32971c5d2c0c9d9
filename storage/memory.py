"""Limits DuckDB's memory while other work, such as training, also needs memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from graphlearn.errors import ResourceError

PER_THREAD = 128 << 20
"""Bytes that DuckDB needs per thread, as its documentation says: with less it may fail instead of spilling."""


@contextmanager
def bounded_memory(cursor: duckdb.DuckDBPyConnection, limit: int | None) -> Iterator[None]:
    """Lower DuckDB's memory_limit to `limit` bytes inside the block; data beyond that spills to temp_directory.

    `limit=None` is half of the memory that is free now. A lower limit set by the user is kept, and the user's limit is
    restored at the end. Where the limit is low, DuckDB uses fewer threads. The settings are global to the database and
    also affect other cursors. Raises ResourceError if `limit` is given and DuckDB already uses more than that.
    """
    import psutil

    wanted = limit if limit is not None else psutil.virtual_memory().available // 2
    before = str(cursor.execute("SELECT current_setting('memory_limit')").fetchall()[0][0])
    if _bytes(before) <= wanted:
        yield
        return
    try:
        cursor.execute(f"SET memory_limit = '{wanted}B'")
    except duckdb.OutOfMemoryException as error:
        if limit is not None:
            raise ResourceError(
                f"DuckDB uses more memory than the {limit >> 20:,} MiB available for this job",
                help="store the data in Parquet files or a database file instead of an in-memory table",
            ) from error
    threads = int(cursor.execute("SELECT current_setting('threads')").fetchall()[0][0])
    cursor.execute(f"SET threads = {max(1, min(threads, wanted // PER_THREAD))}")
    try:
        yield
    finally:
        cursor.execute(f"SET threads = {threads}")
        cursor.execute(f"SET memory_limit = '{_bytes(before)}B'")


def _bytes(text: str) -> int:
    """Bytes of a size as DuckDB prints it, cut after one decimal ("18.8 GiB"): the middle of the possible range."""
    number, unit = text.split()
    if unit.lower().startswith("byte"):
        return int(number)
    return int((float(number) + 0.05) * (1024 if "i" in unit else 1000) ** ("KMGTP".index(unit[0].upper()) + 1))
