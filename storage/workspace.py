"""A workspace: a DuckDB file and a folder with the models and runs.

    kg.duckdb         DuckDB's tables and views
    kg.graphlearn/    lock   database.lock   database.queue   training/   models/   runs/

DuckDB lets either one process write a file or any number of processes read it. A job therefore opens the file for
`reading` only while it reads a model's input; it is `released` while the model trains. `training` locks one model.
`writing` locks the folder while a model is published or dropped. Reading stored models requires no lock.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import duckdb

from graphlearn.errors import WorkspaceError
from graphlearn.storage.artifacts import folder_name
from graphlearn.storage.columns import literal
from graphlearn.storage.database import PATIENCE, DatabaseFile, Say, database_file
from graphlearn.storage.files import disk_errors, own_folder
from graphlearn.storage.locks import FileLock, busy, is_free

MEMORY = ":memory:"
_PUBLISHING = 10.0
"""Seconds to wait for another process that is publishing a model."""
_POLL = 0.01
"""Seconds between two attempts to close a connection that is in use."""


def folder_of(database: Path) -> Path:
    """The artifact folder that belongs to a database file: kg.duckdb -> kg.graphlearn, kg.db -> kg.db.graphlearn."""
    stem = database.stem if database.suffix.lower() == ".duckdb" else database.name
    return database.with_name(f"{stem}.graphlearn")


def path_of(database: str | Path) -> Path:
    """The path of a database file, with ~ expanded. It need not exist. Raises WorkspaceError if there can be none."""
    try:
        path = Path(database).expanduser()
        os.fsencode(path.absolute()).decode()
        if path.is_dir():
            place = path.absolute() / "kg.duckdb"
            raise WorkspaceError(
                f"{path.absolute()} is a folder, not a DuckDB file", help=f"name a file in it: {place}"
            )
        for each in (path, folder_of(path)):
            with suppress(FileNotFoundError, NotADirectoryError):
                each.stat()
    except RuntimeError:
        raise WorkspaceError(f"there is no user {Path(database).parts[0]}", help="check the path") from None
    except UnicodeError:
        raise WorkspaceError(f"DuckDB opens only paths in UTF-8, not {path.absolute()}", help="rename it") from None
    except ValueError:  # a NUL character
        raise WorkspaceError(f"{str(database)!r} is not the path of a file", help="for example kg.duckdb") from None
    except OSError as error:
        raise WorkspaceError(f"{database} cannot be opened: {error.strerror}", help="check the path") from None
    return path


class Workspace:
    """An open workspace, which locks its database file. Close it, or use it as a context manager."""

    def __init__(self, folder: Path, database: Path | None = None, *, read_only: bool = False) -> None:
        """A workspace without a connection. Use `open` or `without_tables` instead."""
        self.folder = folder
        self.database = database
        self.read_only = read_only
        self._connection: duckdb.DuckDBPyConnection
        self._file: DatabaseFile | None = None
        self._say: Say | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._closed = False
        self._lock = FileLock(folder / "lock")
        self._writer = threading.RLock()
        self._depth = 0

    @classmethod
    def open(
        cls,
        database: str | Path = MEMORY,
        *,
        read_only: bool = False,
        patience: float = PATIENCE,
        say: Say | None = None,
    ) -> Workspace:
        """Open a database file, created if it does not exist (unless `read_only`), or an in-memory workspace.

        If another GraphLearn process has the file open, this waits for up to `patience` seconds, and calls `say` with a
        message after one second. Raises WorkspaceError if the file remains in use, is in use by another program, is
        damaged, is not a DuckDB file, or is not accessible.
        """
        if str(database) == MEMORY:
            if read_only:
                raise WorkspaceError(
                    "an in-memory workspace cannot be read-only", help="omit read_only, or name a database file"
                )
            with disk_errors(tempfile.gettempdir()):
                temporary = tempfile.TemporaryDirectory(prefix="graphlearn-", ignore_cleanup_errors=True)
            workspace = cls(Path(temporary.name))
            workspace._temporary = temporary
            workspace._connect(duckdb.connect(MEMORY))
            spill = literal(str(workspace.folder / "spill"))
            workspace._connection.execute(f"SET temp_directory = {spill}")
            return workspace
        path = path_of(database).absolute()
        _check_path(path, read_only)
        workspace = cls(folder_of(path), path, read_only=read_only)
        file = database_file(workspace, path, workspace.folder / "database.lock", read_only=read_only)
        try:
            file.attach(workspace, patience=patience, say=say)
            workspace._connect(file.connect())
        except BaseException:
            file.close(workspace)
            raise
        workspace._file, workspace._say = file, say
        return workspace

    @classmethod
    def without_tables(cls, folder: Path) -> Workspace:
        """A read-only workspace of the stored models only, for use while another process has the database file open."""
        workspace = cls(folder, read_only=True)
        workspace._connect(duckdb.connect(MEMORY))
        return workspace

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection of this session, always the same object.

        Reopens the file if it is `released`. Raises WorkspaceError as `open` does.
        """
        if self._file is not None and not self.is_open:
            self._file.attach(self, patience=PATIENCE, say=self._say)
        return self._connection

    @property
    def is_closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    @property
    def is_open(self) -> bool:
        """Whether the database file is open: neither closed nor `released`."""
        return not self._closed and (self._file is None or self._file.users[self])

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A new cursor on the same database. It sees tables and views, except temporary ones of other cursors.

        Close it after use; the workspace closes any that are still open.
        """
        cursor = self.connection.cursor()
        self._cursors.add(cursor)
        return cursor

    @contextmanager
    def reading(self, queries: Collection[str]) -> Iterator[None]:
        """Open the file for reading only inside the block, which runs `queries`, so that other processes can read it.

        It stays open for writing if a query writes (`nextval`), or if something depends on it as in `released`. It is
        opened for writing again at the end of the block or on the next use of `connection`, as after `released`.
        """
        file = self._file
        shared = file is not None and self._is_quiet() and file.share(self, queries, patience=PATIENCE, say=self._say)
        try:
            yield
        finally:
            if shared:
                self._release()
                self._reopen()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Close the database file inside the block, so that other processes can open it.

        The state of connections remains: temporary tables, variables, settings, prepared statements, the search path
        and other databases. The file is reopened at the end of the block or, if another process has it open then, on
        the next use of `connection`. It stays open if something depends on it: an open transaction, rows not yet read,
        or another session of this process.
        """
        if self._is_quiet():
            self._release()
        try:
            yield
        finally:
            self._reopen()

    def _is_quiet(self) -> bool:
        """Whether the database is a file, and no connection of this session is using it."""
        return self._file is not None and all(map(_is_idle, (self._connection, *self._cursors)))

    def _release(self) -> None:
        if self._file is not None:
            with suppress(duckdb.Error):
                self._file.detach(self)

    def _reopen(self) -> None:
        if self._file is not None:
            with suppress(WorkspaceError):
                self._file.attach(self, patience=0, say=None)

    def check_not_training(self, model: str) -> None:
        """Raise WorkspaceError, as `training` does, if the model is being trained."""
        path = self._training_lock(model)
        if not is_free(path):
            raise busy(path, f"training {model}")

    def _training_lock(self, model: str) -> Path:
        return self.folder / "training" / f"{folder_name(model)}.lock"

    @contextmanager
    def training(self, model: str) -> Iterator[None]:
        """Hold the lock of a model while it trains.

        Raises WorkspaceError if it is already being trained, or if the workspace is read-only.
        """
        self._check_writable()
        lock = FileLock(self._training_lock(model))
        with disk_errors(lock.path):
            own_folder(lock.path.parent)
            taken = lock.acquire()
        if not taken:
            raise busy(lock.path, f"training {model}")
        try:
            yield
        finally:
            lock.release()

    def _check_writable(self) -> None:
        if self.read_only:
            raise WorkspaceError(
                f"the workspace {self.database} is open read-only", help="open it without read_only to change models"
            )

    @contextmanager
    def writing(self, *, patience: float = _PUBLISHING) -> Iterator[Path]:
        """Hold the writer lock of the folder, which is created if necessary; yields the folder. Reentrant in a thread.

        Waits up to `patience` seconds for another process or thread that is writing. Raises WorkspaceError after that,
        with the pid, or if the workspace is read-only or the folder is not writable.
        """
        self._check_writable()
        doing = f"writing to {self.folder}"
        if not self._writer.acquire(timeout=patience):
            raise busy(self._lock.path, doing)
        try:
            if self._depth == 0:
                with disk_errors(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    taken = self._lock.acquire(patience=patience)
                if not taken:
                    raise busy(self._lock.path, doing)
            self._depth += 1
            try:
                yield self.folder
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._lock.release()
        finally:
            self._writer.release()

    def close(self) -> None:
        """Close all cursors and the database, and delete an in-memory workspace's folder. May be called repeatedly.

        Queries that other threads still run are interrupted.
        """
        if self._closed:
            return
        self._closed = True
        file, self._file = self._file, None
        for connection in (*self._cursors, self._connection):
            _close(connection)
        if file is not None:
            file.close(self)
        self._lock.release()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        _close_at_exit(connection)
        _close_at_exit(self)


def _close(connection: duckdb.DuckDBPyConnection) -> None:
    """Close a connection, after interrupting the query that another thread runs on it, if any."""
    while True:
        with suppress(duckdb.ConnectionException):  # closed already
            connection.interrupt()
        try:
            return connection.close()
        except duckdb.ResourceInUseException:
            time.sleep(_POLL)


def _is_idle(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a connection has neither an open transaction nor unread rows."""
    try:
        first, second = (connection.sql("SELECT txid_current()").fetchall() for _ in range(2))
    except duckdb.ConnectionException:  # closed
        return True
    except duckdb.Error:
        return False
    return bool(first != second)


def _close_at_exit(opened: Workspace | duckdb.DuckDBPyConnection) -> None:
    """Close the object at the end of the process, if it still exists.

    Scripts need not close what they open, and DuckDB prints errors about relations over Python objects at exit.
    """
    alive = weakref.ref(opened)

    def close() -> None:
        left = alive()
        if left is not None:
            left.close()

    atexit.register(close)
    weakref.finalize(opened, atexit.unregister, close).atexit = False


def _check_path(path: Path, read_only: bool) -> None:
    if not path.parent.is_dir():
        raise WorkspaceError(
            f"the folder {path.parent} does not exist", help=f"create it first: mkdir -p {path.parent}"
        )
    if read_only and not path.exists():
        raise WorkspaceError(f"there is no database {path}", help="check the path, or open it without read_only")
