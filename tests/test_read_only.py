"""What works without the right to write: planning, queries, predictions and listings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from cases.storage import frozen, give_up_rights

from graphlearn.errors import GraphLearnError
from graphlearn.jobs.machine import this_machine
from graphlearn.session import connect

TRIPLES = "SELECT 'e' || i AS head, 'r' || i % 2 AS relation, 'e' || (i * 7 + 1) % 12 AS tail FROM range(12) t(i)"
MODEL = "CREATE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 1) AS FROM"


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with triples, a schema, a view, a macro and a sequence, in the current folder."""
    monkeypatch.chdir(tmp_path)
    with duckdb.connect("kg.duckdb") as connection:
        connection.execute(
            f"CREATE TABLE triples AS {TRIPLES}; CREATE SCHEMA graph; CREATE TABLE graph.edges AS {TRIPLES}"
        )
        connection.execute("CREATE VIEW seen AS FROM triples; CREATE MACRO least(n) AS TABLE FROM triples LIMIT n")
        connection.execute("CREATE SEQUENCE numbers; CREATE TABLE keyed (k INT PRIMARY KEY)")
    return tmp_path


PLANNED = {
    "a stored table": "",
    "a stored table of a schema": f"{MODEL} graph.edges;",
    "a qualified stored table": f"{MODEL} kg.graph.edges;",
    "a table of the file": f"CREATE TABLE mine AS FROM triples; {MODEL} mine;",
    "a table that replaces a stored one": f"CREATE OR REPLACE TABLE triples AS {TRIPLES}; {MODEL} triples;",
    "a table that is dropped first": f"DROP TABLE triples; CREATE TABLE triples AS {TRIPLES}; {MODEL} triples;",
    "a table if not exists": f"CREATE TABLE IF NOT EXISTS triples AS {TRIPLES}; {MODEL} triples;",
    "a table in a stored schema": f"CREATE TABLE graph.mine AS FROM graph.edges; {MODEL} graph.mine;",
    "the stored schema in use": f"USE graph; {MODEL} edges;",
    "a new schema": f"CREATE SCHEMA side; USE side; CREATE TABLE mine AS FROM kg.main.triples; {MODEL} mine;",
    "a search path": f"SET search_path = 'graph,main'; {MODEL} edges;",
    "views and macros": f"CREATE VIEW mine AS FROM seen; CREATE TEMP VIEW few AS FROM least(9); {MODEL} few;",
    "insertions": f"INSERT INTO triples FROM triples; DELETE FROM triples WHERE head = 'e1'; {MODEL} triples;",
    "an upsert": f"INSERT OR REPLACE INTO keyed VALUES (1); {MODEL} triples;",
    "an index": f"CREATE INDEX i ON triples (head); {MODEL} triples;",
}


@pytest.mark.parametrize("case", PLANNED)
def test_a_read_only_workspace_plans_as_a_writable_one_does(stored: Path, case: str) -> None:
    Path("job.sql").write_text(PLANNED[case] or f"{MODEL} triples;")
    state = (
        "SELECT current_setting('search_path'), (SELECT list(database_name) FROM duckdb_databases() WHERE NOT internal)"
    )
    with connect("kg.duckdb", read_only=True) as session:
        before = session.connection.execute(state).fetchall()
        (planned,) = session.plan_file("job.sql")
        assert session.connection.execute(state).fetchall() == before
    with connect("kg.duckdb") as session:
        (same,) = session.plan_file("job.sql")
    assert planned.plan is not None
    assert same.plan is not None
    machine = this_machine()
    assert planned.plan.text(machine) == same.plan.text(machine)


def test_what_alters_stored_tables_is_left_to_the_run(stored: Path) -> None:
    Path("job.sql").write_text(
        f"ALTER TABLE triples ADD COLUMN split VARCHAR; {MODEL} (SELECT * EXCLUDE split, split FROM triples);"
    )
    with connect("kg.duckdb", read_only=True) as session:
        (planned,) = session.plan_file("job.sql")
    assert planned.plan is None


@pytest.mark.parametrize(
    ("job", "error"),
    [
        (f"{MODEL} nosuch;", "Table with name nosuch does not exist"),
        ("INSERT INTO nosuch VALUES (1);", "Table with name nosuch does not exist"),
        ("INSERT INTO keyed VALUES ('a', 'b', 'c');", "has 1 columns but 3 values were supplied"),
        (
            f"CREATE TABLE mine AS SELECT head AS h FROM triples; {MODEL} mine;",
            "needs the columns head, relation and tail",
        ),
    ],
)
def test_mistakes_are_found_without_writing(stored: Path, job: str, error: str) -> None:
    Path("job.sql").write_text(job)
    with connect("kg.duckdb", read_only=True) as session, pytest.raises(GraphLearnError, match=error):
        session.plan_file("job.sql")


PROGRAM = """
import json, os, sys
from click.testing import CliRunner
from graphlearn import cli
for words in json.loads(sys.stdin.read()):
    if words[0] == "chmod":
        os.chmod(words[1], int(words[2], 8))
        continue
    done = CliRunner().invoke(cli.main, words, catch_exceptions=False)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), file=sys.stderr)  # an error may close stdout
"""
READS = [
    (["query", "SELECT count(*) AS n FROM triples", "--csv"], "n\n12"),
    (["query", "CREATE TEMP TABLE few AS FROM triples LIMIT 3; SELECT count(*) AS n FROM few", "--csv"], "n\n3"),
    (["query", "SELECT tail FROM predict('m', (SELECT 'e1' AS head, 'r1' AS relation), k := 1)", "--csv"], "tail\ne"),
    (["query", "SELECT count(*) AS n FROM embeddings('m')", "--csv"], "n\n12"),
    (["query", "SELECT model FROM models", "--csv"], "model\nm"),
    (["query", "SELECT status FROM runs", "--csv"], "status\ndone"),
    (["query", f"EXPLAIN CREATE MODEL n {MODEL[15:]} triples", "--csv"], "operator,"),
    (["plan", "job.sql"], "m (distmult): unchanged"),
    (["plan", "new.sql"], "n (distmult): to train"),
    (["models"], "model"),
    (["show", "m"], "model"),
    (["runs"], "run"),
    (["doctor"], "graphlearn"),
]
WRITES = [
    (["query", "INSERT INTO triples FROM triples"], "kg.duckdb is not writable"),
    (["query", "DROP MODEL m"], "kg.duckdb is not writable"),
    (["run", "job.sql"], "kg.duckdb is not writable"),
]


def call_without_rights(commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """The exit code, stdout and stderr of each command. ["chmod", path, mode] changes the rights for those after it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps(commands),
            preexec_fn=give_up_rights,
            env={**os.environ, "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.SubprocessError:
        pytest.skip("root cannot give up its rights here")
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stderr.splitlines()]


def test_nothing_but_writing_needs_the_right_to_write(stored: Path) -> None:
    Path("job.sql").write_text(f"{MODEL} triples;")
    Path("new.sql").write_text(f"CREATE OR REPLACE TABLE triples AS {TRIPLES}; {MODEL.replace(' m ', ' n ')} triples;")
    with connect("kg.duckdb") as session:
        session.run_file("job.sql")
    with frozen(stored):
        answers = call_without_rights([words for words, _ in (*READS, *WRITES)])
    for (words, expected), (code, stdout, stderr) in zip((*READS, *WRITES), answers, strict=True):
        assert (words, code) == (words, 0 if (words, expected) in READS else 2), stderr
        assert (stdout.startswith(expected) and not stderr) or expected in stderr, (words, stdout, stderr)


COUNT = ["query", "SELECT count(*) AS n FROM triples", "--csv"]
UNREADABLE: dict[str, list[tuple[list[str], str]]] = {
    "kg.graphlearn": [
        (COUNT, ""),
        (["models"], "kg.graphlearn/models is not readable"),
        (["runs"], "kg.graphlearn/runs is not readable"),
        (["show", "m"], "kg.graphlearn/models/m is not readable"),
    ],
    "kg.graphlearn/models": [
        (COUNT, ""),
        (["runs"], ""),
        (["query", "FROM models"], "kg.graphlearn/models is not readable"),
        (["query", "FROM embeddings('m')"], "kg.graphlearn/models/m is not readable"),
        (["plan", "job.sql"], "kg.graphlearn/models/m is not readable"),
    ],
    "kg.graphlearn/runs": [
        (COUNT, ""),
        (["models"], ""),
        (["show", "m"], ""),
        (["query", "FROM runs"], "kg.graphlearn/runs is not readable"),
    ],
    "kg.graphlearn/models/m": [(COUNT, ""), (["runs"], ""), (["show", "m"], "kg.graphlearn/models/m is not readable")],
}


def test_only_what_needs_a_folder_fails_if_it_may_not_be_read(stored: Path) -> None:
    Path("job.sql").write_text(f"{MODEL.replace('CREATE', 'CREATE OR REPLACE')} triples;")
    with connect("kg.duckdb") as session:
        session.run_file("job.sql")
    asked: list[list[str]] = []
    for folder, commands in UNREADABLE.items():
        asked += [["chmod", folder, "0"], *(words for words, _ in commands), ["chmod", folder, "755"]]
    answers = iter(call_without_rights(asked))
    for folder, commands in UNREADABLE.items():
        for words, error in commands:
            code, _, stderr = next(answers)
            first = stderr.partition("\n")[0]
            assert (folder, words, code == 0, bool(first)) == (folder, words, not error, bool(error)), stderr
            assert first.endswith(error), (folder, words)
