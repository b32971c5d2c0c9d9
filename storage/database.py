"""A DuckDB file that several GraphLearn processes use in turn.

DuckDB lets either one process write a file or any number read it, for as long as they have it attached. The file is
therefore attached to an in-memory instance, and `ATTACH OR REPLACE` swaps it for an empty database of the same name and
back. The state of connections (temporary tables, variables, settings, prepared statements, the search path) and other
attached databases remain.

GraphLearn processes wait for the file at `database.lock`, which any number of readers or one writer can hold. Whoever
waits stands in `database.queue`, so that a writer gets its turn however many readers follow each other. Other programs,
such as the duckdb shell, use neither: DuckDB is asked again until they close the file. A reader needs no write access:
where it cannot open the lock files, it does without them.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import duckdb

from graphlearn.errors import WorkspaceError
from graphlearn.storage import locks
from graphlearn.storage.columns import literal, quoted
from graphlearn.storage.locks import FileLock, holder_of

PATIENCE = 60.0
"""Seconds to wait for another GraphLearn process that has the file open."""
OTHERS = 5.0
"""Seconds to wait for another program, which may keep the file open for hours."""
_POLL = 0.01
"""Seconds between two attempts to open a file that another program has open."""

_BETWEEN = "__graphlearn_between"
"""The database that exists for the moment in which a file is neither attached for reading nor for writing."""

_FILES: weakref.WeakValueDictionary[Path, DatabaseFile] = weakref.WeakValueDictionary()
"""The files that this process has open; DuckDB does not open a file twice."""
_GUARD = threading.Lock()

Say: TypeAlias = Callable[[str], object]


def database_file(user: object, path: Path, lock: Path, *, read_only: bool) -> DatabaseFile:
    """The file for a new user; all users in this process share one object. `lock`: the lock file of all processes.

    Raises WorkspaceError if this process has the file open in the other mode.
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
    """A DuckDB file that is attached while at least one of its users (sessions of this process) needs it."""

    def __init__(self, path: Path, lock: Path, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.users: weakref.WeakKeyDictionary[object, bool] = weakref.WeakKeyDictionary()
        """The users of the file, and whether they need it at the moment."""
        self._lock = FileLock(lock)
        self._line = FileLock(lock.with_suffix(".queue"))
        self._guard = threading.RLock()
        self._instance: duckdb.DuckDBPyConnection | None = None
        self._name = ""
        self._attached = False
        self._swaps = not read_only
        weakref.finalize(self, self._lock.release).atexit = False

    def attach(self, user: object, *, patience: float, say: Say | None) -> None:
        """Attach the file for a user, if necessary after waiting for another process.

        After one second, `say` is called with a message that names the process. Raises WorkspaceError if a GraphLearn
        process uses the file for longer than `patience` seconds, or another program for longer than that and OTHERS
        (after a `detach`: than `patience`), or if the file is damaged, is not a DuckDB file, or is not writable.
        """
        with self._guard:
            if not self._attached:
                self._attach(self.read_only, patience, say)
            self.users[user] = True

    def share(self, user: object, queries: Collection[str], *, patience: float, say: Say | None) -> bool:
        """Open the file again for reading only, so that other processes can read it too, until the next `detach`.

        Returns False, and changes nothing, if another user needs the file or a query would write to it (`nextval`).
        Raises WorkspaceError as `attach` does, if another process was faster.
        """
        with self._guard:
            if not self._swaps or not self._attached or [u for u, needs in self.users.items() if needs] != [user]:
                return False
            try:
                self.detach(user)
            except duckdb.Error:  # something depends on it
                self.users[user] = True
                return False
            self._attach(True, patience, say)
            self.users[user] = True
            assert self._instance is not None
            try:
                for query in queries:
                    self._instance.execute(f"DESCRIBE ({query}\n)")
            except duckdb.Error as error:
                if "read-only mode" in str(error):
                    self.detach(user)
                    self.attach(user, patience=patience, say=say)
                    return False
            return True

    def detach(self, user: object) -> None:
        """Record that the user does not need the file for now. If no user does, detach it for other processes."""
        with self._guard:
            if not self._swaps:
                return
            self.users[user] = False
            if self._attached and not any(self.users.values()):
                assert self._instance is not None
                self._swap("':memory:'")
                self._attached = False
                self._lock.release()

    def close(self, user: object) -> None:
        """Remove the user; the file is closed with the last one. May be called repeatedly."""
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
        """A new connection to the instance, with the file as its default database."""
        assert self._instance is not None
        return self._instance.cursor()

    def _attach(self, shared: bool, patience: float, say: Say | None) -> None:
        """Attach the file: `shared` for reading only."""
        started = time.monotonic()
        made = self._queue(shared, patience, say)
        again = self._instance is not None
        try:
            if again and not self.path.exists():
                raise WorkspaceError(
                    f"{self.path} is gone: it was removed while a model was training",
                    help="restore it from a backup; models that were stored are still in the folder next to it",
                )
            self._open(shared, started + (patience if again else min(patience, OTHERS)), say)
        except duckdb.Error as error:
            self._leave(made)
            raise _opening_failed(error, self.path, self.read_only) from error
        except BaseException:
            self._leave(made)
            raise
        self._attached = True

    def _open(self, shared: bool, until: float, say: Say | None) -> None:
        """Open the file. While another program has it open, DuckDB can only be asked again."""
        say_at = time.monotonic() + locks.QUIET
        while True:
            try:
                return self._open_now(shared)
            except duckdb.Error as error:
                if not _is_locked(str(error)) or time.monotonic() >= until:
                    raise
            if say is not None and time.monotonic() >= say_at:
                say(f"waiting for another program, which has {self.path.name} open")
                say_at = until
            time.sleep(_POLL)

    def _open_now(self, shared: bool) -> None:
        mode = " (READ_ONLY)" if shared else ""
        file = literal(str(self.path))
        if self._instance is not None:
            self._swap(file, mode)
            return
        instance = duckdb.connect(":memory:")
        try:
            instance.execute(f"ATTACH OR REPLACE {file}{mode}")  # with the name that duckdb.connect would use
            known = "SELECT database_name FROM duckdb_databases() WHERE path IS NOT NULL"
            self._name = str(instance.execute(known).fetchall()[0][0])
            if self._name.lower() != "memory":
                instance.execute(f"USE {quoted(self._name)}; DETACH memory")
            instance.execute(f"SET temp_directory = {literal(self._spill())}")
        except duckdb.ResourceInUseException:  # by a duckdb.connect in this process: share that instance
            instance.close()
            instance = duckdb.connect(str(self.path), read_only=self.read_only)
            self._swaps = False
        except BaseException:
            instance.close()
            raise
        self._instance = instance

    def _swap(self, source: str, mode: str = "") -> None:
        """Attach another database under the name of this one. ATTACH OR REPLACE cannot do so if their modes differ."""
        assert self._instance is not None
        run, name = self._instance.execute, quoted(self._name)
        try:
            run(f"ATTACH OR REPLACE {source} AS {name}{mode}")
        except duckdb.BinderException:  # the modes differ
            run(f"ATTACH OR REPLACE ':memory:' AS {_BETWEEN}; USE {_BETWEEN}; DETACH {name}")
            try:
                run(f"ATTACH {source} AS {name}{mode}")
            except duckdb.Error:
                run(f"ATTACH ':memory:' AS {name}")
                raise
            finally:
                run(f"USE {name}; DETACH {_BETWEEN}")

    def _spill(self) -> str:
        """Where DuckDB spills to: next to the file, or for readers, who may be many, in a folder of their own."""
        if self.read_only:
            with suppress(FileNotFoundError):  # no folder for temporary files
                return str(Path(tempfile.gettempdir()) / f"graphlearn-spill-{os.getpid()}-{secrets.token_hex(4)}")
        return f"{self.path}.tmp"

    def _queue(self, shared: bool, patience: float, say: Say | None) -> bool:
        """Take the lock; returns whether its folder was created. Without locks or write access there is no waiting.

        Raises WorkspaceError after `patience` seconds.
        """
        said: list[str] = []

        def tell() -> None:
            if say is not None and not said:
                pid = holder_of(self._lock.path).get("pid")
                who = f"process {pid}" if pid else "another process"
                said.append(f"waiting for {who}, which has {self.path.name} open")
                say(said[0])

        folder = self._lock.path.parent
        made = not shared and not folder.exists()
        until = time.monotonic() + patience
        if made:
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
        try:
            for lock in (self._line, self._lock):
                with suppress(OSError):
                    if not lock.acquire(patience=max(0.0, until - time.monotonic()), shared=shared, on_wait=tell):
                        raise in_use(self.path, holder_of(self._lock.path).get("pid"))
        except BaseException:
            self._leave(made)
            raise
        finally:
            self._line.release()
        return made

    def _leave(self, made: bool) -> None:
        self._lock.release()
        if made:
            with suppress(OSError):
                self._lock.path.unlink(missing_ok=True)
                self._line.path.unlink(missing_ok=True)
                self._lock.path.parent.rmdir()


def _is_locked(text: str) -> bool:
    return "lock on file" in text or "Conflicting lock" in text


def in_use(path: Path, pid: object) -> WorkspaceError:
    """The error for a file that is open in another process."""
    who = f"process {pid}" if pid else "another process"
    return WorkspaceError(f"{path} is in use by {who}", help="wait until it is done, or close the file there")


def _other_mode(path: Path, read_only: bool) -> WorkspaceError:
    other = "writing" if read_only else "reading only"
    return WorkspaceError(
        f"{path} is already open in this process for {other}", help="close that workspace first, or use it"
    )


def _opening_failed(error: duckdb.Error, path: Path, read_only: bool) -> WorkspaceError:
    text = str(error)
    if _is_locked(text):
        found = re.search(r"PID (\d+)", text)
        return in_use(path, found[1] if found else None)
    if "different configuration" in text:
        return _other_mode(path, read_only)
    if isinstance(error, duckdb.ResourceInUseException):
        return WorkspaceError(
            f"{path} is in use by another connection of this process, or by a query whose rows are not all read",
            help="close that connection, or read those rows; use session.connection.cursor() for more connections",
        )
    if "not a valid DuckDB database" in text:
        if path.is_file() and path.stat().st_size == 0:
            return WorkspaceError(f"{path} is an empty file, not a DuckDB file", help=f"remove it: rm {path}")
        return WorkspaceError(
            f"{path} is not a DuckDB file", help="read data files in SQL instead: FROM 'file.parquet'; name a new file"
        )
    if "Permission denied" in text and path.exists() and not os.access(path, os.R_OK):
        return WorkspaceError(f"{path} is not readable", help="check its owner and permissions")
    if "Permission denied" in text or "Read-only file system" in text:
        return WorkspaceError(
            f"{path} is not writable", help="check its permissions and those of its folder, or open it with read_only"
        )
    if "version number" in text:
        return WorkspaceError(f"{path} was written by another version of DuckDB: {text}", help="upgrade duckdb")
    if "No space left" in text:
        return WorkspaceError(f"the disk is full: could not open {path}", help="free some space")
    first = text.splitlines()[0] if text else type(error).__name__
    return WorkspaceError(f"{path} cannot be opened: {first}", help="restore it from a backup, or name a new file")
