"""Series input: turns a query in long format (a time, keys, a value) into a dense array [T, N1, ..., NM].

1. The query is materialised once, in a temporary table.
2. SQL determines the step and the axis, and the distinct keys of each mode, numbered in key order: its dictionary.
3. Rows are streamed as (cell, value) into a float32 array of NaN, which is mapped from a temporary file.
4. Cells with several readings are detected in step 3 and merged by a second, grouped query, so that the usual input,
   with one reading per cell, is never sorted or grouped.

DuckDB spills to `temp_directory` above `memory_limit`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast, get_args

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from graphlearn.errors import InputError, OptionError, did_you_mean
from graphlearn.events import Emit, Note
from graphlearn.storage.columns import FLOAT32_MAX, describe, key_sql
from graphlearn.storage.dictionary import Dictionary, numbered, widened, write_dictionary
from graphlearn.storage.files import disk_errors
from graphlearn.storage.interrupt import interruptible
from graphlearn.storage.memory import bounded_memory
from graphlearn.storage.series.axis import TimeAxis
from graphlearn.storage.series.extremes import find_extremes
from graphlearn.storage.series.sizes import sizes_of
from graphlearn.storage.series.source import SeriesSource, check_series_columns
from graphlearn.storage.series.tensor import Mode, SeriesTensor, read_series
from graphlearn.types import BoolArray, FloatArray

__all__ = ["Mode", "SeriesTensor", "check_series_columns", "encode_series", "read_series"]

Aggregate: TypeAlias = Literal["mean", "sum", "last", "min", "max", "count"]


_MERGE = {
    "mean": "favg(value)",
    "sum": "fsum(value)",
    "min": "min(value)",
    "max": "max(value)",
    "count": "count(*)::DOUBLE",
    "last": "arg_max(value, {'stamp': stamp, 'value': value})",
}
ID, KEY = "graphlearn_id", "graphlearn_key"
"""The columns of key tables, which are joined to a query that may have columns id and key."""
_FEW = 1 << 20
"""Up to this many repeated cells are looked up one by one, above that all rows are grouped."""
FEW_ROWS = 50
"""With fewer rows, a key may have about as many values as there are rows."""
ENDED = 10
"""A series has ended if so many of its usual distances between readings have passed since its last one."""
_BLOCK = 1 << 20
BATCH_ROWS = 1 << 18


def encode_series(
    cursor: duckdb.DuckDBPyConnection,
    sql: str,
    *,
    time: str,
    modes: Sequence[str],
    value: str,
    freq: Any = None,
    aggregate: Aggregate = "mean",
    start: Any = None,
    base: SeriesTensor | None = None,
    limit: int | None = None,
    folder: Path | None = None,
    memory_limit: int | None = None,
    emit: Emit,
) -> SeriesTensor:
    """Read a query with exactly the columns `time`, `modes` and `value` into a dense array.

    `freq` is an interval ('1 month', a timedelta, Arrow's month-day-nano) or, for integer times, a number; by default
    it is the most common distance between stamps. Readings with the same step and keys are merged by `aggregate`
    ("last": by time). Cells that are absent, NULL, NaN or infinite are not observed; nothing is filled in. The axis
    runs from `start` (by default the first reading) to the last row. Everything dropped, moved and merged is counted in
    the report and sent to `emit`. The result does not depend on the order of the rows.

    `base`: the series of the previous version. Its keys keep their ids, and new keys are appended in key order. Its
    axis is continued to the last row, whatever `freq` and `start`, and its borders are kept.

    `limit`: bytes of the array, also limited by the free disk space of `folder` (by default the system's temporary
    folder), which contains its temporary file. `memory_limit`: of DuckDB (see `bounded_memory`), for the temporary
    table.

    shape: values [T, N1, ..., NM]
    Raises InputError (role "series") for unusable columns, rows or stamps; OptionError (key "freq", "start",
    "aggregate", "modes"); ResourceError if the array would be larger than `limit`; WorkspaceError when the disk is
    full; the duckdb.Error of the query.
    """
    if aggregate not in get_args(Aggregate):
        known = list(get_args(Aggregate))
        raise OptionError(
            f"there is no aggregate '{aggregate}'", key="aggregate", help=did_you_mean(str(aggregate), known)
        )
    columns = describe(cursor, sql)
    check_series_columns(columns, time, modes, value)
    place = Path(folder) if folder is not None else Path(tempfile.gettempdir())
    with bounded_memory(cursor, memory_limit), disk_errors(place):
        ingest = _Ingest(cursor, sql, columns, time, modes, value, base)
        try:
            return ingest.run(freq, start, aggregate, limit, place, emit)
        finally:
            ingest.drop()


class _Ingest:
    """One call of `encode_series`: its temporary tables and counts."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        sql: str,
        columns: dict[str, str],
        time: str,
        modes: Sequence[str],
        value: str,
        base: SeriesTensor | None,
    ) -> None:
        token = secrets.token_hex(6)
        self.cursor, self.sql = cursor, sql
        self.raw = f"temp.main.graphlearn_raw_{token}"
        self.tables = [f"temp.main.graphlearn_mode_{i}_{token}" for i in range(len(modes))]
        self.source = SeriesSource(cursor, self.raw, columns, time, modes, value)
        self.report = self.source.report
        self.base = base
        self.known = [mode.keys for mode in base.modes if mode.name is not None] if base is not None else []
        if base is not None:
            self.take_types(base)

    def take_types(self, base: SeriesTensor) -> None:
        """Give every mode a type for its keys and those of the base. Raises OptionError for other modes."""
        source = self.source
        names = [mode.name for mode in base.modes if mode.name is not None]
        if [name.lower() for name in names] != [name.lower() for name in source.modes]:
            raise OptionError(
                f"the modes of the model are {', '.join(names) or 'none'}",
                key="modes",
                help="use the same modes, or start over with CREATE OR REPLACE MODEL",
            )
        for i, keys in enumerate(self.known):
            source.key_types[i] = widened(self.cursor, keys, source.key_types[i], names[i], "series")
            source.keys[i] = key_sql(source.modes[i], source.key_types[i])

    def drop(self) -> None:
        for table in (self.raw, *self.tables):
            with suppress(duckdb.Error):  # a failed transaction or closed connection has dropped them already
                self.source.execute(f"DROP TABLE IF EXISTS {table}")

    def run(
        self, freq: Any, start: Any, aggregate: Aggregate, limit: int | None, place: Path, emit: Emit
    ) -> SeriesTensor:
        source = self.source
        source.copy(self.sql)
        digest = source.count()
        source.check(kept=aggregate != "count")
        base = self.base
        axis = source.find_axis(freq, start, base.axis if base is not None else None)
        sizes = [self.number_keys(axis, i) for i in range(len(self.tables))]
        if base is None:
            self.check_keys(sizes)
        free = shutil.disk_usage(place).free
        whole = sizes_of(source, digest, axis, sizes)
        whole.check_memory(free, f"the free space in {place}")
        if limit is not None:
            whole.check_memory(limit, "the limit")
        shape = (axis.steps, *(sizes or [1]))
        file = _empty_array(place, shape)
        values = np.memmap(file, np.float32, "r+", file.tell(), shape)
        flat = values.reshape(-1)
        self.fill(flat, axis, sizes, aggregate)
        self.survey(values.reshape(axis.steps, -1))
        self.report.modes = dict(zip(source.modes, sizes, strict=True))
        self.report.aggregate = aggregate
        values.flags.writeable = False
        for message, level in self.report.notes():
            emit(Note(message=message, level=level))
        return SeriesTensor(
            values=values,
            axis=axis,
            modes=tuple(self.modes()),
            time_name=source.time_name,
            value_name=source.value_name,
            report=self.report,
            fingerprint=digest,
            borders=base.borders if base is not None else None,
            _file=file,
        )

    def number_keys(self, axis: TimeAxis, i: int) -> int:
        """Create a mode's dictionary of distinct keys, numbered in key order. Returns their number."""
        found = f"SELECT {self.source.keys[i]} AS key FROM {self.source.covered(axis)}"
        known = self.known[i] if self.known else None
        keys = numbered(found, self.source.key_types[i], known)
        self.source.execute(f"CREATE TEMP TABLE {self.tables[i]} AS SELECT key AS {KEY}, id AS {ID} FROM ({keys})")
        count = f"SELECT count(*) FROM {self.tables[i]}"
        if known is not None:
            gone = self.source.execute(f"{count} WHERE {KEY} NOT IN ({found})")[0][0]
            self.report.vanished_keys += int(gone)
        return int(self.source.execute(count)[0][0])

    def check_keys(self, sizes: list[int]) -> None:
        """Raise InputError for a key with about as many values as there are readings, such as an index or a value."""
        rows = self.report.rows - self.report.null_rows
        for name, size in zip(self.source.modes, sizes, strict=True):
            if rows >= FEW_ROWS and 2 * size > rows:
                raise InputError(
                    f"{name} has {size:,} values in {rows:,} rows, so hardly any series would have two readings",
                    role="series",
                    help=f"leave {name} out of the query when it numbers rows or is measured; a key names what is read",
                )

    def modes(self) -> list[Mode]:
        """The modes with their dictionaries."""
        names = zip(self.source.modes, self.tables, self.source.key_types, strict=True)
        found = [
            _mode(self.cursor, name, f"SELECT {ID} AS id, {KEY} AS key FROM {table}", type_)
            for name, table, type_ in names
        ]
        return found or [_mode(self.cursor, None, "SELECT 0::BIGINT AS id, 'series' AS key", "VARCHAR")]

    def cells(self, axis: TimeAxis, sizes: list[int]) -> str:
        """SQL for the observed readings: position of the cell in the flat array, value, time."""
        strides = [int(np.prod(sizes[i + 1 :], dtype=np.int64)) for i in range(len(sizes))]
        width = int(np.prod(sizes, dtype=np.int64))
        parts = [f"{axis.step_sql(self.source.time)} * {width}"]
        parts += [f"m{i}.{ID} * {stride}" for i, stride in enumerate(strides)]
        joins = " ".join(
            f"JOIN {table} m{i} ON m{i}.{KEY} = {key}"
            for i, (table, key) in enumerate(zip(self.tables, self.source.keys, strict=True))
        )
        return (
            f"SELECT ({' + '.join(parts)})::BIGINT AS cell, {self.source.value} AS value, {self.source.time} AS stamp "
            f"FROM {self.raw} raw {joins} "
            f"WHERE {self.source.valid} AND {axis.covers_sql(self.source.time)} AND isfinite({self.source.value})"
        )

    def fill(self, flat: FloatArray, axis: TimeAxis, sizes: list[int], aggregate: Aggregate) -> None:
        """Write every reading to its cell, and the aggregate to cells with several readings."""
        query = self.cells(axis, sizes)
        again = self.scatter(f"SELECT cell, {'1::DOUBLE' if aggregate == 'count' else 'value'} FROM ({query})", flat)
        if not len(again):
            return
        merge = f"SELECT cell, {_MERGE[aggregate]} AS value FROM ({query})"

        def put(cells: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
            if len(values) and np.abs(values).max() > FLOAT32_MAX:
                raise InputError(
                    f"the {aggregate} of readings in one step is beyond what float32 holds ({FLOAT32_MAX:.2g})",
                    role="series",
                    help=f"divide {self.source.value_name} in the query",
                )
            flat[cells] = values

        if len(again) > _FEW:
            self.stream(f"{merge} GROUP BY cell", put)
            return
        name = f"graphlearn_repeated_{secrets.token_hex(6)}"
        self.cursor.register(name, pa.table({"cell": again}))
        try:
            self.stream(f"{merge} SEMI JOIN {name} USING (cell) GROUP BY cell", put)
        finally:
            self.cursor.unregister(name)

    def scatter(self, query: str, flat: FloatArray) -> npt.NDArray[np.int64]:
        """Write every reading to its cell. Returns the cells with several readings, ascending."""
        repeated = np.zeros(len(flat), np.bool_)  # its pages are allocated only where cells repeat
        self.stream(query, lambda cells, values: _scatter(flat, cells, values, repeated))
        return np.flatnonzero(repeated)

    def stream(self, query: str, take: Callable[[npt.NDArray[np.int64], npt.NDArray[np.float64]], None]) -> None:
        """Pass the rows (cell, value) of a query to a function, in batches of up to BATCH_ROWS."""

        def read() -> None:
            reader: pa.RecordBatchReader = self.cursor.sql(query).to_arrow_reader(BATCH_ROWS)
            try:
                for batch in reader:
                    take(*(column.to_numpy(zero_copy_only=True) for column in batch.columns))
            finally:
                reader.close()

        interruptible(self.cursor, read)

    def survey(self, values: FloatArray) -> None:
        """Count observed cells, gaps, constant, late and ended series, and suspicious values. shape: [T, series]"""
        steps, series = values.shape
        report = self.report
        counts, firsts, lasts = np.zeros(series, np.int64), np.full(series, steps), np.full(series, -1)
        least, most = np.full(series, np.nan, np.float32), np.full(series, np.nan, np.float32)
        rows = max(1, _BLOCK // series)
        for begin in range(0, steps, rows):
            block = np.asarray(values[begin : begin + rows])
            seen: BoolArray = ~np.isnan(block)
            some = seen.any(axis=0)
            counts += seen.sum(axis=0)
            report.empty_steps += int(np.count_nonzero(~seen.any(axis=1)))
            firsts = np.where(some & (lasts < 0), begin + seen.argmax(axis=0), firsts)
            lasts = np.where(some, begin + len(block) - 1 - seen[::-1].argmax(axis=0), lasts)
            least = np.fmin(least, np.fmin.reduce(block, axis=0))
            most = np.fmax(most, np.fmax.reduce(block, axis=0))
        there = counts > 0
        report.series = series
        report.observed = int(counts.sum())
        used = report.rows - report.null_rows - report.before_start - report.null_values - report.nonfinite_values
        report.duplicate_rows = used - report.observed
        report.empty_series = int(np.count_nonzero(~there))
        report.constant_series = int(np.count_nonzero(there & (least == most)))
        report.late_series = int(np.count_nonzero(there & (firsts > 0)))
        report.gap_cells = int((lasts - firsts + 1 - counts)[there].sum())
        usual = np.maximum(1, (lasts - firsts) / np.maximum(1, counts - 1))  # steps between readings
        report.ended_series = int(np.count_nonzero(there & (steps - 1 - lasts >= ENDED * usual)))
        report.extremes = {f"{value:.6g}": count for value, count in find_extremes(values).items()}


def _scatter(
    flat: FloatArray, cells: npt.NDArray[np.int64], values: npt.NDArray[np.float64], repeated: BoolArray
) -> None:
    """Write values to their cells and mark cells that have already been written.

    Row numbers are written first. A row of the batch that does not find its own number in its cell shares the cell.
    """
    if not len(cells):
        return
    order = np.arange(len(cells), dtype=np.float32)  # exact below 2^24
    again = ~np.isnan(flat[cells])
    flat[cells] = order
    again |= flat[cells] != order
    flat[cells] = values
    repeated[cells[again]] = True


def _empty_array(place: Path, shape: tuple[int, ...]) -> IO[bytes]:
    """An unnamed .npy file of NaN, positioned at its data. It is written, not mapped, to detect a full disk here."""
    file = cast("IO[bytes]", tempfile.TemporaryFile(prefix="graphlearn-", dir=place))  # noqa: SIM115, its owner closes it
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    begin, left = file.tell(), int(np.prod(shape, dtype=np.int64))
    block = np.full(min(left, _BLOCK), np.nan, "<f4")
    while left > 0:
        file.write(block[:left].data)
        left -= len(block)
    file.flush()
    file.seek(begin)
    return file


def _mode(cursor: duckdb.DuckDBPyConnection, name: str | None, sql: str, key_type: str) -> Mode:
    """A mode with its keys in memory and in an unnamed Parquet file."""
    with tempfile.TemporaryDirectory(prefix="graphlearn-") as folder:
        path = Path(folder) / "keys.parquet"
        write_dictionary(cursor, sql, key_type, path)
        keys = Dictionary(path)
        assert len(keys.keys) == len(keys)  # read while the file has a name
        return Mode(name, keys, open(os.open(path, os.O_RDONLY), "rb"))
