"""The memory that this process may still use, and limits on DuckDB's memory while other work also needs some."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from graphlearn.errors import ResourceError

PER_THREAD = 128 << 20
"""Bytes that DuckDB needs per thread, as its documentation says: with less it may fail instead of spilling."""
PROC = Path("/proc/self")

_V2 = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
"""The files with the limits and the use of a control group; the part of memory.stat that the kernel gives back."""


def memory_available() -> int:
    """Bytes that this process can still allocate.

    The least of what is free on the machine, in its control group and every group around that, and under `ulimit -v`.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *cgroup_headrooms(PROC), *_address_space()]))


def cgroup_headrooms(proc: Path) -> Iterator[int]:
    """Bytes left in each control group of a process that has a limit, from its own to the outermost visible one.

    `proc`: the folder of the process in /proc. A group can be limited by version 1 or 2 of the kernel's interface.
    """
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # not on Linux
        return
    for number, controllers, group in (line for line in groups if len(line) == 3):
        unified = number == "0"  # version 2
        if not unified and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            kind, _, settings = mount[mount.index("-") + 1 :]
            if kind != "cgroup2" if unified else (kind != "cgroup" or "memory" not in settings.split(",")):
                continue
            root, top = mount[3], Path(mount[4].encode().decode("unicode_escape"))
            inside = os.path.relpath(group, root)
            here = top if inside.startswith("..") else top / inside  # outside of what a container sees
            for folder in [here, *(parent for parent in here.parents if parent.is_relative_to(top))]:
                yield from _headroom(folder, *(_V2 if unified else _V1))


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
