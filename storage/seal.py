"""What shows that files are still what was written: sizes, SHA-256 digests, and records that contain their own digest.

A digest detects damage and mistakes. It is no protection from whoever can write to the folder, who can compute it too.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

from graphlearn.storage.files import dump_json
from graphlearn.types import Json


def sealed(record: Json) -> Json:
    """The record after a round trip through JSON, with the "sha256" of all its other keys."""
    rest = json.loads(dump_json({key: value for key, value in record.items() if key != "sha256"}))
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False)
    return {**rest, "sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def measure(path: Path) -> Json:
    """Size and digest of a file, as a manifest lists them."""
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def is_measure(value: object) -> bool:
    """Whether a value has the form that `measure` returns."""
    return isinstance(value, dict) and type(value.get("bytes")) is int and isinstance(value.get("sha256"), str)


def wrong_size(path: Path, name: str, size: int) -> str | None:
    """What is wrong with a file's presence, kind or size; None if nothing is."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} is unreadable ({error.strerror})"
    if not stat.S_ISREG(found.st_mode):
        return f"{name} is not a regular file"
    return None if found.st_size == size else f"{name} has {found.st_size:,} bytes instead of {size:,}"


def changed(name: str) -> str:
    """The message for a file with another digest."""
    return f"{name} has changed since it was written (its SHA-256 differs)"
