"""A workspace: one DuckDB file and, beside it, the folder of its models and runs.

    kg.duckdb         tables and views, DuckDB's own
    kg.graphlearn/    lock   models/   runs/          made at the first write

DuckDB lets one process write a file, or any number read it. `writing` is the lock of the folder: one job at a time
stores models there, while readers of stored models need no lock.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType

import duckdb

from graphlearn.errors import WorkspaceError
from graphlearn.storage.columns import literal
from graphlearn.storage.files import disk_errors
from graphlearn.storage.locks import FileLock, holder_of

MEMORY = ":memory:"


def folder_of(database: Path) -> Path:
    """The artifact folder that belongs to a database file: kg.duckdb -> kg.graphlearn, kg.db -> kg.db.graphlearn."""
    stem = database.stem if database.suffix.lower() == ".duckdb" else database.name
    return database.with_name(f"{stem}.graphlearn")


class Workspace:
    """An open workspace. Close it, or use it as a context manager: an open one locks its database file."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        database: Path | None,
        folder: Path,
        *,
        read_only: bool,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.connection = connection
        self.database = database
        self.folder = folder
        self.read_only = read_only
        self._temporary = temporary
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._closed = False
        self._lock = FileLock(folder / "lock")
        self._guard = threading.Lock()
        self._writer: int | None = None
        self._depth = 0
        _close_at_exit(connection)

    @classmethod
    def open(cls, database: str | Path = MEMORY, *, read_only: bool = False) -> Workspace:
        """Open a database file, made if it is new (unless `read_only`), or a workspace in memory.

        Raises WorkspaceError when the file is locked by another process, damaged, no DuckDB file, or out of reach.
        """
        if str(database) == MEMORY:
            if read_only:
                raise WorkspaceError(
                    "a workspace in memory cannot be read-only", help="leave read_only out, or name a database file"
                )
            with disk_errors(tempfile.gettempdir()):
                temporary = tempfile.TemporaryDirectory(prefix="graphlearn-", ignore_cleanup_errors=True)
            folder = Path(temporary.name)
            workspace = cls(duckdb.connect(MEMORY), None, folder, read_only=False, temporary=temporary)
            workspace._spill_to(folder / "spill")
            return workspace
        path = Path(database).expanduser().absolute()
        _check_path(path, read_only)
        try:
            connection = duckdb.connect(str(path), read_only=read_only)
        except duckdb.Error as error:
            raise _opening_failed(error, path, read_only) from error
        workspace = cls(connection, path, folder_of(path), read_only=read_only)
        if read_only:
            workspace._spill_to(Path(tempfile.gettempdir()) / "graphlearn-spill")
        return workspace

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A new cursor on the same database: it sees tables and views, not temporary ones of other cursors.

        Close it after use; those still open are closed with the workspace.
        """
        cursor = self.connection.cursor()
        self._cursors.add(cursor)
        return cursor

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Hold the writer lock of the folder, which is made if need be; yields the folder. Nests within a thread.

        Raises WorkspaceError when another process or thread is writing (naming its pid), when the workspace is
        read-only, or when the folder cannot be written.
        """
        if self.read_only:
            raise WorkspaceError(
                f"the workspace {self.database} is open read-only", help="open it without read_only to change models"
            )
        me = threading.get_ident()
        with self._guard:
            if self._writer != me:
                with disk_errors(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    acquired = self._writer is None and self._lock.acquire()
                if not acquired:
                    raise self._busy()
                self._writer = me
            self._depth += 1
        try:
            yield self.folder
        finally:
            with self._guard:
                self._depth -= 1
                if self._depth == 0:
                    self._writer = None
                    self._lock.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        yield

    @contextmanager
    def training(self, model: str) -> Iterator[None]:
        yield

    def close(self) -> None:
        """Close all cursors and the database; remove the folder of a workspace in memory. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for cursor in list(self._cursors):
            cursor.close()
        self.connection.close()
        self._lock.release()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spill_to(self, folder: Path) -> None:
        self.connection.execute(f"SET temp_directory = {literal(str(folder))}")

    def _busy(self) -> WorkspaceError:
        holder = holder_of(self._lock.path)
        pid, since = holder.get("pid"), holder.get("since")
        if pid == os.getpid():
            return WorkspaceError(
                f"another job of this process is writing to {self.folder}",
                help="let one job end before the next starts",
            )
        who = f"process {pid}" if isinstance(pid, int) else "another process"
        when = f" since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}" if isinstance(since, int | float) else ""
        fix = f", or stop it: kill {pid}" if isinstance(pid, int) else ""
        return WorkspaceError(f"{who} is writing to {self.folder}{when}", help=f"wait until it ends{fix}")


def _close_at_exit(connection: duckdb.DuckDBPyConnection) -> None:
    """Close the connection at the end of the process if it is still there.

    A script need not close what it opens, and DuckDB complains about relations over Python objects that outlive it.
    """
    alive = weakref.ref(connection)

    def close() -> None:
        left = alive()
        if left is not None:
            left.close()

    atexit.register(close)
    weakref.finalize(connection, atexit.unregister, close).atexit = False


def _check_path(path: Path, read_only: bool) -> None:
    if path.is_dir():
        raise WorkspaceError(f"{path} is a folder, not a DuckDB file", help=f"name a file in it: {path / 'kg.duckdb'}")
    if not path.parent.is_dir():
        raise WorkspaceError(f"the folder {path.parent} does not exist", help=f"make it first: mkdir -p {path.parent}")
    if read_only and not path.exists():
        raise WorkspaceError(f"there is no database {path}", help="check the path, or open it without read_only")


def _opening_failed(error: duckdb.Error, path: Path, read_only: bool) -> WorkspaceError:
    text = str(error)
    if "lock on file" in text or "Conflicting lock" in text:
        found = re.search(r"PID (\d+)", text)
        who = f"process {found[1]}" if found else "another process"
        stop = f", or stop it: kill {found[1]}" if found else ""
        return WorkspaceError(f"{path} is in use by {who}", help=f"wait until it ends{stop}")
    if "different configuration" in text:
        other = "writing" if read_only else "reading only"
        return WorkspaceError(
            f"{path} is already open in this process for {other}", help="close that workspace first, or use it"
        )
    if "not a valid DuckDB database" in text:
        if path.stat().st_size == 0:
            return WorkspaceError(f"{path} is an empty file, not a DuckDB file", help=f"remove it: rm {path}")
        return WorkspaceError(
            f"{path} is not a DuckDB file", help="read data files in SQL instead: FROM 'file.parquet'; name a new file"
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return WorkspaceError(
            f"{path} is not writable", help="check its rights and those of its folder, or open it with read_only"
        )
    if "version number" in text:
        return WorkspaceError(f"{path} was written by another version of DuckDB: {text}", help="upgrade duckdb")
    if "No space left" in text:
        return WorkspaceError(f"the disk is full: could not open {path}", help="free some space")
    first = text.splitlines()[0] if text else type(error).__name__
    return WorkspaceError(f"{path} cannot be opened: {first}", help="restore it from a backup, or name a new file")
