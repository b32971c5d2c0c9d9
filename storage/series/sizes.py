"""The size of a series, measured before it is encoded."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb

from graphlearn.errors import ResourceError
from graphlearn.storage.columns import describe
from graphlearn.storage.files import disk_errors
from graphlearn.storage.series.axis import TimeAxis
from graphlearn.storage.series.source import SeriesSource, check_series_columns, no_rows


@dataclass(frozen=True, kw_only=True)
class SeriesSizes:
    """The measurements of a series before it is encoded, from which a run is planned.

    `time`, `value` and the keys of `modes` (name -> number of keys) are columns as the query spells them. `readings`:
    finite values on the time axis, including duplicates. For an empty query, `rows`, `steps` and `readings` are 0.
    """

    fingerprint: str
    rows: int
    time: str
    value: str
    modes: dict[str, int]
    steps: int = 0
    readings: int = 0
    freq: str = ""

    @property
    def cells(self) -> int:
        """Steps times series."""
        return self.steps * math.prod(self.modes.values())

    @property
    def bytes(self) -> int:
        """Size of the tensor, which is float32."""
        return 4 * self.cells

    @property
    def density(self) -> float:
        """An upper bound on the share of observed cells, 0 to 1."""
        return min(1.0, self.readings / self.cells) if self.cells else 0.0

    def text(self) -> str:
        """ "35,040 steps of 15 minutes x 8,600 sensor = 301,344,000 cells, 1,150 MiB"."""
        sizes = "".join(f" x {size:,} {name}" for name, size in self.modes.items())
        return f"{self.steps:,} steps of {self.freq}{sizes} = {self.cells:,} cells, {self.bytes / (1 << 20):,.0f} MiB"

    def check_rows(self) -> None:
        """Raise InputError for an empty query."""
        if not self.rows:
            raise no_rows()

    def check_memory(self, limit: int, what: str) -> None:
        """Raise ResourceError if the tensor has more than `limit` bytes; `what` names the limit."""
        if self.bytes > limit:
            raise ResourceError(
                f"the series would be {self.text()}, at most {self.density:.2%} of them observed; "
                f"{what} is {limit / (1 << 20):,.0f} MiB",
                help="choose a longer freq, a later start or fewer keys (WHERE), and look for outlying time stamps",
            )


def measure_series(
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    *,
    time: str,
    modes: Sequence[str],
    value: str,
    freq: Any = None,
    start: Any = None,
) -> SeriesSizes:
    """The fingerprint of the query and the size of the tensor that `encode_series` would build from it.

    The query is scanned once, into a temporary table, on which the same counts run as in `encode_series`. (Aggregates
    alone would not do: an axis needs the rows of each distinct stamp, and with a million stamps DuckDB's `histogram`
    takes 50 times as long as the copy; one pass with GROUPING SETS takes twice as long.)

    Raises the errors of `encode_series` for columns, values, stamps, freq and start, but accepts an empty query (see
    `SeriesSizes.check_rows`); WorkspaceError when the disk is full; the duckdb.Error of the query.
    """
    columns = describe(cursor, sql)
    check_series_columns(columns, time, modes, value)
    copy = f"temp.main.graphlearn_series_{secrets.token_hex(6)}"
    source = SeriesSource(cursor, copy, columns, time, modes, value)
    with disk_errors("DuckDB's temporary files"):
        try:
            source.copy(sql)
            fingerprint = source.count()
            if not source.report.rows:
                return sizes_of(source, fingerprint, None, [0] * len(source.modes))
            source.check()
            axis = source.find_axis(freq, start)
            return sizes_of(source, fingerprint, axis, source.count_keys(axis))
        finally:
            with suppress(duckdb.Error):  # an aborted transaction or a closed connection has dropped it already
                source.execute(f"DROP TABLE IF EXISTS {copy}")


def sizes_of(source: SeriesSource, fingerprint: str, axis: TimeAxis | None, keys: list[int]) -> SeriesSizes:
    """The sizes of a counted source. `keys`: their number by mode. `axis`: None without rows."""
    report = source.report
    dropped = report.null_rows + report.before_start + report.null_values + report.nonfinite_values
    return SeriesSizes(
        fingerprint=fingerprint,
        rows=report.rows,
        time=source.time_name,
        value=source.value_name,
        modes=dict(zip(source.modes, keys, strict=True)),
        steps=axis.steps if axis else 0,
        readings=report.rows - dropped,
        freq=axis.freq_text if axis else "",
    )
