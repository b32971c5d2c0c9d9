"""On Windows, which lacks parts of `os` and `fcntl`: the import and reading work, and the first write names WSL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from graphlearn.session import connect

WINDOWS = """
import os, sys
sys.modules["fcntl"] = None
for name in ("fork", "O_CLOEXEC", "O_DIRECTORY", "pwrite", "pread", "sched_getaffinity", "getuid"):
    delattr(os, name)
"""
READ = """
import graphlearn, graphlearn.cli
with graphlearn.connect() as session:
    assert session.sql("SELECT 42").fetchall() == [(42,)]
with graphlearn.connect("kg.duckdb", read_only=True) as session:
    assert session.sql("SELECT count(*) FROM t").fetchall() == [(12,)]
    assert session.sql("SELECT status FROM runs").fetchall() == [("done",)]
    assert len(session.sql("FROM embeddings('m')").fetchall()) == 12
"""
WRITES = {
    "a database file": "import graphlearn; graphlearn.connect('new.duckdb')",
    "a model": """
import graphlearn
rows = "SELECT i AS head, 'r' AS relation, i + 1 AS tail FROM range(9) t(i)"
graphlearn.connect().sql(f"CREATE MODEL m TYPE distmult AS {rows}")
""",
    "the command line": "from graphlearn.cli import main; main(['query', 'CREATE TABLE u AS FROM t'])",
}


def on_windows(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WINDOWS + program], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database and a model, made on Linux."""
    folder = tmp_path_factory.mktemp("stored")
    with connect(folder / "kg.duckdb") as session:
        session.sql("CREATE TABLE t AS SELECT i AS head, 'r' AS relation, (i * 7 + 1) % 12 AS tail FROM range(12) r(i)")
        session.sql("CREATE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 1) AS FROM t")
    return folder


def test_reading_works(stored: Path) -> None:
    done = on_windows(READ, stored)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", WRITES)
def test_the_first_write_names_wsl(stored: Path, what: str) -> None:
    done = on_windows(WRITES[what], stored)
    assert done.returncode != 0
    assert "GraphLearn writes no files on Windows" in done.stderr
    assert "Windows Subsystem for Linux" in done.stderr
    assert not (stored / "new.graphlearn").exists()
    with duckdb.connect(str(stored / "kg.duckdb")) as connection:
        assert connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(1,)]
