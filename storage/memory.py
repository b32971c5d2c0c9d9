"""The memory that this process may still use, and limits on DuckDB's memory while other work also needs some."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from graphlearn.control_groups import PROC, control_groups
from graphlearn.errors import JobError, ResourceError

PER_THREAD = 128 << 20
"""Bytes that DuckDB needs per thread, as its documentation says: with less it may fail instead of spilling."""

_V2 = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
"""The files with the limits and the use of a control group; the part of memory.stat that the kernel gives back."""


LIBRARIES, PER_CORE = 1 << 30, 128 << 20
"""Bytes of address space that loading a model's libraries takes, and per core that starting their threads does.

Hardly any of it is touched. Under `ulimit -v` on two cores, models answer if 1.2 GiB are left once a session is open.
"""


def check_address_space() -> None:
    """Raise ResourceError if `ulimit -v` leaves too little to load what models need; nothing to load is fine.

    The libraries themselves would abort the process, or fail with all kinds of errors.
    """
    if "torch" in sys.modules:
        return
    needed = LIBRARIES + PER_CORE * (os.cpu_count() or 1)
    for left in _address_space():
        if left < needed:
            raise ResourceError(
                f"the address space of this process is too small: models need {needed >> 20:,} MiB more, and "
                f"{left >> 20:,} MiB are left",
                help="raise the limit (ulimit -v), or limit the memory with a control group instead",
            )


_SHORT = re.compile("allocate memory|launch worker thread|start new thread|failed to map segment|bad_alloc")
"""Words of other libraries for memory, or address space, that has run out."""


def lack_of_memory(error: BaseException) -> JobError | None:
    """The JobError for memory that ran out or a library that cannot be loaded; None for other errors.

    No file can be blamed for either.
    """
    if (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN))
        or _SHORT.search(str(error))
    ):
        return JobError(
            f"out of memory ({error})" if str(error) else "out of memory",
            help="close other programs, raise the limit on its address space (ulimit -v), or use a larger machine",
        )
    if isinstance(error, ImportError):
        return JobError(f"a library could not be loaded: {error}", help="check the installation: graphlearn doctor")
    return None


def memory_available() -> int:
    """Bytes that this process can still allocate.

    The least of what is free on the machine, in its control group and every group around that, and under `ulimit -v`.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *cgroup_headrooms(PROC), *_address_space()]))


def cgroup_headrooms(proc: Path = PROC) -> Iterator[int]:
    """Bytes left in each control group of a process that limits its memory; `proc`: its folder in /proc."""
    for version, folder in control_groups("memory", proc):
        yield from _headroom(folder, *(_V2 if version == 2 else _V1))


def _headroom(folder: Path, limits: tuple[str, ...], use: str, cache: str) -> Iterator[int]:
    """Bytes left in a control group; nothing if it has no limit. File pages that the kernel can drop are free."""
    with suppress(OSError, ValueError):
        used = int((folder / use).read_text())
        with suppress(OSError):
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used -= int(stat.get(cache, 0))
        for name in limits:
            with suppress(OSError, ValueError):  # "max" is no limit
                yield int((folder / name).read_text()) - used


def _address_space() -> Iterator[int]:
    """Bytes left under `ulimit -v`; nothing if it is unlimited."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    import psutil

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit - int(psutil.Process().memory_info().vms)


@contextmanager
def bounded_memory(cursor: duckdb.DuckDBPyConnection, limit: int | None) -> Iterator[None]:
    """Lower DuckDB's memory_limit to `limit` bytes inside the block; data beyond that spills to temp_directory.

    `limit=None` is half of the memory that is free now. A lower limit set by the user is kept, and the user's limit is
    restored at the end. Where the limit is low, DuckDB uses fewer threads. The settings are global to the database and
    also affect other cursors. Raises ResourceError if `limit` is given and DuckDB already uses more than that.
    """
    wanted = limit if limit is not None else memory_available() // 2
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
