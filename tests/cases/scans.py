"""A table that counts how often DuckDB reads it."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pyarrow as pa


class CountedScans:
    """A table to be registered as a view. `scans` counts the scans that read from it, `rows` the rows that they read.

    DuckDB also opens the stream to read its schema, so a scan is counted at its first batch. The stream contains all
    columns and rows whatever the query selects, so that projections and filters do not hide a scan.
    """

    def __init__(self, table: pa.Table, batch: int = 64) -> None:
        self.table, self.batch = table, batch
        self.scans = self.rows = 0

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return pa.RecordBatchReader.from_batches(self.table.schema, self._read()).__arrow_c_stream__(requested_schema)

    def _read(self) -> Iterator[pa.RecordBatch]:
        self.scans += 1
        for batch in self.table.to_batches(max_chunksize=self.batch):
            self.rows += batch.num_rows
            yield batch

    def taken(self) -> tuple[int, int]:
        """(scans, rows) since the last call."""
        found = self.scans, self.rows
        self.scans = self.rows = 0
        return found


def count_scans(cursor: duckdb.DuckDBPyConnection, name: str, sql: str) -> CountedScans:
    """Create a view with the rows of a query that counts its scans."""
    counted = CountedScans(cursor.sql(sql).to_arrow_table())
    cursor.register(name, counted)
    return counted
