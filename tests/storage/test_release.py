"""Several processes in one workspace: releasing and reopening the file, and waiting for each other."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from cases.peer import Peer, peer

from graphlearn.errors import WorkspaceError
from graphlearn.storage import database, locks, workspace
from graphlearn.storage.workspace import Workspace

OPEN = "from graphlearn.storage.workspace import Workspace"
RELEASE = "released = mine.released(); released.__enter__()"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database file with a table t of one row; waiting is reported at once."""
    monkeypatch.setattr(locks, "QUIET", 0.0)
    with duckdb.connect(str(tmp_path / "kg.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS x")
    return tmp_path / "kg.duckdb"


@pytest.fixture
def other(path: Path) -> Iterator[Peer]:
    """A second process with a function `open(**options)` for the same workspace."""
    with peer(f"{OPEN}\ndef open(**options): return Workspace.open({str(path)!r}, **options)") as started:
        yield started


def values(opened: Workspace) -> list[int]:
    return [x for (x,) in opened.connection.execute("FROM t ORDER BY x").fetchall()]


# --- releasing ----------------------------------------------------------------------------------------------------


def test_another_process_works_on_a_released_file(path: Path, other: Peer) -> None:
    with Workspace.open(path) as mine:
        mine.connection.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(RuntimeError, match=f"kg.duckdb is in use by process {os.getpid()}"):
            other.run("open(patience=0)")
        with mine.released():
            assert not mine.is_open
            seen = other.run(
                "with open(patience=0) as w:\n"
                "  answer = w.connection.execute('FROM t').fetchall()\n"
                "  w.connection.execute('INSERT INTO t VALUES (3)')"
            )
            assert seen == [[1], [2]]
        assert mine.is_open
        assert values(mine) == [1, 2, 3]


def test_what_connections_hold_survives(path: Path, tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "another.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 40 AS x")
    with Workspace.open(path) as opened:
        connection, cursor, raw = opened.connection, opened.cursor(), opened.connection.cursor()
        connection.execute("CREATE SCHEMA side; CREATE TABLE side.u AS SELECT 5 AS y")
        connection.execute(f"ATTACH '{tmp_path / 'another.duckdb'}'; SET search_path = 'side,main'")
        connection.execute("CREATE TEMP TABLE kept AS SELECT 7 AS z; CREATE TEMP VIEW seen AS SELECT x + 1 AS x FROM t")
        connection.execute("CREATE TEMP MACRO twice(n) AS 2 * n; SET VARIABLE v = [1, 2]; SET threads = 1")
        connection.execute("PREPARE asked AS SELECT x + $1 FROM t; SET null_order = 'nulls_first'")
        connection.register("frame", pa.table({"f": [9]}))
        lazy = connection.sql("SELECT x + 100 FROM t")
        with opened.released():
            assert connection.execute("FROM kept").fetchall() == [(7,)]
        for sql, row in {
            "FROM t": (1,),
            "FROM u": (5,),
            "FROM kept": (7,),
            "FROM seen": (2,),
            "FROM another.t": (40,),
            "FROM frame": (9,),
            "EXECUTE asked(10)": (11,),
            "SELECT twice(3), getvariable('v'), current_setting('threads')": (6, [1, 2], 1),
            "SELECT current_setting('null_order')": ("NULLS_FIRST",),
            "SELECT current_database(), current_schema()": ("kg", "side"),
        }.items():
            assert [tuple(found) for found in connection.execute(sql).fetchall()] == [row], sql
        assert lazy.fetchall() == [(101,)]
        for fresh in (cursor, raw, opened.cursor(), connection.cursor()):
            assert fresh.execute("FROM t").fetchall() == [(1,)]


def test_the_first_use_inside_opens_the_file_again(path: Path) -> None:
    with Workspace.open(path) as opened, opened.released():
        assert not opened.is_open
        assert values(opened) == [1]
        assert opened.is_open
    with Workspace.open(path) as opened, opened.released():
        assert opened.cursor().execute("FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "depend",
    [
        lambda w: w.connection.execute("BEGIN; INSERT INTO t VALUES (2)"),
        lambda w: w.cursor().execute("FROM range(100000)"),
        lambda w: w.connection.sql("FROM range(100000)").to_arrow_reader(10),
        lambda w: Workspace.open(w.database),
    ],
    ids=["transaction", "unread rows", "unread batches", "another session"],
)
def test_a_file_that_something_depends_on_stays_open(path: Path, other: Peer, depend: object) -> None:
    with Workspace.open(path) as opened:
        kept = depend(opened)  # type: ignore[operator]
        with opened.released(), pytest.raises(RuntimeError, match="in use by process"):
            other.run("open(patience=0)")
        assert kept is not None
        del kept


def test_rows_that_another_cursor_has_not_read_are_named(path: Path) -> None:
    with Workspace.open(path) as opened:
        cursor = opened.connection.cursor()  # a cursor unknown to the workspace
        with opened.released():
            pass
        cursor.execute("FROM t, range(100000)")
        with opened.released():
            pass
        with pytest.raises(WorkspaceError, match="by a query whose rows are not all read"):
            _ = opened.connection
        assert cursor.fetchone() == (1, 0)
        cursor.close()
        assert values(opened) == [1]


def test_a_workspace_in_memory_or_read_only_has_nothing_to_release(path: Path) -> None:
    with Workspace.open() as opened:
        opened.connection.execute("CREATE TABLE t AS SELECT 8 AS x")
        with opened.released():
            assert values(opened) == [8]
    with Workspace.open(path, read_only=True) as opened, opened.released():
        assert opened.is_open
        assert values(opened) == [1]


STEMS = ["memory", "MEMORY", "temp", "system", "main", "my graph", "a.b", "select", "it's", 'a"b']


@pytest.mark.parametrize("stem", STEMS)
def test_any_file_name(tmp_path: Path, stem: str) -> None:
    file = tmp_path / f"{stem}.duckdb"
    with duckdb.connect(str(file)) as connection:
        name = connection.execute("SELECT lower(current_database())").fetchall()
    with Workspace.open(file) as opened:
        spill = "SELECT lower(current_database()), current_setting('temp_directory')"
        assert opened.connection.execute(spill).fetchall() == [(*name[0], f"{file}.tmp")]
        databases = "SELECT lower(database_name) FROM duckdb_databases() WHERE NOT internal"
        assert opened.connection.execute(databases).fetchall() == name
        opened.connection.execute("CREATE TABLE t AS SELECT 6 AS x")
        with opened.released(), duckdb.connect(str(file)) as connection:
            assert connection.execute("FROM t").fetchall() == [(6,)]
        assert values(opened) == [6]


# --- the same file twice in a process -----------------------------------------------------------------------------


def test_two_sessions_of_one_process_share_tables_but_no_session_state(path: Path, other: Peer) -> None:
    with Workspace.open(path) as first, Workspace.open(path.parent / "." / "kg.duckdb") as second:
        first.connection.execute("CREATE TEMP TABLE mine AS SELECT 1; SET VARIABLE v = 1; INSERT INTO t VALUES (2)")
        first.connection.register("frame", pa.table({"f": [9]}))
        assert values(second) == [1, 2]
        assert second.connection.execute("SELECT getvariable('v')").fetchall() == [(None,)]
        for name in ("mine", "frame"):
            with pytest.raises(duckdb.CatalogException):
                second.connection.execute(f"FROM {name}")
        with first.released():
            assert values(second) == [1, 2]
            with second.released():
                other.run("open(patience=0).close()")
        first.close()
        assert values(second) == [1, 2]
    with Workspace.open(path, read_only=True) as opened:
        assert values(opened) == [1, 2]


def test_threads_that_open_a_file_together_share_it(path: Path) -> None:
    barrier, opened = threading.Barrier(4), []

    def work() -> None:
        barrier.wait()
        opened.append(Workspace.open(path, patience=0))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [values(one) for one in opened] == [[1]] * 4
    for one in opened:
        one.close()


def test_next_to_a_plain_connection_of_the_process(path: Path) -> None:
    plain = duckdb.connect(str(path))
    with Workspace.open(path) as opened:
        plain.execute("INSERT INTO t VALUES (2)")
        with opened.released():
            assert values(opened) == [1, 2]
    plain.execute("INSERT INTO t VALUES (3)")
    with pytest.raises(WorkspaceError, match="already open in this process for writing"):
        Workspace.open(path, read_only=True)
    plain.close()
    with Workspace.open(path) as opened:
        assert values(opened) == [1, 2, 3]
        with pytest.raises(duckdb.ResourceInUseException, match="already attached"):
            duckdb.connect(str(path))
        assert opened.connection.cursor().execute("FROM t").fetchall() == [(1,), (2,), (3,)]
        with opened.released(), duckdb.connect(str(path)) as plain:
            plain.execute("INSERT INTO t VALUES (4)")
        with opened.released():
            plain = duckdb.connect(str(path))
        with pytest.raises(WorkspaceError, match="in use by another connection of this process"):
            values(opened)
        plain.close()
        assert values(opened) == [1, 2, 3, 4]


# --- waiting ------------------------------------------------------------------------------------------------------


def test_a_process_waits_for_the_file_and_names_the_holder(path: Path, other: Peer) -> None:
    other.run("mine = open(); mine.connection.execute('INSERT INTO t VALUES (2)')")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        other.begin("mine.close()")

    with Workspace.open(path, say=say) as opened:
        assert values(opened) == [1, 2]
    other.end()
    assert said == [f"waiting for process {other.pid}, which has kg.duckdb open"]


def test_after_a_release_the_next_use_waits(path: Path, other: Peer) -> None:
    with Workspace.open(path, say=lambda _: other.begin("mine.close()")) as opened:
        with opened.released():
            other.run("mine = open(); mine.connection.execute('INSERT INTO t VALUES (2)')")
        assert not opened.is_open
        assert values(opened) == [1, 2]
        other.end()


def test_waiting_times_out(path: Path, other: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workspace.open(path) as opened:
        with opened.released():
            other.run("mine = open()")
        monkeypatch.setattr(workspace, "PATIENCE", 0.001)
        with pytest.raises(WorkspaceError) as caught:
            _ = opened.connection
        assert caught.value.message == f"{path} is in use by process {other.pid}"
        assert caught.value.help == "wait until it is done, or close the file there"
        other.run("mine.close()")
        assert values(opened) == [1]


def test_ctrl_c_ends_the_wait(path: Path, other: Peer) -> None:
    other.run("mine = open()")
    with pytest.raises(KeyboardInterrupt):
        Workspace.open(path, say=lambda _: threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start())
    other.run("mine.close()")
    Workspace.open(path, say=lambda _: None).close()


def test_readers_read_together_and_a_writer_waits_for_them(path: Path, other: Peer) -> None:
    Workspace.open(path).close()
    other.run("mine = open(read_only=True, patience=0)")
    with Workspace.open(path, read_only=True, patience=0) as reader:
        assert values(reader) == [1]
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        other.begin("mine.close()")

    Workspace.open(path, say=say).close()
    other.end()
    assert said == ["waiting for another process, which has kg.duckdb open"]


@pytest.mark.parametrize("read_only", [False, True])
def test_other_programs_are_waited_for_briefly(
    path: Path, other: Peer, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    other.run(f"import duckdb; plain = duckdb.connect({str(path)!r})")
    monkeypatch.setattr(database, "OTHERS", 0.02)
    with pytest.raises(WorkspaceError, match=f"kg.duckdb is in use by process {other.pid}"):
        Workspace.open(path, read_only=read_only)
    assert not (path.parent / "kg.graphlearn").exists()
    monkeypatch.setattr(database, "OTHERS", 60.0)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        other.begin("plain.close()")

    with Workspace.open(path, read_only=read_only, say=say) as opened:
        assert values(opened) == [1]
        other.end()
    assert said == ["waiting for another program, which has kg.duckdb open"]


READERS = """
import threading
def read(open_it):
    def loop():
        while not stop.is_set():
            with open_it() as w:
                reads.append(w.execute("FROM t").fetchall())
                started.release()
                stop.wait(0.05)
    stop, reads, started = threading.Event(), [], threading.Semaphore(0)
    thread = threading.Thread(target=loop)
    thread.start()
    started.acquire()
    def end():
        stop.set()
        thread.join()
        return len(reads)
    return end
"""
GRAPHLEARN = f"""
from contextlib import contextmanager
{OPEN}
@contextmanager
def open_it():
    with Workspace.open(PATH, read_only=True) as opened: yield opened.connection
"""
DUCKDB = "import duckdb\ndef open_it(): return duckdb.connect(PATH, read_only=True)"


@pytest.mark.parametrize("locks_exist", [True, False])
@pytest.mark.parametrize(("program", "readers"), [(GRAPHLEARN, 3), (DUCKDB, 1)], ids=["graphlearn", "duckdb"])
def test_a_writer_gets_its_turn_among_readers(path: Path, program: str, readers: int, locks_exist: bool) -> None:
    if locks_exist:
        Workspace.open(path).close()
    with ExitStack() as stack:
        others = [stack.enter_context(peer(f"PATH = {str(path)!r}\n{READERS}\n{program}")) for _ in range(readers)]
        for other in others:
            other.run("end = read(open_it)")
        for value in range(2, 5):
            with Workspace.open(path, say=lambda _: None) as writer:
                writer.connection.execute("INSERT INTO t VALUES (?)", [value])
        for other in others:
            assert other.run("answer = end()") > 0
    with Workspace.open(path) as opened:
        assert values(opened) == [1, 2, 3, 4]


def test_a_job_that_reads_lets_others_read(path: Path, other: Peer) -> None:
    with Workspace.open(path) as mine:
        mine.connection.execute("INSERT INTO t VALUES (2); CREATE TEMP TABLE kept AS SELECT 7 AS z")
        with mine.reading(["FROM t", "FROM kept"]):
            assert other.run(
                "with open(read_only=True, patience=0) as w:\n  answer = w.connection.sql('FROM t').fetchall()"
            ) == [[1], [2]]
            mine.connection.execute("CREATE TEMP TABLE more AS FROM t, kept")
            with pytest.raises(duckdb.InvalidInputException, match="read-only mode"):
                mine.connection.execute("INSERT INTO t VALUES (3)")
            with pytest.raises(RuntimeError, match="in use by"):
                other.run("open(patience=0)")
            with mine.released():
                other.run("with open(patience=0) as w: w.connection.execute('INSERT INTO t VALUES (3)')")
            assert values(mine) == [1, 2, 3]
        mine.connection.execute("INSERT INTO t VALUES (4)")
        assert mine.connection.execute("SELECT count(*) FROM t, kept, more").fetchall() == [(8,)]


@pytest.mark.parametrize(
    ("queries", "depend"),
    [
        (["SELECT nextval('numbers') FROM t"], lambda w: None),
        (["FROM t"], lambda w: w.connection.execute("BEGIN")),
        (["FROM t"], lambda w: w.cursor().execute("FROM range(100000)")),
        (["FROM t"], lambda w: Workspace.open(w.database)),
    ],
    ids=["writes", "transaction", "unread rows", "another session"],
)
def test_a_job_that_may_write_keeps_the_file_to_itself(
    path: Path, other: Peer, queries: list[str], depend: object
) -> None:
    with Workspace.open(path) as mine:
        mine.connection.execute("CREATE SEQUENCE numbers")
        kept = depend(mine)  # type: ignore[operator]
        with mine.reading(queries):
            mine.connection.execute("INSERT INTO t SELECT nextval('numbers') + 1")
            with pytest.raises(RuntimeError, match="in use by"):
                other.run("open(read_only=True, patience=0)")
        assert values(mine) == [1, 2]
        del kept


def test_after_a_release_other_programs_are_waited_for(path: Path, other: Peer) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        other.begin("plain.close()")

    with Workspace.open(path, say=say) as opened:
        with opened.released():
            other.run(f"import duckdb; plain = duckdb.connect({str(path)!r})")
        assert not opened.is_open
        assert values(opened) == [1]
        other.end()
    assert said == ["waiting for another program, which has kg.duckdb open"]


def test_a_file_that_was_removed_is_not_replaced_by_an_empty_one(path: Path) -> None:
    with Workspace.open(path) as opened:
        with opened.released():
            path.unlink()
        with pytest.raises(WorkspaceError, match="is gone: it was removed"):
            _ = opened.connection
        assert not path.exists()


def test_a_file_opens_in_a_folder_without_locks_or_write_access(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with Workspace.open(path) as opened:
        with opened.released():
            duckdb.connect(str(path)).close()
        assert values(opened) == [1]


# --- processes that die -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["", "released()", "training('m')", "writing()"])
def test_a_killed_process_releases_all_locks(path: Path, other: Peer, where: str) -> None:
    other.run("mine = open(); mine.connection.execute('INSERT INTO t VALUES (2)')")
    if where:
        other.run(f"held = mine.{where}; held.__enter__()")
    other.kill()
    with Workspace.open(path, patience=0) as opened:
        assert values(opened) == [1, 2]
        with opened.training("m"), opened.writing(patience=0):
            pass


# --- one run of a model -------------------------------------------------------------------------------------------


def test_a_model_is_trained_by_one_process_at_a_time(path: Path, other: Peer) -> None:
    other.run(f"mine = open(); held = mine.training('kg.Umls'); held.__enter__(); {RELEASE}")
    with Workspace.open(path) as opened:
        with (
            pytest.raises(WorkspaceError, match=rf"process {other.pid} is training KG.umls since 20\d\d-") as caught,
            opened.training("KG.umls"),
        ):
            pass
        assert caught.value.help == "wait until it ends; `graphlearn runs` shows what is running"
        with opened.training("kg.other"), opened.writing(patience=0):
            pass
        other.run("held.__exit__(None, None, None)")
        with opened.training("kg.umls"):
            with Workspace.open(path) as twin, pytest.raises(WorkspaceError) as caught, twin.training("kg.umls"):
                pass
            assert caught.value.message == "another job of this process is training kg.umls"


def test_a_second_publisher_waits(path: Path, other: Peer) -> None:
    other.run(f"mine = open(); held = mine.writing(); held.__enter__(); {RELEASE}")
    with Workspace.open(path) as opened:
        other.begin("held.__exit__(None, None, None)")
        with opened.writing():
            pass
        other.end()
