"""A bound on DuckDB's memory while something else, a training loop say, needs the machine too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from graphlearn.errors import ResourceError


@contextmanager
def bounded_memory(cursor: duckdb.DuckDBPyConnection, limit: int | None) -> Iterator[None]:
    """Lower DuckDB's memory_limit to `limit` bytes inside the block; what exceeds it spills to temp_directory.

    `limit` None means half of the memory that is free now. A lower limit of the user's is kept, and the user's limit
    is restored in the end. The setting belongs to the database, so other cursors are bound too. Raises ResourceError
    when `limit` is given and DuckDB already holds more than that.
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
                f"DuckDB holds more than the {limit >> 20:,} MiB that it may use for this job",
                help="keep the data in Parquet files or a database file instead of an in-memory table",
            ) from error
    try:
        yield
    finally:
        cursor.execute(f"SET memory_limit = '{_bytes(before)}B'")


def _bytes(text: str) -> int:
    """Bytes of a size as DuckDB shows it, cut after one decimal ("18.8 GiB"): the middle of what it may stand for."""
    number, unit = text.split()
    if unit.lower().startswith("byte"):
        return int(number)
    return int((float(number) + 0.05) * (1024 if "i" in unit else 1000) ** ("KMGTP".index(unit[0].upper()) + 1))
