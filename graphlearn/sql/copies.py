"""COPY … TO a file: where it writes to, and how it leaves no torn file."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import duckdb

from graphlearn.errors import GraphLearnError
from graphlearn.sql.options import constant
from graphlearn.sql.reader import Reader
from graphlearn.sql.rewrite import Rewritten
from graphlearn.sql.source import Token
from graphlearn.sql.statements import Passthrough

SEVERAL_FILES = frozenset(("PARTITION_BY", "PER_THREAD_OUTPUT", "FILE_SIZE_BYTES"))
"""Options with which COPY writes a folder."""
_DECIDED = SEVERAL_FILES | {"ROW_GROUPS_PER_FILE", "BATCHES_PER_FILE", "USE_TMP_FILE"}
"""Options with which USE_TMP_FILE cannot be combined, or is given."""


def target_of(connection: duckdb.DuckDBPyConnection, statement: Passthrough) -> tuple[list[Token], str] | None:
    """The tokens after TO in COPY … TO, a string or a constant in parentheses, and their value."""
    reader = Reader(statement.source, statement.tokens)
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


def without_torn_file(connection: duckdb.DuckDBPyConnection, statement: Passthrough, query: Rewritten) -> Rewritten:
    """COPY … TO a new file, with DuckDB's option USE_TMP_FILE: it writes to tmp_<name> and renames it at the end.

    DuckDB does so by default only if the file exists. Not changed: COPY to several files, to another file system, with
    options outside parentheses (`CSV HEADER`), and to what exists, which may be a device.
    """
    if statement.kind != "COPY" or {t.word for t in statement.tokens} & _DECIDED:
        return query
    target = target_of(connection, statement)
    if target is None or "://" in target[1]:
        return query
    path, end = Path(target[1]).expanduser(), target[0][-1].end
    rest = [t for t in statement.tokens if t.start >= end]
    if os.path.lexists(path) or not path.parent.is_dir():
        return query
    if not rest:
        return query.replace(end, end, " (USE_TMP_FILE true)")
    if rest[0].word == "WITH":
        rest = rest[1:]
    if rest and rest[0].text == "(":
        return query.replace(rest[0].end, rest[0].end, "USE_TMP_FILE true, ")
    return query
