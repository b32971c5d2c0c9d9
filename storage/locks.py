"""Locks between processes, and staging folders that are removed when their process ends.

A lock is a `flock` on a file. The kernel releases it when the process ends for any reason, so locks are never stale.
The file remains and names the process that holds or last held the lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from graphlearn.storage.files import dump_json
from graphlearn.types import Json

_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS})


class FileLock:
    """An exclusive lock on a file until `release` or the end of the process. Forked children do not inherit it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    def acquire(self, *, patience: float = 0.2) -> bool:
        """Acquire the lock. Returns False if another process holds it for more than `patience` seconds (may be inf).

        Raises OSError if the file cannot be created or the file system does not support locks.
        """
        if self._handle is not None:
            return True
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + patience
        try:
            while not _try_lock(handle, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    os.close(handle)
                    return False
                time.sleep(0.005)  # `is_free` holds a lock for an instant
            _sign(handle)
        except BaseException:
            with suppress(OSError):
                os.close(handle)
            raise
        self._handle = handle
        _close_in_children(self)
        return True

    def release(self) -> None:
        """Release the lock, if held."""
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
            held.release()  # closes the child's copy; the parent's lock stays

    os.register_at_fork(after_in_child=close)


def is_free(path: Path) -> bool:
    """Whether no process holds the lock file; True if the file does not exist."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return _try_lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def holder_of(path: Path) -> Json:
    """The record of the last holder: {"pid": .., "since": Unix seconds}; empty if unknown."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class Staging:
    """A folder for work in progress. What a dead process left there is removed at the next `claim`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def claim(self) -> Iterator[Path]:
        """A unique path in the folder, not created yet. Whatever is there at the end of the block is removed.

        Rename it to keep it. Raises OSError if the folder is not writable.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            self._sweep()
            token = f"{os.getpid()}-{secrets.token_hex(6)}"
            lock = FileLock(self.folder / f"{token}.lock")
            lock.acquire()
        path = self.folder / token
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)  # leftovers are removed by the next claim
            with suppress(OSError):
                lock.path.unlink()
            lock.release()

    def _sweep(self) -> None:
        for entry in self.folder.iterdir():
            if entry.name == ".lock" or entry.suffix == ".lock":
                continue
            lock = entry.with_name(entry.name + ".lock")
            if is_free(lock):
                shutil.rmtree(entry, ignore_errors=True)
                lock.unlink(missing_ok=True)
        for lock in self.folder.glob("*-*.lock"):
            if not lock.with_suffix("").exists() and is_free(lock):
                lock.unlink(missing_ok=True)
