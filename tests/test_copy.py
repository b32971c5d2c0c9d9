"""COPY … TO a file leaves the whole file or none, and no other file is touched."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from cases.peer import peer
from cases.storage import limited_file_size

from graphlearn.errors import GraphLearnError, WorkspaceError
from graphlearn.session import connect
from graphlearn.sql.copies import whole_file
from graphlearn.sql.parser import parse
from graphlearn.sql.source import Source
from graphlearn.sql.statements import Passthrough

ENDLESS = "COPY (FROM range(1000000000000)) TO 'rows.csv'"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names() -> list[str]:
    return sorted(entry.name for entry in Path().iterdir())


def written() -> Path | None:
    """The file that a COPY is writing."""
    return next(Path().glob(".graphlearn-*/rows.csv"), None)


@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    "copy", [ENDLESS, f"{ENDLESS} (FORMAT csv)", f"{ENDLESS} CSV HEADER", f"EXPLAIN ANALYZE {ENDLESS}"]
)
def test_a_killed_copy_leaves_no_torn_file(as_file: bool, copy: str) -> None:
    Path("rows.csv").write_text("before")
    Path("job.sql").write_text(f"{copy};")
    with peer("from graphlearn.session import connect\nsession = connect()") as other:
        other.begin("session.run_file('job.sql')" if as_file else f"session.sql({copy!r})")
        while not ((file := written()) and file.stat().st_size):
            os.sched_yield()
        other.kill()
    assert Path("rows.csv").read_text() == "before"


def test_an_interrupted_or_failed_copy_leaves_nothing() -> None:
    with peer("from graphlearn.session import connect\nsession = connect()") as other:
        other.begin(f"try: session.sql({ENDLESS!r})\nexcept KeyboardInterrupt: answer = 'stopped'")
        while not written():
            os.sched_yield()
        os.kill(other.pid, signal.SIGINT)
        assert other.end() == "stopped"
    with connect() as session, pytest.raises(GraphLearnError, match="too far"):
        session.sql(
            "COPY (SELECT CASE WHEN i > 300000 THEN error('too far') END FROM range(400000) t(i)) TO 'rows.csv'"
        )
    assert names() == []


@pytest.mark.parametrize("options", ["", "(FORMAT parquet)"])
def test_a_copy_to_a_full_disk_is_one_clear_error(options: str) -> None:
    Path("out").mkdir()
    full = pytest.raises(WorkspaceError, match=r"^the disk is full: could not write to out/rows\.csv\n")
    with connect() as session, limited_file_size(1 << 20):
        with full as caught:
            session.sql(f"COPY (SELECT i, hash(i) FROM range(1000000) t(i)) TO 'out/rows.csv' {options}")
        assert caught.value.place is not None
    assert list(Path("out").iterdir()) == []


def test_files_with_similar_names_are_kept() -> None:
    Path("tmp_x.csv").write_text("precious")
    with connect() as session:
        for value in (1, 2):
            session.sql(f"COPY (SELECT {value} AS a) TO 'x.csv'")
            assert Path("x.csv").read_text() == f"a\n{value}\n"
    assert Path("tmp_x.csv").read_text() == "precious"
    assert names() == ["tmp_x.csv", "x.csv"]


@pytest.mark.parametrize(
    "copy",
    [
        "COPY t TO 'x.csv'",
        "COPY t TO 'x.csv' -- the end",
        "copy t to ('x' || '.csv')",
        "COPY t (a) TO 'x.csv' (HEADER)",
        "COPY t TO 'x.csv' CSV HEADER",
        "COPY t TO 'x.csv' WITH (FORMAT json)",
        "COPY t TO 'file:{folder}/x.csv'",
        "COPY t TO 'file://{folder}/x.csv'",
        "COPY t TO 'file://localhost{folder}/x.csv'",
        "COPY t TO '~/x.csv'",
        "EXPLAIN ANALYZE COPY t TO 'x.csv'",
        "EXPLAIN (ANALYZE, FORMAT json) COPY t TO 'x.csv'",
        "EXPLAIN ANALYZE (FORMAT json) COPY t TO 'x.csv'",
    ],
)
def test_a_file_is_written_elsewhere_and_renamed(folder: Path, monkeypatch: pytest.MonkeyPatch, copy: str) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert ".graphlearn-" in executed(copy.format(folder=folder))
    with connect() as session:
        session.sql("CREATE TABLE t AS SELECT 1 AS a")
        session.sql(copy.format(folder=folder))
    assert names() == ["x.csv"]
    assert "1" in Path("x.csv").read_text()


def test_the_name_decides_the_format() -> None:
    with connect() as session:
        session.sql("COPY (SELECT 1 AS a) TO 'x.parquet'; COPY (SELECT 1 AS a) TO 'x.csv.gz'")
        counted = session.sql("SELECT * FROM 'x.parquet' AS p JOIN 'x.csv.gz' USING (a)")
        assert counted.fetchall() == [(1,)]  # type: ignore[union-attr]
        assert session.sql("COPY (FROM range(7)) TO 'x.json'").fetchall() == [(7,)]  # type: ignore[union-attr]
    assert Path("x.csv.gz").read_bytes()[:2] == b"\x1f\x8b"
    Path("new").touch()
    assert Path("x.json").stat().st_mode == Path("new").stat().st_mode


@pytest.mark.parametrize("name", ["a" * 251 + ".csv", "ü" * 125 + ".csv"])
def test_a_name_may_be_as_long_as_the_file_system_allows(name: str) -> None:
    with connect() as session:
        session.sql(f"COPY (SELECT 1 AS a) TO '{name}'")
    assert names() == [name]


def test_a_link_to_no_file_yet_creates_what_it_leads_to() -> None:
    Path("link.parquet").symlink_to("rows")
    with connect() as session:
        session.sql("COPY (SELECT 1 AS a) TO 'link.parquet'")
    assert pq.read_table("rows").num_rows == 1
    assert Path("link.parquet").is_symlink()


def test_a_copy_that_writes_no_file_keeps_the_one_before() -> None:
    with connect() as session:
        session.sql("COPY (SELECT 1 AS a) TO 'x.csv'")
        session.sql("COPY (SELECT 1 AS a WHERE false) TO 'x.csv' (WRITE_EMPTY_FILE false)")
    assert Path("x.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize(
    "copy",
    [
        "COPY t TO 'x.csv' (USE_TMP_FILE false)",
        "COPY t TO 'x.csv' (RETURN_FILES)",
        "COPY t TO 'parts' (FORMAT parquet, PARTITION_BY a)",
        "COPY t TO 'parts' (FORMAT parquet, PER_THREAD_OUTPUT)",
        "COPY t TO 'parts' (FORMAT parquet, FILE_SIZE_BYTES '1MB')",
        "COPY t TO 'parts' (FORMAT parquet, ROW_GROUPS_PER_FILE 1)",
        "COPY t TO 's3://bucket/x.csv'",
        "COPY t TO 'file://host/x.csv'",
        "COPY t TO 'nowhere/x.csv'",
        "COPY t TO 'x/'",
        "COPY t TO ''",
        "COPY t TO ('x' || chr(0))",
        "COPY t TO 'pipe'",
        "COPY t TO 'link'",
        "COPY t TO 'loop'",
        "COPY t TO '/dev/stdout'",
        "COPY t FROM 'x.csv'",
        "COPY FROM DATABASE a TO b",
        "EXPLAIN COPY t TO 'x.csv'",
        "EXPLAIN ANALYZE SELECT 1",
        "PREPARE p AS COPY t TO 'x.csv'",
    ],
)
def test_other_copies_are_left_alone(copy: str) -> None:
    os.mkfifo("pipe")
    Path("file.csv").touch()
    Path("link").symlink_to("file.csv")
    Path("loop").symlink_to("loop")
    assert executed(copy) == copy


def test_only_an_allowed_file_is_written(folder: Path) -> None:
    with connect() as session:
        session.sql(f"SET allowed_paths = ['{folder}/x.csv']; SET enable_external_access = false")
        session.sql(f"COPY (SELECT 1 AS a) TO '{folder}/x.csv'")
    assert names() == ["x.csv"]


def test_the_rows_of_a_model_are_copied_whole() -> None:
    with connect() as session:
        session.sql("CREATE TABLE t AS SELECT i AS head, 'r' AS relation, (i * 7 + 1) % 12 AS tail FROM range(12) r(i)")
        session.sql("CREATE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 1) AS FROM t")
        session.sql("COPY (FROM embeddings('m')) TO 'rows.parquet'")
    assert pq.read_table("rows.parquet").num_rows == 12
    assert names() == ["rows.parquet"]


def executed(copy: str) -> str:
    """The text that DuckDB gets for a statement."""
    (statement,) = parse(Source("<sql>", copy))
    assert isinstance(statement, Passthrough)
    with duckdb.connect() as connection, whole_file(connection, statement, statement.verbatim()) as query:
        return query.text
