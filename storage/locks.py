"""Locks between processes, and staging folders that are removed when their process ends.

A lock is a `flock` on a file. The kernel releases it when the process ends for any reason, so locks are never stale.
The file remains and names the process that holds the lock alone. Windows has no `flock`, and what there is cannot be
shared by readers, so nothing can be written there.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from graphlearn.errors import WorkspaceError
from graphlearn.storage.files import dump_json, open_regular, own_folder
from graphlearn.types import Json

try:
    import fcntl
except ImportError:  # Windows
    _CAN_LOCK = False
else:
    _CAN_LOCK = True

_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS})
WSL = "run it in the Windows Subsystem for Linux: https://learn.microsoft.com/windows/wsl/install"
_LONGEST_RECORD = 4096
"""Bytes of a lock file that are read."""
_TOKEN = re.compile(r"[0-9]+-[0-9a-f]{12}")
"""The names of folders that `Staging.claim` creates."""
QUIET = 1.0
"""Seconds of waiting for a lock before `on_wait` is called."""


class FileLock:
    """A lock on a file, until `release` or the end of the process: for one holder, or shared by any number.

    Forked children do not inherit it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None
        self._signed = False

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(
        self, *, patience: float = 0.2, shared: bool = False, on_wait: Callable[[], object] | None = None
    ) -> bool:
        """Take the lock; False when another holds it for longer than `patience` seconds (infinity waits for ever).

        A shared lock needs the file, and only the right to read it. `on_wait` is called once, after a second of
        waiting. Raises OSError when the file cannot be opened or the file system has no locks, and WorkspaceError if it
        is not a regular file, and on Windows, where nothing can be written.
        """
        if self._handle is not None:
            return True
        if not _CAN_LOCK:
            if shared:
                raise OSError(errno.ENOLCK, "Windows has no such locks")
            raise WorkspaceError("GraphLearn writes no files on Windows", help=WSL)
        mode, flags = (fcntl.LOCK_SH, os.O_RDONLY) if shared else (fcntl.LOCK_EX, os.O_RDWR | os.O_CREAT)
        handle = open_regular(self.path, flags)
        try:
            taken = _try_lock(handle, mode)
        except BaseException:
            os.close(handle)
            raise
        if not taken and patience <= 0:
            os.close(handle)
            return False
        if not taken and not _Turn(handle, mode).wait(patience, on_wait):
            return False
        self._handle = handle
        self._signed = not shared
        if self._signed:
            _sign(handle)
        _close_in_children(self)
        return True

    def release(self) -> None:
        """Release the lock, if held."""
        if self._handle is not None and self._signed:
            with suppress(OSError):
                os.ftruncate(self._handle, 0)
        self._close()

    def _close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __enter__(self) -> FileLock:
        self.acquire(patience=math.inf)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class _Turn:
    """A place in the kernel's queue for a lock, kept by a thread, so that whoever waits can stop waiting.

    A turn that is no longer wanted gives the lock back as soon as it gets it.
    """

    def __init__(self, handle: int, mode: int) -> None:
        self._handle = handle
        self._mode = mode
        self._guard = threading.Lock()
        self._came = threading.Event()
        self._wanted = True
        self._error: OSError | None = None

    def wait(self, patience: float, on_wait: Callable[[], object] | None) -> bool:
        """Whether the lock came within `patience` seconds; if not, the handle is closed. Ctrl-C ends the wait."""
        threading.Thread(target=self._queue, name="lock", daemon=True).start()
        quiet = min(patience, QUIET) if on_wait is not None else patience
        try:
            came = self._came.wait(_seconds(quiet))
            if not came and on_wait is not None and patience > quiet:
                on_wait()
                came = self._came.wait(_seconds(patience - quiet))
        except BaseException:
            self._leave()
            raise
        if not came or self._error is not None:
            self._leave()
        if self._error is not None:
            raise self._error
        return came

    def _queue(self) -> None:
        try:
            fcntl.flock(self._handle, self._mode)
        except OSError as error:
            self._error = error
        with self._guard:
            self._came.set()
            if not self._wanted:
                os.close(self._handle)

    def _leave(self) -> None:
        with self._guard:
            self._wanted = False
            if self._came.is_set():
                os.close(self._handle)


def _seconds(patience: float) -> float | None:
    return None if math.isinf(patience) else patience


def _sign(handle: int) -> None:
    """Record who holds the lock. Only informative: it must still be possible to drop a model when the disk is full."""
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, dump_json({"pid": os.getpid(), "since": time.time()}).encode(), 0)


def _try_lock(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise OSError(error.errno, "the file system does not support file locks") from error
        raise
    return True


def _close_in_children(lock: FileLock) -> None:
    reference = weakref.ref(lock)

    def close() -> None:
        held = reference()
        if held is not None:
            held._close()  # the child's copy; the parent's lock stays

    os.register_at_fork(after_in_child=close)


def is_free(path: Path) -> bool:
    """Whether no process holds the lock file; False if it must not be read.

    True if the file does not exist or is not a regular file, which `FileLock` refuses.
    """
    if not _CAN_LOCK:
        return True
    try:
        handle = open_regular(path)
    except (FileNotFoundError, WorkspaceError):
        return True
    except PermissionError:
        return False
    try:
        return _try_lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def holder_of(path: Path) -> Json:
    """The record of the holder: {"pid": .., "since": Unix seconds}; empty if unknown."""
    try:
        with open(open_regular(path), "rb") as file:
            value = json.loads(file.read(_LONGEST_RECORD))
    except (OSError, ValueError, RecursionError, WorkspaceError):
        return {}
    return value if isinstance(value, dict) else {}


def busy(path: Path, doing: str) -> WorkspaceError:
    """The error for a lock that another holds: "process 123 is writing to kg.graphlearn since 2026-01-31 12:00:00"."""
    holder = holder_of(path)
    pid, since = holder.get("pid"), holder.get("since")
    if pid == os.getpid():
        return WorkspaceError(f"another job of this process is {doing}", help="let one job end before the next starts")
    who = f"process {pid}" if isinstance(pid, int) else "another process"
    when = f" since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}" if isinstance(since, int | float) else ""
    return WorkspaceError(f"{who} is {doing}{when}", help="wait until it ends; `graphlearn runs` shows what is running")


class Staging:
    """A folder for work in progress. What a dead process left there is removed at the next `claim`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def claim(self) -> Iterator[Path]:
        """A unique path in the folder, not created yet. Whatever is there at the end of the block is removed.

        Rename it to keep it. Raises OSError if the folder is not writable, and WorkspaceError if it or the folder
        above is a link.
        """
        for folder in (self.folder.parent, self.folder):
            own_folder(folder)
        with FileLock(self.folder / ".lock"):
            self._sweep()
            token = f"{os.getpid()}-{secrets.token_hex(6)}"
            lock = FileLock(self.folder / f"{token}.lock")
            lock.acquire()
        path = self.folder / token
        try:
            yield path
        finally:
            _remove(path)  # leftovers are removed by the next claim
            with suppress(OSError):
                lock.path.unlink()
            lock.release()

    def _sweep(self) -> None:
        for token in {entry.name.removesuffix(".lock") for entry in self.folder.iterdir()}:
            lock = self.folder / f"{token}.lock"
            if _TOKEN.fullmatch(token) and is_free(lock):
                _remove(self.folder / token)
                with suppress(OSError):
                    lock.unlink()


def _remove(path: Path) -> None:
    """Remove a folder, or a link without what it leads to, as far as possible."""
    if path.is_symlink():
        with suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
