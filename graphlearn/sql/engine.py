"""The only module that runs the user's SQL. Errors are placed in the user's file.

DuckDB finds Python objects by name in the calling frame (replacement scans). That frame is created here, so nothing has
to be registered or cleaned up; a relation keeps a reference to what it reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb
import pyarrow as pa

from graphlearn.errors import GraphLearnError, InputError, Place, SqlError
from graphlearn.sql.diagnose import Fault
from graphlearn.sql.rewrite import Rewritten
from graphlearn.storage.columns import quoted
from graphlearn.storage.interrupt import INTERRUPTED, interruptible, interruption
from graphlearn.types import Json

if TYPE_CHECKING:
    from graphlearn.jobs.functions import ArrowSource

T = TypeVar("T")

_CALL = compile("__connection.sql(__text)", "<sql>", "eval")
_RUN = compile("__connection.execute(__text).fetchall()", "<sql>", "eval")
_ARROW = compile("__connection.sql(__text).to_arrow_table()", "<sql>", "eval")


class Watched:
    """The rows of a table function, for DuckDB to scan. `error` is the GraphLearnError that ended a scan, placed."""

    def __init__(self, source: ArrowSource, place: Place) -> None:
        self.source = source
        self.place = place
        self.error: GraphLearnError | None = None

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        self.error = None
        reader = pa.RecordBatchReader.from_batches(self.source.schema, self._batches())
        return reader.__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.source.batches()
        except GraphLearnError as error:
            self.error = error.at(self.place)
            raise


@contextmanager
def json_errors(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Inside the block, DuckDB reports errors as JSON, with positions and candidates.

    The setting cannot be changed in an aborted transaction; errors are then plain text, which `Fault` also reads.
    """
    with suppress(duckdb.TransactionException):
        connection.execute("SET errors_as_json = true")
    try:
        yield
    finally:
        with suppress(duckdb.TransactionException, duckdb.ConnectionException):
            connection.execute("RESET errors_as_json")


def relation(
    connection: duckdb.DuckDBPyConnection, query: Rewritten, scope: Mapping[str, object] | None = None
) -> duckdb.DuckDBPyRelation | None:
    """What `connection.sql` returns for one statement: a lazy relation for a query; other statements are executed.

    `scope` holds Python objects that the statement may read as tables. Raises SqlError placed in the user's text.
    """
    result: duckdb.DuckDBPyRelation | None = _evaluate(_CALL, connection, query, scope)
    return result


def rows(
    connection: duckdb.DuckDBPyConnection, query: Rewritten, scope: Mapping[str, object] | None = None
) -> list[tuple[Any, ...]]:
    """All rows of one statement, executed now. Raises SqlError placed in the user's text."""
    result: list[tuple[Any, ...]] = _evaluate(_RUN, connection, query, scope)
    return result


def arrow(
    connection: duckdb.DuckDBPyConnection, query: Rewritten, scope: Mapping[str, object] | None = None
) -> pa.Table:
    """All rows of a query as an Arrow table with DuckDB's exact types. Raises SqlError placed in the user's text."""
    setting = "arrow_lossless_conversion"
    before = connection.execute(f"SELECT current_setting('{setting}')").fetchall()[0][0]
    connection.execute(f"SET {setting} = true")
    try:
        return _evaluate(_ARROW, connection, query, scope)
    finally:
        with suppress(duckdb.TransactionException):
            connection.execute(f"SET {setting} = {before}")


def columns(
    connection: duckdb.DuckDBPyConnection, query: Rewritten, scope: Mapping[str, object] | None = None
) -> dict[str, str]:
    """Names and DuckDB types of a query's columns; nothing is executed. Raises SqlError placed in the user's text."""
    found: dict[str, str] = {}
    for name, type_name, *_ in rows(connection, "DESCRIBE (" + query + "\n)", scope):
        if any(name.lower() == known.lower() for known in found):
            written = [t for t in query.tokens if t.value.casefold() == name.casefold()]
            place = query.source.place(written[-1].start, len(written[-1].text)) if written else query.place()
            help = "rename one of them with AS"
            raise InputError(f"the query has two columns named {name}", place=place, help=help)
        found[name] = type_name
    return found


def is_table(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether the connection has a table or view of that name, not counting Python variables."""
    try:
        eval(_RUN, {"__connection": connection, "__text": f"DESCRIBE {quoted(name)}"})
    except duckdb.Error:
        return False
    return True


def is_aborted(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the user's transaction has failed, so that it accepts only ROLLBACK."""
    try:
        connection.execute("SELECT 1").fetchall()
    except duckdb.TransactionException:
        return True
    return False


def in_transaction(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the user has opened a transaction."""
    if is_aborted(connection):
        return True
    first, second = (connection.execute("SELECT txid_current()").fetchall() for _ in range(2))
    return bool(first == second)


def _evaluate(
    code: CodeType, connection: duckdb.DuckDBPyConnection, query: Rewritten, scope: Mapping[str, object] | None
) -> Any:
    names = {**(scope or {}), "__connection": connection, "__text": query.text}
    with json_errors(connection):
        try:
            return interruptible(connection, lambda: eval(code, names))
        except INTERRUPTED as error:
            raise interruption(error) from None
        except duckdb.Error as error:
            raise _placed(error, query, names) from None


@contextmanager
def lazily(query: Rewritten, scope: Mapping[str, object]) -> Iterator[None]:
    """Place the errors of a relation that is read inside the block in the query it came from."""
    try:
        yield
    except INTERRUPTED as error:
        raise interruption(error) from None
    except duckdb.Error as error:
        for value in scope.values():
            if isinstance(value, Watched) and value.error is not None:
                raise value.error from None
        raise replace(Fault.from_exception(error), start=None).error(query) from None


def _placed(error: duckdb.Error, query: Rewritten, names: dict[str, Any]) -> GraphLearnError:
    """The error placed in the user's text. `connection.sql` gives no position for binder errors; EXPLAIN does."""
    for name in names.values():
        if isinstance(name, Watched) and name.error is not None:
            return name.error
    fault = Fault.from_exception(error)
    if fault.message == "std::bad_cast":  # DuckDB's error for a variable that is not a table, once pyarrow is loaded
        read = [token.value for token in query.tokens if token.value in names]
        if read:
            kind = type(names[read[0]]).__name__
            fault = replace(fault, message=f'Python Object "{read[0]}" of type "{kind}" is not a table')
    if fault.start is None and "Python" not in fault.message:
        explained = "EXPLAIN " + query
        try:
            eval(_RUN, {**names, "__text": explained.text})
        except duckdb.Error as second:
            better = Fault.from_exception(second)
            if better.message == fault.message:
                return better.error(explained)
    return fault.error(query)


def syntax_tree(connection: duckdb.DuckDBPyConnection, query: Rewritten) -> list[Json]:
    """DuckDB's syntax trees of the queries in a text. Raises SqlError if it does not parse."""
    answer = connection.execute(
        "SELECT json_serialize_sql(?::VARCHAR, skip_null := true, skip_empty := true, skip_default := true)",
        [query.text],
    ).fetchone()
    assert answer is not None
    tree: Json = json.loads(answer[0])
    if tree["error"]:
        raise Fault.from_tree(tree).error(query)
    statements: list[Json] = tree["statements"]
    return statements


def statement_type(connection: duckdb.DuckDBPyConnection, query: Rewritten) -> str:
    """DuckDB's kind of one statement: SELECT, CREATE, INSERT, COPY, … Raises SqlError if it does not parse."""
    try:
        with json_errors(connection):
            found = connection.extract_statements(query.text)
    except duckdb.Error as error:
        raise Fault.from_exception(error).error(query) from None
    if len(found) != 1:
        raise SqlError("expected exactly one statement", place=query.source.place(*query.span(0, 1)))
    return str(found[0].type.name)
