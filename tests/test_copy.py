"""COPY … TO a file leaves the whole file or none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from cases.peer import peer

from graphlearn.errors import GraphLearnError
from graphlearn.session import connect
from graphlearn.sql.copies import without_torn_file
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source
from graphlearn.sql.statements import Passthrough

ENDLESS = "COPY (FROM range(1000000000000)) TO 'rows.csv'"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize("options", ["", " (FORMAT csv)"])
def test_a_killed_copy_leaves_no_torn_file(as_file: bool, options: str) -> None:
    Path("job.sql").write_text(f"{ENDLESS}{options};")
    with peer("from graphlearn.session import connect\nsession = connect()") as other:
        other.begin("session.run_file('job.sql')" if as_file else f"session.sql({ENDLESS + options!r})")
        written = Path("tmp_rows.csv")
        while not (written.exists() and written.stat().st_size):
            assert not Path("rows.csv").exists()
            os.sched_yield()
        other.kill()
    assert not Path("rows.csv").exists()


def test_an_interrupted_or_failed_copy_leaves_nothing() -> None:
    with peer("from graphlearn.session import connect\nsession = connect()") as other:
        other.begin(f"try: session.sql({ENDLESS!r})\nexcept KeyboardInterrupt: answer = 'stopped'")
        while not Path("tmp_rows.csv").exists():
            os.sched_yield()
        os.kill(other.pid, signal.SIGINT)
        assert other.end() == "stopped"
    with connect() as session, pytest.raises(GraphLearnError, match="too far"):
        session.sql(
            "COPY (SELECT CASE WHEN i > 300000 THEN error('too far') END FROM range(400000) t(i)) TO 'rows.csv'"
        )
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        ("COPY t TO 'x.csv'", "COPY t TO 'x.csv' (USE_TMP_FILE true)"),
        ("COPY t TO 'x.csv' -- the end", "COPY t TO 'x.csv' (USE_TMP_FILE true) -- the end"),
        ("copy t to ('x' || '.csv')", "copy t to ('x' || '.csv') (USE_TMP_FILE true)"),
        ("COPY t (a) TO 'x.csv' (HEADER)", "COPY t (a) TO 'x.csv' (USE_TMP_FILE true, HEADER)"),
        ("COPY t TO 'x' WITH (FORMAT json)", "COPY t TO 'x' WITH (USE_TMP_FILE true, FORMAT json)"),
    ],
)
def test_duckdb_writes_a_new_file_under_another_name(copy: str, expected: str) -> None:
    assert rewritten(copy) == expected
    with connect() as session:
        session.sql("CREATE TABLE t AS SELECT 1 AS a")
        session.sql(copy)
    assert [entry.name for entry in Path().iterdir()] in (["x.csv"], ["x"])


@pytest.mark.parametrize(
    "copy",
    [
        "COPY t TO 'x.csv' CSV HEADER",
        "COPY t TO 'x.csv' (USE_TMP_FILE false)",
        "COPY t TO 'parts' (FORMAT parquet, PARTITION_BY a)",
        "COPY t TO 'parts' (FORMAT parquet, PER_THREAD_OUTPUT)",
        "COPY t TO 'parts' (FORMAT parquet, FILE_SIZE_BYTES '1MB')",
        "COPY t TO 'parts' (FORMAT parquet, ROW_GROUPS_PER_FILE 1)",
        "COPY t TO 's3://bucket/x.csv'",
        "COPY t TO 'nowhere/x.csv'",
        "COPY t TO 'file.csv'",
        "COPY t TO 'pipe'",
        "COPY t TO 'link'",
        "COPY t TO '/dev/null'",
        "COPY t FROM 'x.csv'",
        "COPY FROM DATABASE a TO b",
    ],
)
def test_other_copies_are_left_alone(copy: str) -> None:
    Path("file.csv").touch()
    os.mkfifo("pipe")
    Path("link").symlink_to("nothing.csv")
    assert rewritten(copy) == copy


def test_the_rows_of_a_model_are_copied_whole() -> None:
    with connect() as session:
        session.sql("CREATE TABLE t AS SELECT i AS head, 'r' AS relation, (i * 7 + 1) % 12 AS tail FROM range(12) r(i)")
        session.sql("CREATE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 1) AS FROM t")
        session.sql("COPY (FROM embeddings('m')) TO 'rows.parquet'")
    assert pq.read_table("rows.parquet").num_rows == 12
    assert [entry.name for entry in Path().iterdir()] == ["rows.parquet"]


def rewritten(copy: str) -> str:
    (statement,) = parse(Source("<sql>", copy))
    assert isinstance(statement, Passthrough)
    with duckdb.connect() as connection:
        query = statement.source
        return without_torn_file(connection, statement, statement.verbatim((0, len(query.sql)))).text
