"""A DuckDB file that this process opens and closes, and takes turns at with other processes.

DuckDB lets one process write a file, or any number read it, as long as they have it attached. The file is therefore
attached to an instance in memory. `ATTACH OR REPLACE` swaps it for an empty database of the same name and back: what
belongs to connections (temporary tables, variables, settings, prepared statements, the search path) and other attached
databases stay. Processes of ours queue for the file at `database.lock`: readers together, a writer alone. Others, such
as the duckdb shell, do not know that lock and are not waited for.
"""

from __future__ import annotations

import re
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import duckdb

from graphlearn.errors import WorkspaceError
from graphlearn.storage.columns import literal, quoted
from graphlearn.storage.locks import FileLock, holder_of

PATIENCE = 60.0
"""Seconds to wait for a process of ours that has the file open."""

_FILES: weakref.WeakValueDictionary[Path, DatabaseFile] = weakref.WeakValueDictionary()
"""The files that this process has open: DuckDB refuses to open one twice."""
_GUARD = threading.Lock()

Say: TypeAlias = Callable[[str], object]


def database_file(user: object, path: Path, lock: Path, *, read_only: bool) -> DatabaseFile:
    """The file for a new user, the same object for all of this process; at `lock` processes queue for it.

    Raises WorkspaceError when this process has it open in the other mode.
    """
    key = path.resolve()
    with _GUARD:
        file = _FILES.get(key)
        if file is None or not file.users:
            file = _FILES[key] = DatabaseFile(path, lock, read_only=read_only)
        if file.read_only != read_only:
            raise _other_mode(path, read_only)
        file.users[user] = False
    return file


class DatabaseFile:
    """A DuckDB file that is attached while one of its users, the sessions of this process, needs it."""

    def __init__(self, path: Path, lock: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.users: weakref.WeakKeyDictionary[object, bool] = weakref.WeakKeyDictionary()
        """Who works with the file, and whether they need it now."""
        self._lock = FileLock(lock)
        self._guard = threading.RLock()
        self._instance: duckdb.DuckDBPyConnection | None = None
        self._name = ""
        self._attached = False
        self._swaps = not read_only
        weakref.finalize(self, self._lock.release).atexit = False

    def attach(self, user: object, *, patience: float, say: Say | None) -> None:
        """Attach the file for a user, after waiting for a process of ours that has it open.

        After a second, `say` is told whom it waits for. Raises WorkspaceError when the file is in use for longer than
        `patience` seconds, or by a process that is not ours; when it is damaged, no DuckDB file, or not writable.
        """
        with self._guard:
            if not self._attached:
                made = self._queue(patience, say)
                try:
                    self._open()
                except duckdb.Error as error:
                    self._leave(made)
                    raise _opening_failed(error, self.path, self.read_only) from error
                except BaseException:
                    self._leave(made)
                    raise
                self._attached = True
            self.users[user] = True

    def detach(self, user: object) -> None:
        """The user does not need the file for now; once nobody does, other processes can open it."""
        with self._guard:
            if not self._swaps:
                return
            self.users[user] = False
            if self._attached and not any(self.users.values()):
                assert self._instance is not None
                self._instance.execute(f"ATTACH OR REPLACE ':memory:' AS {quoted(self._name)}")
                self._attached = False
                self._lock.release()

    def close(self, user: object) -> None:
        """The user is gone; the last one closes the file. May be called twice."""
        with self._guard:
            try:
                self.detach(user)
            finally:
                self.users.pop(user, None)
                if not self.users and self._instance is not None:
                    self._instance.close()
                    self._instance, self._attached = None, False
                    self._lock.release()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A new connection to the instance; its default database is the file."""
        assert self._instance is not None
        return self._instance.cursor()

    def _open(self) -> None:
        mode = " (READ_ONLY)" if self.read_only else ""
        file = literal(str(self.path))
        if self._instance is not None:
            self._instance.execute(f"ATTACH OR REPLACE {file} AS {quoted(self._name)}")
            return
        instance = duckdb.connect(":memory:")
        try:
            instance.execute(f"ATTACH OR REPLACE {file}{mode}")  # under the name that duckdb.connect would give it
            known = "SELECT database_name FROM duckdb_databases() WHERE path IS NOT NULL"
            self._name = str(instance.execute(known).fetchall()[0][0])
            if self._name.lower() != "memory":
                instance.execute(f"USE {quoted(self._name)}; DETACH memory")
            spill = Path(tempfile.gettempdir()) / "graphlearn-spill" if self.read_only else f"{self.path}.tmp"
            instance.execute(f"SET temp_directory = {literal(str(spill))}")
        except duckdb.ResourceInUseException:  # by a duckdb.connect of this process: share that for good
            instance.close()
            instance = duckdb.connect(str(self.path), read_only=self.read_only)
            self._swaps = False
        except BaseException:
            instance.close()
            raise
        self._instance = instance

    def _queue(self, patience: float, say: Say | None) -> bool:
        """Take the lock; true when its folder had to be made. A place without locks, or not writable, has no queue."""

        def tell() -> None:
            if say is not None:
                pid = holder_of(self._lock.path).get("pid")
                who = f"process {pid}" if pid else "another process"
                say(f"waiting for {who}, which has {self.path.name} open")

        folder = self._lock.path.parent
        made = not self.read_only and not folder.exists()
        with suppress(OSError):
            if made:
                folder.mkdir(exist_ok=True)
            if not self._lock.acquire(patience=patience, shared=self.read_only, on_wait=tell):
                raise in_use(self.path, holder_of(self._lock.path).get("pid"))
        return made

    def _leave(self, made: bool) -> None:
        self._lock.release()
        if made:
            with suppress(OSError):
                self._lock.path.unlink()
                self._lock.path.parent.rmdir()


def in_use(path: Path, pid: object) -> WorkspaceError:
    """The error for a file that another process has open."""
    who = f"process {pid}" if pid else "another process"
    stop = f", or stop it: kill {pid}" if pid else ""
    return WorkspaceError(f"{path} is in use by {who}", help=f"wait until it ends{stop}")


def _other_mode(path: Path, read_only: bool) -> WorkspaceError:
    other = "writing" if read_only else "reading only"
    return WorkspaceError(
        f"{path} is already open in this process for {other}", help="close that workspace first, or use it"
    )


def _opening_failed(error: duckdb.Error, path: Path, read_only: bool) -> WorkspaceError:
    text = str(error)
    if "lock on file" in text or "Conflicting lock" in text:
        found = re.search(r"PID (\d+)", text)
        return in_use(path, found[1] if found else None)
    if "different configuration" in text:
        return _other_mode(path, read_only)
    if isinstance(error, duckdb.ResourceInUseException):
        return WorkspaceError(
            f"{path} is in use by another connection of this process, or by a query whose rows are not all read",
            help="close that connection, or read those rows; session.connection.cursor() gives more connections",
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
