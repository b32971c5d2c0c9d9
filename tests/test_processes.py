"""Several processes in one workspace train at the same time, and run queries while others train."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest
from cases.peer import Peer, peer
from click.testing import CliRunner, Result

from graphlearn import cli
from graphlearn.errors import WorkspaceError
from graphlearn.events import Event, PhaseStarted
from graphlearn.session import connect
from graphlearn.storage import locks, workspace
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.workspace import Workspace

TRIPLES = "SELECT 'e' || i AS head, 'r' || i % 2 AS relation, 'e' || (i * 7 + 1) % 12 AS tail FROM range(12) t(i)"
TYPE = "TYPE distmult OPTIONS (dim = 4, epochs = 1, batch_size = 4)"
START = """
from graphlearn.events import silent
from graphlearn.session import connect
def run(sql):
    with connect("kg.duckdb", emit=silent) as session:
        result = session.sql(sql)
        return result.fetchall() if hasattr(result, "fetchall") else repr(result)
def command(*words):
    from click.testing import CliRunner
    from graphlearn import cli
    cli.PATIENCE = 0.2
    done = CliRunner().invoke(cli.main, words, catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr
"""
READ = """
with connect("kg.duckdb", read_only=True, emit=silent) as session:
    answer = session.sql("SELECT count(*) FROM triples").fetchall()
"""
KEEP = "kept = connect('kg.duckdb', emit=silent)"


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A second process in the folder of a workspace, with a function `run(sql)`; waiting is reported at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locks, "QUIET", 0.0)
    with duckdb.connect("kg.duckdb") as connection:
        connection.execute(f"CREATE TABLE triples AS {TRIPLES}")
    with peer(START) as started:
        yield started


def training(act: Callable[[], object], phase: str = "train") -> Callable[[Event], None]:
    """An `emit` that calls `act` once, when training or another phase starts."""
    acts = [act]

    def emit(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == phase and acts:
            acts.pop()()

    return emit


def query(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["query", *arguments], catch_exceptions=False)


def test_two_processes_train_two_models_at_once(other: Peer) -> None:
    answers: list[object] = []

    def train_another() -> None:
        answers.append(other.run(f"answer = run('CREATE MODEL second {TYPE} AS FROM triples')"))

    with connect("kg.duckdb", emit=training(train_another)) as session:
        session.sql(f"CREATE MODEL first {TYPE} AS FROM triples")
        assert str(answers[0]).startswith("model second version 1: distmult")
        assert [artifact.model for artifact in ArtifactStore(session.workspace.folder).models()] == ["first", "second"]
        assert session.connection.execute("SELECT count(*) FROM triples").fetchall() == [(12,)]


def test_a_second_run_of_a_model_is_refused(other: Peer) -> None:
    errors: list[str] = []

    def train_again() -> None:
        with pytest.raises(RuntimeError) as caught:
            other.run(f"answer = run('CREATE MODEL m {TYPE} AS FROM triples')")
        errors.append(str(caught.value))

    with connect("kg.duckdb", emit=training(train_again)) as session:
        assert "version 1" in repr(session.sql(f"CREATE MODEL m {TYPE} AS FROM triples"))
    assert "is training m since 20" in errors[0]


def test_tables_change_while_a_model_trains_on_them(other: Peer) -> None:
    def change() -> None:
        other.run("run(\"INSERT INTO triples SELECT 'n' || head, relation, tail FROM triples\")")

    create = f"CREATE OR REPLACE MODEL m {TYPE} AS FROM triples"
    with connect("kg.duckdb", emit=training(change)) as session:
        session.sql("CREATE TEMP TABLE mine AS SELECT 1 AS x; SET VARIABLE v = 2")
        first = session.sql(create)
        assert first.counts["entities"] == 12  # type: ignore[union-attr]
        rows = session.sql("SELECT count(*), (FROM mine), getvariable('v') FROM triples")
        assert rows.fetchall() == [(24, 1, 2)]  # type: ignore[union-attr]
        again = session.sql(create)
        assert (again.version, again.counts["entities"]) == (2, 24)  # type: ignore[union-attr]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_model_is_stored_even_when_the_file_cannot_be_opened_again(
    other: Peer, monkeypatch: pytest.MonkeyPatch, as_file: bool
) -> None:
    monkeypatch.setattr(workspace, "PATIENCE", 0.001)
    job = f"CREATE MODEL m {TYPE} AS FROM triples"
    Path("job.sql").write_text(f"{job}; SELECT count(*) FROM triples;")
    with connect("kg.duckdb", emit=training(lambda: other.run(KEEP))) as session:
        with pytest.raises(WorkspaceError, match=f"kg.duckdb is in use by process {other.pid}") as caught:
            _ = session.run_file("job.sql") if as_file else session.sql(job)
        assert caught.value.__notes__ == ["already stored: m version 1"]
        assert len(ArtifactStore(session.workspace.folder).versions("m")) == 1
        other.run("kept.close()")
        assert session.connection.execute("SELECT count(*) FROM triples").fetchall() == [(12,)]


def test_a_file_that_ends_with_a_model_does_not_need_the_database_again(other: Peer) -> None:
    Path("job.sql").write_text(f"CREATE MODEL m {TYPE} AS FROM triples;")
    with connect("kg.duckdb", emit=training(lambda: other.run(KEEP))) as session:
        assert [result.version for result in session.run_file("job.sql")] == [1]
        assert not session.workspace.is_open


@pytest.mark.parametrize("phase", ["encode", "train", "publish"])
def test_readers_work_in_every_phase_of_a_run(other: Peer, phase: str) -> None:
    found: list[object] = []

    def read() -> None:
        found.append(other.run("answer = command('query', 'SELECT count(*) AS n FROM triples', '--csv')"))
        found.append(other.run("answer = command('plan', 'job.sql')"))
        found.append(other.run("answer = command('runs', '--json')"))
        found.append(other.run(READ))

    Path("job.sql").write_text(f"CREATE TABLE more AS FROM triples; CREATE MODEL n {TYPE} AS FROM more;")
    with connect("kg.duckdb", emit=training(read, phase)) as session:
        session.sql(f"CREATE MODEL m {TYPE} AS FROM triples")
        rows, planned, listed, read_only = found
        assert rows == [0, "n\n12\n", ""]
        assert planned[0] == 0  # type: ignore[index]
        assert planned[1].startswith("n (distmult): to train")  # type: ignore[index]
        assert '"status":"running"' in listed[1].replace(" ", "")  # type: ignore[index]
        assert read_only == [[12]]
        session.sql("INSERT INTO triples FROM triples")  # the file is open for writing again


# the command line


def test_query_reads_tables_while_another_process_trains(other: Peer) -> None:
    other.run(f"{KEEP}; free = kept.workspace.released(); free.__enter__()")
    done = query("SELECT count(*) AS n FROM triples", "--csv")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "n\n12\n", "")
    done = query("INSERT INTO triples FROM triples")
    assert (done.exit_code, done.stderr) == (0, "")
    assert query("SELECT count(*) AS n FROM triples", "--csv").stdout == "n\n24\n"


@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (SELECT 1) SELECT * FROM triples, a",
        "FROM models",
        "PIVOT triples ON relation USING count(*)",
        "COPY triples TO 'out.parquet'",
        "DESCRIBE triples",
        "SET threads = 1; SUMMARIZE triples",
        f"EXPLAIN CREATE MODEL m {TYPE} AS FROM triples",
    ],
)
def test_queries_that_only_read_run_next_to_each_other(other: Peer, sql: str) -> None:
    other.run("kept = connect('kg.duckdb', read_only=True, emit=silent)")
    done = query(sql)
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO triples FROM triples",
        "WITH a AS (FROM triples) INSERT INTO triples FROM a",
        "COPY triples FROM 'out.parquet'",
        "SELECT nextval('numbers')",
        "CALL pragma_version()",
        "CREATE TABLE u AS FROM triples",
        "SELECT 1; DROP TABLE triples",
        "DROP MODEL IF EXISTS m",
    ],
)
def test_queries_that_may_write_open_the_database_for_writing(other: Peer, sql: str) -> None:
    with Workspace.open("kg.duckdb") as opened:
        opened.connection.execute("CREATE SEQUENCE numbers; COPY triples TO 'out.parquet'")
    assert query(sql).exit_code == 0


def test_query_waits_for_a_job_that_reads_its_input(other: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    other.run(KEEP)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        other.begin("kept.close()")

    monkeypatch.setattr(cli, "say", say)
    assert query("SELECT count(*) AS n FROM triples", "--csv").stdout == "n\n12\n"
    assert said == [f"note: waiting for process {other.pid}, which has kg.duckdb open"]
    other.end()


def test_query_without_tables_still_answers_from_stored_models(other: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect("kg.duckdb") as session:
        session.sql(f"CREATE MODEL m {TYPE} AS FROM triples")
    other.run(KEEP)
    monkeypatch.setattr(cli, "PATIENCE", 0.001)
    done = query("SELECT model FROM models", "--csv")
    assert done.stdout == "model\nm\n"
    assert "its tables cannot be read now, only stored models and the system tables" in done.stderr
    done = query("FROM triples")
    assert done.exit_code == 2
    assert f"the table triples cannot be read now: {Path('kg.duckdb').absolute()} is in use by process" in done.stderr
