"""Ctrl-C at the worst moments: nothing is left half done, and no connection stays in use. The moments are stubs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from graphlearn import cli
from graphlearn.session import Session, connect
from graphlearn.sql import dry_run
from graphlearn.storage.interrupt import interruptible, to_the_end
from graphlearn.storage.workspace import Workspace

ENDLESS = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b"


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def test_ctrl_c_while_the_thread_starts(connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            begun.wait()
            raise KeyboardInterrupt

    def work() -> None:
        begun.set()
        connection.execute(ENDLESS).fetchall()

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        interruptible(connection, work)
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_ctrl_c_before_the_thread_starts(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        interruptible(connection, lambda: pytest.fail("it was interrupted"))


def test_errors_and_results_pass(connection: duckdb.DuckDBPyConnection) -> None:
    assert interruptible(connection, lambda: connection.execute("SELECT 2").fetchall()) == [(2,)]
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        interruptible(connection, lambda: connection.execute("FROM nowhere"))


class Interrupting:
    """A connection on which the n-th `execute` is interrupted, before or after it has run; n counts from 1."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, error: BaseException, *, after: bool) -> None:
        self.connection = connection
        self.error = error
        self.after = after
        self.countdown = 0

    def execute(self, sql: str) -> Any:
        self.countdown -= 1
        if self.countdown == 0 and not self.after:
            raise self.error
        found = self.connection.execute(sql)
        if self.countdown == 0:
            raise self.error
        return found


def rolled_back_at(stub: Any, change: str, moment: int) -> None:
    with dry_run._transaction(stub):
        stub.execute(change)
        stub.countdown = moment


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("error", [RuntimeError("Query interrupted"), KeyboardInterrupt()], ids=["duckdb", "python"])
def test_ctrl_c_while_a_dry_run_rolls_back(
    connection: duckdb.DuckDBPyConnection, error: BaseException, after: bool
) -> None:
    state = "SELECT current_setting('threads'), getvariable('kept'), getvariable('new'), count(*) FROM duckdb_tables()"
    change = "CREATE TABLE t (a INT); SET threads = 1; SET VARIABLE kept = 'after'; SET VARIABLE new = 1"
    connection.execute("SET threads = 2; SET VARIABLE kept = 'before'")
    before = connection.execute(state).fetchall()
    for moment in range(1, 9):
        stub: Any = Interrupting(connection, error, after=after)
        with pytest.raises(KeyboardInterrupt):
            rolled_back_at(stub, change, moment)
        assert connection.execute(state).fetchall() == before
    connection.execute("BEGIN")  # no transaction is open


def test_other_errors_end_the_work() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        to_the_end(work)
    assert calls == [1]


class Busy:
    """A connection on which another thread runs a query until it is interrupted for the second time."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self.interrupted = 0

    def interrupt(self) -> None:
        self.interrupted += 1

    def close(self) -> None:
        if self.interrupted < 2:
            raise duckdb.ResourceInUseException("connection is busy with another call")
        self.connection.close()


def test_closing_interrupts_a_query_of_another_thread(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "kg.duckdb")
    busy: Any = Busy(workspace.connection)
    workspace._connection = busy
    workspace.close()
    assert busy.interrupted == 2
    with Workspace.open(tmp_path / "kg.duckdb", patience=0):  # it is closed
        pass


def test_ctrl_c_during_a_short_query_exits_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def close(_: Session) -> None:
        raise RuntimeError("Query interrupted")

    connect(tmp_path / "kg.duckdb").close()
    monkeypatch.setattr(Session, "close", close)
    done = CliRunner().invoke(cli.main, ["query", "SELECT 1", "--workspace", str(tmp_path / "kg.duckdb")])
    assert done.exit_code == 130
    assert done.stderr.startswith("error: interrupted\n")
