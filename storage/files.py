"""Files that appear whole or not at all, and the failures of a disk in words a person can act on.

Every file is written under a temporary name beside its target, flushed to the disk, and renamed over it: a reader, and
a process killed at any moment, see the old file or the new one, never a part.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphlearn.errors import GraphLearnError, ResourceError, WorkspaceError
from graphlearn.types import Json

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FORBIDDEN = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder last over a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems that have no such call
            raise
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the content of a file last over a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file's content atomically.

    `durable=False` leaves out the flush to the disk: still whole or absent after a crash of the process, but not after
    a power cut. Raises OSError; see `disk_errors`.
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
    """Replace a JSON file atomically. NaN and infinities become null, so that every JSON reader can read it."""
    write_bytes(path, dump_json(value, indent=2).encode() + b"\n", durable=durable)


def dump_json(value: object, *, indent: int | None = None) -> str:
    """Strict JSON text; unknown objects (paths, enums, dates) as their text, non-finite numbers as null."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: object) -> object:
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_json(path: Path) -> Json:
    """The object in a JSON file. Raises OSError, or ValueError when it holds no JSON object."""
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return value


def translate(error: BaseException, place: Path | str) -> GraphLearnError | None:
    """A full disk, a forbidden write or exhausted memory as an error of ours; None for anything else.

    Understands OSError, and the texts of DuckDB and Arrow, which wrap the operating system's.
    """
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and isinstance(error.filename, str):
        place = error.filename
    if number in FULL or "No space left" in text or "exceeds the maximum" in text or "File too large" in text:
        return WorkspaceError(
            f"the disk is full: could not write to {place}",
            help="free some space or move the workspace; nothing half-written was left",
        )
    if "max_temp_directory_size" in text:
        return WorkspaceError(
            "the disk has no room for DuckDB's temporary files",
            help="free some space, or point elsewhere: SET temp_directory = '/big/disk/tmp'",
        )
    if number in FORBIDDEN or "Permission denied" in text or "Read-only file system" in text:
        return WorkspaceError(
            f"{place} is not writable", help="check the owner and rights of the folder, or use another workspace"
        )
    if isinstance(error, MemoryError) or "Out of Memory" in text or "OutOfMemory" in text:
        return ResourceError(
            "out of memory" if isinstance(error, MemoryError) else "DuckDB ran out of memory",
            help="raise SET memory_limit, close other programs, or use fewer threads (SET threads)",
        )
    return None


@contextmanager
def disk_errors(place: Path | str) -> Iterator[None]:
    """Turn failures of the disk inside the block into WorkspaceError (memory: ResourceError) that name the place.

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
