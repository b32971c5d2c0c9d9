"""Atomic file writes, and errors of the disk as messages that name a fix.

Every file is written under a temporary name next to its target, flushed to disk, and renamed over it. Readers see the
old file or the new one, never a part, even if the process is killed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphlearn.errors import GraphLearnError, ResourceError, WorkspaceError
from graphlearn.types import Json

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
LONGEST_JSON = 4 << 20
"""Bytes of a JSON file: manifests, of which a statement takes at most half, are the longest.

As Python objects, they can take thirty times as much, and reading them 0.4 s.
"""
DEEPEST = 64
"""Levels of a JSON file."""

BLOCKED = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST})


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open one of the workspace's own files, which is never a link, a pipe or a device.

    Raises OSError, or WorkspaceError if it is one of these: a link leads out of the workspace, and a pipe would block.
    """
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise _not_ours(path, "file") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_ours(path, "file")
    return handle


def own_folder(path: Path, *, parents: bool = True) -> None:
    """Create one of the workspace's own folders unless it exists. Raises OSError, or WorkspaceError if it is a link."""
    if path.is_symlink():
        raise _not_ours(path, "folder")
    path.mkdir(parents=parents, exist_ok=True)


def _not_ours(path: Path, kind: str) -> WorkspaceError:
    found = "is a symbolic link" if path.is_symlink() else f"is not a regular {kind}"
    return WorkspaceError(
        f"{path} {found}, which GraphLearn never creates",
        help=f"remove it if you do not know where it is from: rm {path}",
    )


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by some network file systems
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file's content atomically.

    `durable=False` skips the flush to disk: the write is then atomic if the process crashes, but not if power fails.
    Raises OSError; see `disk_errors`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Json, *, durable: bool = True) -> None:
    """Replace a JSON file atomically. NaN and infinities become null, as strict JSON requires."""
    write_bytes(path, dump_json(value, indent=2).encode() + b"\n", durable=durable)


def dump_json(value: object, *, indent: int | None = None) -> str:
    """Strict JSON: unknown objects (paths, enums, dates) as text, non-finite numbers as null.

    It is ASCII if it contains part of a file name that is not UTF-8, which cannot be written otherwise.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    if not _LONE_SURROGATE.search(text):
        return text
    return json.dumps(json.loads(text), indent=indent)


def _finite(value: object) -> object:
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_json(path: Path, *, longest: int = LONGEST_JSON) -> Json:
    """The object in a JSON file.

    Raises OSError, or ValueError if the file is not regular, has more than `longest` bytes, or does not contain a JSON
    object of at most DEEPEST levels and of texts that can be encoded.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for its writer
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path.name} is not a regular file")
        content = file.read(longest + 1)
    if len(content) > longest:
        raise ValueError(f"{path.name} has more than {longest:,} bytes")
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} does not hold a JSON object")
    _check_levels(value, path.name)
    return value


def _check_levels(value: Json, name: str) -> None:
    """Raise ValueError for more than DEEPEST levels, and for texts with half of a surrogate pair."""
    level: list[object] = [value]
    for _ in range(DEEPEST):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, str) and not item.isascii():
                item.encode()
        if not inner:
            return
        level = inner
    raise ValueError(f"{name} has more than {DEEPEST} levels")


def translate(error: BaseException, place: Path | str) -> GraphLearnError | None:
    """The GraphLearnError for a full disk, a forbidden write or exhausted memory; None for other errors.

    Recognises OSError and the messages of DuckDB and Arrow, which wrap the operating system's.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and isinstance(error.filename, str):
        place = error.filename
    if number in FULL or "No space left" in text or "exceeds the maximum" in text or "File too large" in text:
        return WorkspaceError(
            f"the disk is full: could not write to {place}",
            help="free some space or move the workspace; no partial file was left",
        )
    if "max_temp_directory_size" in text:
        return WorkspaceError(
            "the disk is too full for DuckDB's temporary files",
            help="free some space or use another disk: SET temp_directory = '/big/disk/tmp'",
        )
    if number == errno.EACCES and not _is_readable(Path(place)):
        return WorkspaceError(f"{place} is not readable", help="check its owner and permissions")
    if number in FORBIDDEN or "Permission denied" in text or "Read-only file system" in text:
        return WorkspaceError(
            f"{place} is not writable", help="check the owner and permissions of the folder, or use another workspace"
        )
    if number in BLOCKED:
        return WorkspaceError(f"{place} is in the way: {os.strerror(number)}", help="move it to another place")
    if isinstance(error, MemoryError) or "Out of Memory" in text or "OutOfMemory" in text:
        return ResourceError(
            "out of memory" if isinstance(error, MemoryError) else "DuckDB ran out of memory",
            help="raise SET memory_limit, close other programs, or use fewer threads (SET threads)",
        )
    return None


def _is_readable(path: Path) -> bool:
    """Whether a path may be read or, if it does not exist, its folder."""
    folder = path.parent
    missing = not os.path.exists(path)  # unlike Path.exists, False in a folder that may not be read
    return os.access(path, os.R_OK) or (
        missing and (not os.path.exists(folder) or os.access(folder, os.R_OK | os.X_OK))
    )


@contextmanager
def disk_errors(place: Path | str) -> Iterator[None]:
    """Turn disk errors inside the block into WorkspaceError, and memory errors into ResourceError; see `translate`.

    Ctrl-C, which DuckDB reports as a RuntimeError, becomes KeyboardInterrupt.
    """
    try:
        yield
    except GraphLearnError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        known = translate(error, place)
        if known is None:
            raise
        raise known from error
