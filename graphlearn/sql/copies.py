"""COPY … TO a file: where it writes to, and how the file appears whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from graphlearn.errors import GraphLearnError
from graphlearn.sql.options import constant
from graphlearn.sql.reader import Reader
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.source import Token
from graphlearn.sql.statements import Passthrough
from graphlearn.storage.columns import literal
from graphlearn.storage.files import disk_errors, sync_file, sync_folder

SEVERAL_FILES = frozenset(("PARTITION_BY", "PER_THREAD_OUTPUT", "FILE_SIZE_BYTES"))
"""Options with which COPY writes a folder."""
_DIRECT = SEVERAL_FILES | {
    "ROW_GROUPS_PER_FILE",  # and other options with which it may write a folder
    "BATCHES_PER_FILE",
    "RETURN_FILES",  # the result names the file that DuckDB has written
    "RETURN_STATS",
    "USE_TMP_FILE",
}
"""Options with which DuckDB writes to the target itself."""
_FILE_URL = re.compile(r"file:(?://(?:localhost)?)?(?=/(?!/))")
_TEMPORARY = ".graphlearn-"
"""The names of the folders that files are written in begin with this; DuckDB's `*` matches nothing in them."""


def target_of(connection: duckdb.DuckDBPyConnection, statement: Passthrough) -> tuple[list[Token], str] | None:
    """The tokens after TO in COPY … TO, a string or a constant in parentheses, and their value.

    Also for EXPLAIN ANALYZE COPY. None for other statements.
    """
    reader = Reader(statement.source, statement.tokens)
    if reader.accept("EXPLAIN"):
        while reader.peek() is not None and reader.words(1) != ["COPY"]:
            reader.skip_group()
        if "ANALYZE" not in {token.word for token in reader.tokens[: reader.position]}:
            return None
    if not reader.accept("COPY"):
        return None
    while reader.peek() is not None and reader.words(1) != ["TO"]:
        reader.skip_group()
    start = reader.position + 1
    reader.position = start
    token = reader.peek()
    if token is None or (token.kind != "string" and token.text != "("):
        return None
    reader.skip_group()
    tokens = reader.tokens[start : reader.position]
    value = None
    with suppress(GraphLearnError):
        value = constant(connection, statement.verbatim((tokens[0].start, tokens[-1].end)))
    return (tokens, value) if isinstance(value, str) else None


def local_path(connection: duckdb.DuckDBPyConnection, name: str) -> Path | None:
    """The path that DuckDB opens for the name of a file; None on another file system, such as s3://."""
    if name.startswith("~"):
        (home,) = connection.execute("SELECT current_setting('home_directory')").fetchall()[0]
        name = f"{home or os.environ.get('HOME', '')}{name[1:]}"
    name = _FILE_URL.sub("", name) if name.startswith("file:") else name
    return None if "://" in name or "\0" in name else Path(name)


@contextmanager
def whole_file(connection: duckdb.DuckDBPyConnection, statement: Passthrough, query: Rewritten) -> Iterator[Rewritten]:
    """Yield the statement to execute inside the block: COPY … TO a file in a new folder, next to the target.

    The file is renamed at the end of the block, and removed if that ends with an error. DuckDB's own option for this,
    USE_TMP_FILE, writes to tmp_<name>, which may be a file of the user.

    Not changed: COPY to several files, to another file system, and to what is not a regular file, such as a device.
    Raises WorkspaceError if the disk is full.
    """
    target = _replaceable(connection, statement)
    if target is None:
        yield query
        return
    (start, end), path, name = target
    try:
        folder = TemporaryDirectory(prefix=_TEMPORARY, dir=path.parent, ignore_cleanup_errors=True)
    except OSError:  # DuckDB cannot write there either, and places the error
        yield query
        return
    with folder:
        written = Path(folder.name) / name
        try:
            yield query.replace(start, end, literal(str(written)))
        except GraphLearnError as error:
            error.message = error.message.replace(str(written), str(path))
            raise
        with disk_errors(path):
            _move(written, path)


def _move(written: Path, path: Path) -> None:
    """Rename the file to `path`. Some formats write further files, which keep their names; COPY may write none."""
    for made in sorted(written.parent.iterdir(), key=lambda each: each == written):
        if made.is_file():
            sync_file(made)
        os.replace(made, path if made == written else path.with_name(made.name))
    sync_folder(path.parent)


def _replaceable(
    connection: duckdb.DuckDBPyConnection, statement: Passthrough
) -> tuple[tuple[int, int], Path, str] | None:
    """The span of a target that can be replaced by a finished file, its path, and the name that decides its format."""
    target = target_of(connection, statement) if statement.kind in ("COPY", "EXPLAIN") else None
    if target is None or target[1].endswith("/"):
        return None
    tokens, span = target[0], (target[0][0].start, target[0][-1].end)
    path = local_path(connection, target[1])
    if path is None or {t.value.upper() for t in statement.tokens if t.start >= tokens[-1].end} & _DIRECT:
        return None
    if not connection.execute("SELECT current_setting('enable_external_access')").fetchall()[0][0]:
        return None  # it may be allowed to write this file, and no other
    name = path.name
    with suppress(OSError, RuntimeError):  # a loop of links
        if path.is_symlink() and not path.exists():
            path = path.resolve()
        if path.parent.is_dir() and not path.is_symlink() and (path.is_file() or not path.exists()):
            return span, path, name
    return None
