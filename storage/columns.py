"""The columns of a query, and whether their types can be keys.

Keys may have any DuckDB type with a total order, exact equality and a lossless stored form. Heads and tails share one
dictionary, so their types must be of the same *kind* (text, integer, …); the dictionary uses their common type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import duckdb

from graphlearn.errors import InputError, nearest

REQUIRED = ("head", "relation", "tail")

FLOAT32_MAX = 3.4028235e38
"""The largest number that float32 holds, in which values, features and weights are kept."""

_KINDS = {
    "text": r"VARCHAR|ENUM\(.*\)",
    "integer": r"(U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT))|BIGNUM",
    "decimal": r"DECIMAL\(\d+,\d+\)",
    "float": r"FLOAT|DOUBLE",
    "boolean": r"BOOLEAN",
    "date": r"DATE",
    "timestamp": r"TIMESTAMP(_S|_MS|_NS)?",
    "timestamp with time zone": r"TIMESTAMP WITH TIME ZONE|TIMESTAMPTZ",
    "time": r"TIME(_NS)?",
    "time with time zone": r"TIME WITH TIME ZONE|TIMETZ",
    "uuid": r"UUID",
    "blob": r"BLOB",
    "bit": r"BIT",
    "json": r'"?JSON"?',
    "nested": r"STRUCT\(.*\)|.*\[\d*\]",
}
_PATTERNS = {kind: re.compile(pattern, re.DOTALL) for kind, pattern in _KINDS.items()}
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def kind_of(type_name: str) -> str | None:
    """The kind of a DuckDB type that can be a key; None for other types (INTERVAL, MAP, UNION, untyped NULL, …)."""
    for kind in ("nested", *_PATTERNS):
        if _PATTERNS[kind].fullmatch(type_name):
            return kind
    return None


def quoted(identifier: str) -> str:
    """The identifier in double quotes, escaped for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """The text as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def sql_literal(value: object) -> str:
    """An option's value as it is written in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(sql_literal, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{sql_literal(k)}: {sql_literal(v)}' for k, v in value.items())}}}"
    return literal(value) if isinstance(value, str) else str(value)


def key_sql(column: str, type_name: str) -> str:
    """The column as a key: text compares byte by byte regardless of collation, and minus zero is zero."""
    cast = f"{quoted(column)}::{type_name}"
    if kind_of(type_name) == "text":
        return f"{cast} COLLATE C"
    return f"({cast} + 0)::{type_name}" if kind_of(type_name) == "float" else cast


def subquery(sql: str) -> str:
    """The query in parentheses for a FROM clause, even if it ends with a comment or semicolon."""
    return f"({sql.strip().rstrip(';')}\n)"


def describe(cursor: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """Columns of a query and their DuckDB types, in order. Nothing is executed.

    Raises duckdb.Error if the query does not bind, InputError if a column name occurs twice.
    """
    columns: dict[str, str] = {}
    for name, type_name, *_ in cursor.execute(f"DESCRIBE {subquery(sql)}").fetchall():
        if any(name.lower() == known.lower() for known in columns):
            raise InputError(f'the query has two columns named "{name}"', help="rename one of them with AS")
        columns[name] = type_name
    return columns


def find_column(columns: Mapping[str, str], name: str) -> str | None:
    """The column's name as spelt in the query; names are case-insensitive, as in DuckDB."""
    return next((column for column in columns if column.lower() == name), None)


def check_key(name: str, type_name: str) -> None:
    """Raise InputError if a column's type cannot be a key."""
    if kind_of(type_name) is None:
        if type_name.strip('"') == "NULL":
            raise InputError(f"{name} is NULL in every row", help=f"select a column that has values AS {name}")
        raise InputError(
            f"{name} is {type_name}, which cannot be a key",
            help=f"cast it, e.g. {name}::VARCHAR AS {name}",
        )


def check_columns(columns: dict[str, str]) -> None:
    """Check that the columns are head, relation, tail and optionally split.

    Raises InputError naming the column that is missing, unknown or of an unusable type, and the fix.
    """
    missing = [name for name in REQUIRED if find_column(columns, name) is None]
    extra = [name for name in columns if name.lower() not in (*REQUIRED, "split")]
    if missing:
        names = ", ".join(columns) or "none"
        if len(missing) == 1 and extra:
            raise InputError(
                f'the query has no column "{missing[0]}" (its columns: {names})', help=_renamed(missing[0], extra)
            )
        example = ", ".join(_as(old, new) for old, new in zip(extra, missing, strict=False))
        raise InputError(
            f"the query needs the columns head, relation and tail; it lacks {' and '.join(missing)} "
            f"(its columns: {names})",
            help=f"name the columns with AS, e.g. SELECT {example}" if example else "add them to the query",
        )
    if extra:
        raise InputError(
            f"the query has columns that are not used for triples: {', '.join(extra)}",
            help="select only head, relation, tail and, if there is one, split",
        )
    for name in REQUIRED:
        column = find_column(columns, name)
        assert column is not None
        check_key(name, columns[column])
    head, tail = (columns[str(find_column(columns, name))] for name in ("head", "tail"))
    if not compatible(head, tail):
        raise InputError(
            f"head is {head} but tail is {tail}; both must have the same kind of key",
            help="cast one of them, e.g. SELECT head::VARCHAR AS head, relation, tail::VARCHAR AS tail",
        )
    split = find_column(columns, "split")
    if split is not None and columns[split].strip('"') == "NULL":
        raise InputError(
            "split is NULL in every row", help="omit the column to split at random, or use 'train', 'valid' and 'test'"
        )
    if split is not None and kind_of(columns[split]) != "text":
        raise InputError(
            f"split is {columns[split]}, not text",
            help="use the values 'train', 'valid' and 'test', or omit the column to split at random",
        )


def _as(old: str, new: str) -> str:
    """SQL that renames a column."""
    return f"{old if _BARE.fullmatch(old) else quoted(old)} AS {new}"


def _renamed(missing: str, extra: list[str]) -> str:
    """The help for a missing column: one of the others is to be renamed."""
    best = (nearest(missing, extra) or extra)[0]
    renamed = _as(best, missing)
    return f"write {renamed}" if len(extra) == 1 else f"rename one of {', '.join(extra)} with AS, e.g. {renamed}"


def compatible(head: str, tail: str) -> bool:
    """Whether two key types can share a dictionary: they are equal, or of one kind with a lossless common type."""
    if head == tail:
        return True
    kind = kind_of(head)
    if kind is None or kind != kind_of(tail) or kind == "nested":
        return False
    return {head, tail} != {"HUGEINT", "UHUGEINT"}  # DuckDB's common type is DOUBLE


def common_type(cursor: duckdb.DuckDBPyConnection, types: list[str]) -> str:
    """The type that represents keys of all given types exactly; an ENUM becomes VARCHAR.

    Raises InputError if there is none.
    """
    wanted = ["VARCHAR" if name.startswith("ENUM(") else name for name in types]
    if len(set(wanted)) == 1:
        return wanted[0]
    union = " UNION ALL ".join(f"SELECT NULL::{name} AS k" for name in wanted)
    found = describe(cursor, union)["k"]
    if kind_of(found) != kind_of(wanted[0]):
        raise InputError(
            f"{' and '.join(types)} have no common key type", help="cast both to one type, e.g. to VARCHAR"
        )
    return found
