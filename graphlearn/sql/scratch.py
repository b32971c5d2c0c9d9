"""A scratch database: what a file would create in a database that is open read-only.

It comes first in the search path, has the same schemas and is otherwise empty, so that a table created in it hides the
stored one of that name, and all other tables are found where they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import duckdb

from graphlearn.storage.columns import literal, quoted
from graphlearn.storage.interrupt import to_the_end

SCRATCH = "graphlearn_scratch"
REFUSED = "attached in read-only mode"
"""DuckDB's words for a statement that would change what is stored."""
_NAME = r'((?:"(?:[^"]|"")*"|[^,."]+))'


@contextmanager
def scratch(connection: duckdb.DuckDBPyConnection) -> Iterator[Callable[[], None]]:
    """Attach a scratch database inside the block, which must leave no transaction open.

    Yields a function to call after each statement, which may have changed the search path.
    """
    stored = str(_value(connection, "SELECT current_database()"))
    before = str(_value(connection, "SELECT current_setting('search_path')"))
    connection.execute(f"ATTACH OR REPLACE ':memory:' AS {SCRATCH}")
    try:
        for _, schema in _schemas(connection, stored):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCRATCH}.{quoted(schema)}")
        _follow(connection, stored)
        yield lambda: _follow(connection, stored)
    finally:
        to_the_end(
            lambda: connection.execute(f"SET search_path = {literal(before)}; DETACH DATABASE IF EXISTS {SCRATCH}")
        )


def has_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether the scratch database has a table of that name in any schema."""
    count = f"SELECT count(*) FROM duckdb_tables() WHERE database_name = '{SCRATCH}' AND lower(table_name) = "
    return bool(_value(connection, count + literal(name.lower())))


def _follow(connection: duckdb.DuckDBPyConnection, stored: str) -> None:
    """Put the scratch database before the stored one in the search path, and make every stored schema reachable.

    DuckDB finds `schema.table` only in the databases that the path names with that schema.
    """
    path = str(_value(connection, "SELECT current_setting('search_path')"))
    entries = [(_unquoted(database), _unquoted(schema)) for database, schema in re.findall(rf"{_NAME}\.{_NAME}", path)]
    wanted: list[tuple[str, str]] = []
    for database, schema in [*entries, *_schemas(connection, stored)]:
        ours = database in (SCRATCH, stored)
        wanted += [(SCRATCH, schema), (stored, schema)] if ours else [(database, schema)]
    known = {*_schemas(connection, SCRATCH), *_schemas(connection, stored)}
    found = [e for e in dict.fromkeys(wanted) if e in known or e[0] not in (SCRATCH, stored)]
    if found != entries:
        text = ",".join(f"{quoted(database)}.{quoted(schema)}" for database, schema in found)
        connection.execute(f"SET search_path = {literal(text)}")


def _schemas(connection: duckdb.DuckDBPyConnection, database: str) -> list[tuple[str, str]]:
    """The schemas of a database; those that it shares with all others are left out."""
    query = "SELECT database_name, schema_name FROM duckdb_schemas() WHERE database_name = ? AND "
    common = "schema_name NOT IN ('pg_catalog', 'information_schema')"
    return [(str(d), str(s)) for d, s in connection.execute(query + common + " ORDER BY oid", [database]).fetchall()]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _value(connection: duckdb.DuckDBPyConnection, query: str) -> object:
    return connection.execute(query).fetchall()[0][0]
