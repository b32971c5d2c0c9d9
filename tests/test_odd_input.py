"""Whatever the arguments, the environment, the files and the output are: one error that names them, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from cases.storage import give_up_rights
from click.testing import CliRunner

from graphlearn import cli
from graphlearn.errors import UserError
from graphlearn.jobs.registry import table_functions
from graphlearn.session import connect

LONG = "a" * 300 + ".duckdb"
JOB = "CREATE OR REPLACE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 1) AS FROM triples;"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a database and a job."""
    monkeypatch.chdir(tmp_path)
    with duckdb.connect("kg.duckdb") as connection:
        connection.execute(
            "CREATE TABLE triples AS "
            "SELECT 'e' || i AS head, 'r' AS relation, 'e' || (i * 7 + 1) % 12 AS tail FROM range(12) t(i)"
        )
    Path("job.sql").write_text(JOB)
    Path("variable.sql").write_text("SET VARIABLE path = 'x'; SET VARIABLE number = 1; SELECT getvariable('path');")
    Path("latin1.sql").write_bytes("SELECT 'é';".encode("latin-1"))
    Path("folder.sql").mkdir()
    return tmp_path


COMMANDS = (["models"], ["runs"], ["show", "m"], ["doctor"], ["query", "SELECT 1"], ["plan", "job.sql"])


@pytest.mark.parametrize("command", [*COMMANDS, ["run", "job.sql"]], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        (LONG, "cannot be opened: File name too long"),
        ("a" * 245 + ".duckdb", "cannot be opened: File name too long"),  # of the folder next to it
        ("\udcff.duckdb", "DuckDB opens only paths in UTF-8"),
        ("~nobody-of-that-name/kg.duckdb", "there is no user ~nobody-of-that-name"),
        ("a\0b", "is not the path of a file"),
        ("", "is a folder, not a DuckDB file"),
        ("/", "is a folder, not a DuckDB file"),
    ],
    ids=["long", "long folder", "surrogate", "no user", "NUL", "empty", "root"],
)
def test_paths_that_cannot_be_a_workspace(command: list[str], path: str, error: str) -> None:
    done = CliRunner().invoke(cli.main, [*command, "--workspace", path], catch_exceptions=False)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert error in done.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["run", "latin1.sql"], "latin1.sql is not UTF-8 text"),
        (["plan", "latin1.sql"], "latin1.sql is not UTF-8 text"),
        (["run", "folder.sql"], "cannot read folder.sql: Is a directory"),
        (["run", "\udcff.sql"], "No such file"),
        (["run", "job.sql", "--set", "dim=\udcff"], "half a surrogate pair"),
        (["run", "variable.sql", "--set", "path=\udcff"], "half a surrogate pair"),
        (["plan", "variable.sql", "--set", "PATH='\udced\udca0\udc80'"], "half a surrogate pair"),
        (["run", "variable.sql", "--set", "number='\udcff'"], "half a surrogate pair"),
        (["plan", "variable.sql", "--set", "number=1\0"], "a NUL character"),
        (["run", "job.sql", "--set", "\udcff=1"], "distmult has no option"),
        (["plan", "job.sql", "--set", "m.dim=\ud800"], "half a surrogate pair"),
        (["run", "job.sql", "--set", "seed=2**70"], "seed takes a whole number"),
        (["run", "job.sql", "--set", f"seed={2**64}"], f"seed must be less than 2^64, not {2**64}"),
        (["run", "job.sql", "--set", f"seed={-(2**70)}"], f"seed must be at least 0, not {-(2**70)}"),
        (["run", "job.sql", "--resume", "\udcff"], "there is no run"),
        (["run", "job.sql", "--select", "\udcff"], "no statement creates a model"),
        (["show", "\udcff"], "there is no model"),
        (["show", "\udcff" * 300], "there is no model"),
        (["query", "SELECT '\udcff'"], "half a surrogate pair"),
        (["query", "FROM embeddings('\udcff')"], "half a surrogate pair"),
        (["query", "SELECT 1", "--workspace", "job.sql"], "job.sql is not a DuckDB file"),
        (["query", "SELECT 1", "--workspace", "/dev/null"], "/dev/null is not a DuckDB file"),
    ],
)
def test_arguments_and_files_of_other_kinds(words: list[str], error: str) -> None:
    done = CliRunner().invoke(cli.main, words, catch_exceptions=False)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert error in done.stderr.splitlines()[0]
    assert "rm /dev/null" not in done.stderr


@pytest.mark.parametrize("name", ["HOME", "TMPDIR"])
def test_a_variable_in_another_encoding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "/\udcff")
    done = CliRunner().invoke(cli.main, ["plan", "job.sql"], catch_exceptions=False)
    assert (done.exit_code, done.stderr.splitlines()[0]) == (2, f"error: the environment variable {name} is not UTF-8")


@pytest.mark.parametrize("sql", ["SELECT {}('m')", "SELECT * FROM triples WHERE {}('m', (FROM triples)) > 1"])
@pytest.mark.parametrize("function", sorted(table_functions()))
def test_a_table_function_used_as_a_scalar(function: str, sql: str) -> None:
    with connect("kg.duckdb") as session, pytest.raises(UserError) as caught:
        session.sql(sql.format(function))
    assert caught.value.message == f"{function} is a table function and must be used in FROM"
    assert caught.value.help is not None
    assert caught.value.help.startswith(f"write FROM {function}(")
    assert caught.value.place is not None


@pytest.mark.parametrize(
    "model",
    [
        "TYPE distmult OPTIONS (dim = 2, epochs = 1, seed = {}) AS FROM triples",
        "TYPE distmult OPTIONS (dim = 2, epochs = 1, seed = {}, entity_dropout = 0.1) AS FROM triples",
        "TYPE net3 OPTIONS (horizon = 2, window = 4, epochs = 1, modes = ['s'], seed = {}) AS "
        "SELECT TIMESTAMP '2026-01-01' + INTERVAL (i) HOUR AS ts, 's' || j AS s, sin(i + j) AS value "
        "FROM range(60) a(i), range(2) b(j)",
        "TYPE dhan OPTIONS (target = 'class', hidden = 8, heads = 2, epochs = 1, hops = 1, seed = {}) AS "
        "(thing AS (SELECT i AS id, [i % 3] AS words, i % 2 AS class FROM range(40) t(i)), "
        "near AS (SELECT i AS source, (i * 7 + 1) % 40 AS target FROM range(40) t(i)))",
    ],
    ids=["fused", "autograd", "net3", "dhan"],
)
def test_every_seed_of_64_bits_trains(model: str) -> None:
    with connect("kg.duckdb") as session:
        assert getattr(session.sql(f"CREATE MODEL m {model.format(2**64 - 1)}"), "version", None) == 1


def test_a_job_whose_name_is_not_utf8_runs() -> None:
    name = os.fsencode("job-") + b"\xff.sql"
    os.rename(b"job.sql", name)
    done = CliRunner().invoke(cli.main, ["run", os.fsdecode(name), "--no-picture"], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert CliRunner().invoke(cli.main, ["runs", "--json"], catch_exceptions=False).exit_code == 0
    (command,) = Path("kg.graphlearn/runs").glob("*/command.json")
    assert command.read_bytes().isascii()


def call(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "graphlearn", *words]
    options = {"stderr": subprocess.PIPE, "text": True} | options
    return subprocess.run(program, check=False, **options)  # type: ignore[call-overload,no-any-return]


def close_output() -> None:
    os.close(1)


def test_output_that_nobody_reads() -> None:
    query = ["query", "FROM range(100000)", "--csv"]
    assert call(query, preexec_fn=close_output).stderr == ""
    with open("/dev/full", "w") as full:
        done = call(query, stdout=full)
    assert (done.returncode, done.stderr) == (1, "error: the output could not be written: No space left on device\n")
    with subprocess.Popen(
        [sys.executable, "-m", "graphlearn", *query], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_folders_that_may_not_be_read_or_are_none() -> None:
    with connect("kg.duckdb") as session:
        session.run_file("job.sql")
    folder = Path("kg.graphlearn")
    (folder / "runs").chmod(0)
    try:
        done = call(["runs"], preexec_fn=give_up_rights)
    except subprocess.SubprocessError:
        pytest.skip("root cannot give up its rights here")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: kg.graphlearn/runs is not readable")
    (folder / "runs").chmod(0o700)
    folder.rename("elsewhere")
    folder.touch()
    assert CliRunner().invoke(cli.main, ["runs"], catch_exceptions=False).exit_code == 0
    done = call(["run", "job.sql"])
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "  = help: move it to another place")
    assert " is in the way: Not a directory" in done.stderr
