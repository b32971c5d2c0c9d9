"""Sessions: SQL in, relations and models out."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

import graphlearn
from graphlearn.errors import (
    ArtifactError,
    GraphLearnError,
    InputError,
    ModelExists,
    ModelNotFound,
    OptionError,
    SqlError,
    UserError,
    WorkspaceError,
)
from graphlearn.events import Event, JobFinished, JobStarted, Note, silent
from graphlearn.jobs.drawing import read_history, title
from graphlearn.jobs.machine import Machine
from graphlearn.jobs.registry import family
from graphlearn.jobs.request import ModelResult
from graphlearn.session import Session, connect
from graphlearn.show import print_model, print_models
from graphlearn.sinks import plain_sink

TRIPLES = """
CREATE TABLE triples AS
  SELECT 'e' || i AS head, 'r' || i % 2 AS relation, 'e' || (i * 7 + 1) % 12 AS tail FROM range(12) t(i);
CREATE TABLE questions AS SELECT 'e1' AS head, 'r0' AS relation;
"""
TYPE = "TYPE distmult OPTIONS (dim = 4, epochs = 1, batch_size = 4)"
QUERY = "SELECT head, relation, tail FROM triples"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test runs in its own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def session() -> Iterator[Session]:
    with connect("kg.duckdb", emit=silent) as opened:
        opened.sql(TRIPLES)
        yield opened


@pytest.fixture(scope="module")
def trained() -> Iterator[Session]:
    """A session with a model "kg.m", which tests must not change."""
    with connect(emit=silent) as opened:
        opened.sql(f"{TRIPLES} CREATE MODEL kg.m {TYPE} AS {QUERY}")
        yield opened


def rows(session: Session, text: str) -> list[tuple[Any, ...]]:
    result = session.sql(text)
    assert isinstance(result, duckdb.DuckDBPyRelation)
    return result.fetchall()


def write(text: str, name: str = "job.sql") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


# What DuckDB returns


def test_a_query_returns_a_relation(session: Session) -> None:
    relation = session.sql("SELECT 42 AS answer")
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert relation.columns == ["answer"]
    assert relation.filter("answer > 1").fetchall() == [(42,)]
    assert "42" in repr(relation)
    assert "<table" in relation._repr_mimebundle_()["text/html"]


def test_statements_run_in_order_and_the_last_one_returns(session: Session) -> None:
    assert rows(session, "CREATE TABLE a (i INT); INSERT INTO a VALUES (1); FROM a;; -- the end") == [(1,)]
    assert session.sql("-- nothing") is None
    assert session.sql("") is None


def test_a_query_in_the_middle_runs_too(session: Session) -> None:
    with pytest.raises(SqlError, match="boom"):
        session.sql("SELECT error('boom'); SELECT 1")


def test_python_variables_are_tables(session: Session) -> None:
    frame = pd.DataFrame({"x": [1, 2]})
    table = pa.table({"y": [3]})
    relation = session.sql('SELECT x, y FROM frame, "table"')
    assert relation.fetchall() == [(1, 3), (2, 3)]  # type: ignore[union-attr]
    assert len(frame) + len(table) == 3


def test_our_own_variables_are_not_tables(session: Session) -> None:
    for name in ("statement", "text", "binder", "names", "query"):
        with pytest.raises(SqlError, match="does not exist"):
            session.sql(f"FROM {name}")


def test_a_variable_that_is_not_a_table(session: Session) -> None:
    numbers = {1, 2}
    with pytest.raises(SqlError, match="the Python variable of that name is a set"):
        session.sql("FROM numbers")
    assert numbers


def test_errors_are_placed_and_duckdb_keeps_its_own(session: Session) -> None:
    with pytest.raises(SqlError) as caught:
        session.sql("SELECT 'é',\n  hed FROM triples")
    assert caught.value.place is not None
    assert (caught.value.place.line, caught.value.place.column) == (2, 3)
    with pytest.raises(duckdb.BinderException, match="LINE 1"):
        session.connection.execute("SELECT nope")


def test_transactions(session: Session) -> None:
    session.sql("BEGIN; INSERT INTO questions VALUES ('e2', 'r1'); ROLLBACK")
    assert rows(session, "SELECT count(*) FROM questions") == [(1,)]
    session.sql("BEGIN")
    with pytest.raises(SqlError, match="cannot run inside a transaction"):
        session.sql(f"CREATE MODEL m {TYPE} AS {QUERY}")
    with pytest.raises(SqlError):
        session.sql("SELECT error('this aborts it')").fetchall() if False else session.sql(
            "SELECT error('x'); SELECT 1"
        )
    with pytest.raises(SqlError, match="aborted"):
        session.sql("SELECT 1; SELECT 2")
    session.sql("ROLLBACK")
    assert rows(session, "SELECT 1") == [(1,)]


MODEL_OF = f"CREATE MODEL m {TYPE} AS SELECT head, relation, tail FROM triples, ({{}})"


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals need the main thread")
@pytest.mark.parametrize("text", ["CREATE TABLE big AS {}", "{}; SELECT 1", "EXPLAIN ANALYZE {}", MODEL_OF])
def test_interrupt_stops_at_once(session: Session, text: str) -> None:
    slow = "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000) b"
    session.sql(f"EXPLAIN CREATE MODEL m {TYPE} AS {QUERY}")  # imports torch, which the signal must not interrupt
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        session.sql(text.format(slow)).fetchall()  # type: ignore[union-attr]
    timer.join()
    assert time.perf_counter() - started < 3
    assert rows(session, "SELECT 1") == [(1,)]


# Models


def test_life_of_a_model() -> None:
    events: list[Event] = []
    with connect("kg.duckdb", emit=events.append) as session:
        session.sql(TRIPLES)
        text = f"CREATE MODEL m {TYPE} AS {QUERY}"
        made = session.sql(text)
        assert isinstance(made, ModelResult)
        assert (made.model, made.version, made.status) == ("m", 1, "done")
        assert "m version 1" in repr(made)
        assert isinstance(events[0], JobStarted)
        assert isinstance(events[-1], JobFinished)

        same = session.sql(f"create model M /* again */ {TYPE.lower()}\n  AS {QUERY};")
        assert isinstance(same, ModelResult)
        assert (same.version, same.status, same.metrics) == (1, "unchanged", made.metrics)
        assert isinstance(events[-1], JobFinished)
        assert events[-1].status == "unchanged"

        with pytest.raises(ModelExists, match="model m already exists"):
            session.sql(f"CREATE MODEL m {TYPE} AS {QUERY} LIMIT 9")
        kept = session.sql(f"CREATE MODEL IF NOT EXISTS m TYPE complex AS {QUERY} LIMIT 9")
        assert isinstance(kept, ModelResult)
        assert (kept.version, kept.family, kept.status) == (1, "distmult", "unchanged")

        assert "<td>distmult</td><td>1</td><td>unchanged</td>" in kept._repr_html_()

        forced = session.sql(text, force=True)
        assert isinstance(forced, ModelResult)
        assert (forced.version, forced.status) == (2, "done")

        session.sql("INSERT INTO triples VALUES ('e1', 'r1', 'e2')")
        newer = session.sql(text.replace("CREATE", "CREATE OR REPLACE"))
        assert isinstance(newer, ModelResult)
        assert (newer.version, newer.status) == (3, "done")
        assert rows(session, "SELECT model, version FROM models") == [("m", 3)]
        assert rows(session, "SELECT count(*) FROM model_versions") == [(3,)]
        assert rows(session, "SELECT DISTINCT status FROM runs") == [("done",)]

        dropped = session.sql("DROP MODEL M")
        assert (repr(dropped), dropped.versions) == ("model m: dropped, versions 1, 2, 3", (1, 2, 3))  # type: ignore
        assert rows(session, "FROM Models") == []
        with pytest.raises(ModelNotFound):
            session.sql("DROP MODEL m")
        assert repr(session.sql("DROP MODEL IF EXISTS m")) == "model m does not exist"


def test_a_model_that_changes_within_a_file_is_not_trained_again(session: Session) -> None:
    text = ""
    for dim in (4, 6):
        text += f"CREATE OR REPLACE MODEL m TYPE distmult OPTIONS (dim = {dim}, epochs = 1) AS {QUERY};"
        text += f"CREATE OR REPLACE TABLE a{dim} AS SELECT score FROM predict('m', questions, k := 1);"
    path = write(text)
    first = [(result.version, result.status) for result in session.run_file(path)]
    answers = rows(session, "FROM a4, a6")
    assert first == [(1, "done"), (2, "done")]
    assert [planned.unchanged for planned in session.plan_file(path)] == [True, True]
    again = [(result.version, result.status) for result in session.run_file(path)]
    assert again == [(1, "unchanged"), (2, "unchanged")]
    assert rows(session, "FROM a4, a6") == answers
    assert rows(session, "SELECT version FROM model_versions WHERE is_current") == [(2,)]
    session.sql(f"CREATE OR REPLACE MODEL M TYPE distmult OPTIONS (dim = 4, epochs = 1) AS {QUERY}")
    assert rows(session, "SELECT version, json_extract(options, 'dim') FROM models") == [(1, "4")]


def test_explain_returns_the_plan(trained: Session) -> None:
    plan = trained.sql(f"EXPLAIN CREATE MODEL other {TYPE} AS {QUERY}")
    assert isinstance(plan, duckdb.DuckDBPyRelation)
    assert "train" in [row[0] for row in plan.project("operator").fetchall()]
    assert rows(trained, "SELECT model FROM models") == [("kg.m",)]


def test_system_tables_are_live_and_give_way(session: Session) -> None:
    assert rows(session, "SELECT count(*) FROM models, model_versions, training_info, runs") == [(0,)]
    session.sql("CREATE VIEW seen AS SELECT model FROM models")
    assert rows(session, "FROM seen") == []
    assert rows(session, "SHOW runs") == rows(session, "DESCRIBE runs")
    models = pd.DataFrame({"x": [1]})
    assert session.sql("FROM models").columns[0] == "model"  # type: ignore[union-attr]
    session.sql("CREATE TABLE models AS SELECT 5 AS mine")
    assert rows(session, "FROM models") == [(5,)]
    assert len(models) == 1


def test_overrides(trained: Session) -> None:
    text = f"EXPLAIN CREATE MODEL other {TYPE} AS {QUERY}"
    for overrides in ({"dim": 6}, {"dim": "3 + 3"}, {"other.dim": 6}):
        detail = rows(trained, "SELECT 1")
        plan = trained.sql(text, overrides=overrides)
        detail = plan.filter("operator = 'train'").project("bytes").fetchall()  # type: ignore[union-attr]
        assert (
            detail
            == trained.sql(text.replace("dim = 4", "dim = 6"))
            .filter(  # type: ignore[union-attr]
                "operator = 'train'"
            )
            .project("bytes")
            .fetchall()
        )
    with pytest.raises(OptionError, match="distmult has no option dims"):
        trained.sql(text, overrides={"dims": 6})
    with pytest.raises(OptionError, match="no statement creates a model"):
        trained.sql("SELECT 1", overrides={"dim": 6})


def test_overrides_of_variables(session: Session) -> None:
    session.sql("COPY triples TO 'a b.parquet'")
    text = "SET VARIABLE path = 'nowhere'; SET VARIABLE n = 1; SELECT getvariable('n'), count(*) FROM read_parquet({})"
    given = {"PATH": "a b.parquet", "n": "2 + 3"}
    assert session.sql(text.format("getvariable('path')"), overrides=given).fetchall() == [(5, 12)]  # type: ignore[union-attr]
    write(text.format("getvariable('path')") + f"; CREATE MODEL m {TYPE} AS FROM read_parquet(getvariable('path'))")
    assert [each.model for each in session.run_file("job.sql", overrides={**given, "dim": 6})] == ["m"]
    with pytest.raises(OptionError, match="distmult has no option paths"):
        session.run_file("job.sql", overrides={**given, "paths": "x"})


def test_a_model_of_what_only_this_connection_sees(session: Session) -> None:
    frame = session.sql(QUERY).df()  # type: ignore[union-attr]
    made = session.sql(f"CREATE MODEL from_frame {TYPE} AS FROM frame")
    assert isinstance(made, ModelResult)
    assert session.sql(f"CREATE MODEL from_frame {TYPE} AS FROM frame").status == "unchanged"  # type: ignore[union-attr]
    assert len(frame) == 12
    session.sql(f"CREATE TEMP TABLE mine AS {QUERY}; CREATE MODEL from_temp {TYPE} AS FROM mine")
    session.sql("COPY triples TO 'triples.parquet'; SET VARIABLE path = 'triples.parquet'")
    session.sql(f"CREATE MODEL from_variable {TYPE} AS FROM read_parquet(getvariable('path'))")
    session.sql(
        f"CREATE SCHEMA s; USE s; CREATE TABLE t AS SELECT * FROM main.triples; CREATE MODEL used {TYPE} AS FROM t"
    )
    assert rows(session, "SELECT count(*) FROM models") == [(4,)]
    left = "SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
    assert rows(session, left) == [("model_versions",), ("models",), ("runs",), ("training_info",)]


def test_a_model_of_predictions(trained: Session) -> None:
    text = f"CREATE MODEL second {TYPE} AS SELECT head, relation, tail FROM predict('kg.m', triples_asked, k := 2)"
    triples_asked = trained.sql("SELECT head, relation FROM triples")
    made = trained.sql(text)
    assert isinstance(made, ModelResult)
    assert triples_asked is not None
    trained.sql("DROP MODEL second")


def test_a_damaged_model_is_refused_and_can_be_trained_again(session: Session) -> None:
    text = f"CREATE MODEL m {TYPE} AS {QUERY}"
    session.sql(text)
    (path,) = rows(session, "SELECT path FROM models")[0]
    weights = Path(path) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    with pytest.raises(ArtifactError) as caught:
        session.sql("FROM predict('m', questions)")
    assert caught.value.place is not None
    assert caught.value.place.column == 14
    with pytest.raises(ArtifactError):
        session.sql(text)
    assert session.sql(text.replace("CREATE", "CREATE OR REPLACE")).version == 2  # type: ignore[union-attr]
    assert len(rows(session, "FROM predict('m', questions, k := 3)")) == 3


def test_read_only() -> None:
    with connect("kg.duckdb") as session:
        session.sql(f"{TRIPLES} CREATE MODEL m {TYPE} AS {QUERY}")
    with connect("kg.duckdb", read_only=True) as session:
        assert len(rows(session, "FROM predict('m', questions, k := 2)")) == 2
        assert len(rows(session, "WITH q AS (SELECT 'e3' AS tail, 'r1' AS relation) FROM predict('m', q, k := 2)")) == 2
        with pytest.raises((WorkspaceError, SqlError)):
            session.sql(f"CREATE OR REPLACE MODEL m {TYPE} AS {QUERY} LIMIT 9")
        with pytest.raises(WorkspaceError):
            session.sql("DROP MODEL m")


# Table functions


@pytest.mark.parametrize(
    "text",
    [
        "FROM predict('kg.m', questions, k := 3)",
        "FROM predict('KG.M', (SELECT head, relation FROM questions), k := 1 + 2)",
        "SELECT predict.* FROM predict('kg.m', questions, k := 3)",
        "SELECT p.rank FROM predict('kg.m', main.questions, k := 3) AS p WHERE p.score IS NOT NULL",
        "WITH q AS (FROM questions) SELECT p.* FROM predict('kg.m', q, k := 3) p JOIN q USING (head)",
        "WITH a AS (FROM questions), b AS (FROM predict('kg.m', a, k := 3)) FROM b",
        "SELECT * FROM questions q JOIN predict('kg.m', questions, k := 3) p ON q.head = p.head",
        "SELECT unnest(list(tail)) FROM (FROM predict('kg.m', questions, k := 3))",
        "FROM predict('kg.m', (SELECT DISTINCT head, relation FROM predict('kg.m', questions)), k := 3)",
        "SELECT * FROM range(3) LEFT JOIN evaluate('kg.m') e ON e.split = 'nothing'",
        "FROM evaluate('kg.m', triples) WHERE relation IS NULL",
        "FROM embeddings('kg.m') LIMIT 3",
        "FROM similar('kg.m', 'e1', k := 3)",
        "FROM similar('kg.m', ['e1', 'e2', 'e3'], k := 1)",
        "FROM similar('kg.m', (SELECT head FROM questions), k := 3)",
    ],
)
def test_table_functions_anywhere_in_a_query(trained: Session, text: str) -> None:
    relation = trained.sql(text)
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    assert len(relation.fetchall()) == 3
    assert relation.limit(2).fetchall() == relation.fetchall()[:2]


def test_questions_that_only_this_connection_sees(trained: Session) -> None:
    frame = pd.DataFrame({"head": ["e2"], "relation": ["r1"], "note": ["kept"]})
    answers = trained.sql("SELECT DISTINCT note FROM predict('kg.m', frame, k := 2)")
    assert answers.fetchall() == [("kept",)]  # type: ignore[union-attr]
    assert len(frame) == 1
    trained.sql("CREATE TEMP TABLE mine AS SELECT 'e3' AS head, 'r0' AS relation")
    assert {row[0] for row in rows(trained, "FROM predict('kg.m', mine)")} == {"e3"}
    trained.sql("BEGIN; CREATE TABLE uncommitted AS SELECT 'e4' AS head, 'r0' AS relation")
    assert {row[0] for row in rows(trained, "FROM predict('kg.m', uncommitted)")} == {"e4"}
    trained.sql("ROLLBACK; DROP TABLE mine; SET VARIABLE who = 'e5'")
    asked = "SELECT getvariable('who') AS head, 'r0' AS relation"
    assert {row[0] for row in rows(trained, f"FROM predict('kg.m', ({asked}))")} == {"e5"}


def test_rows_of_a_function_can_be_stored(session: Session) -> None:
    session.sql(f"CREATE MODEL m {TYPE} AS {QUERY}; CREATE TABLE kept AS FROM predict('m', questions, k := 2)")
    assert rows(session, "SELECT count(*) FROM kept") == [(2,)]
    session.sql("INSERT INTO kept FROM predict('m', (SELECT 'e2' AS head, 'r1' AS relation), k := 3)")
    session.sql("COPY (FROM predict('m', questions, k := 2)) TO 'kept.parquet'")
    assert rows(session, "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM 'kept.parquet')") == [(5, 2)]
    with pytest.raises(SqlError, match="a view or macro cannot contain predict"):
        session.sql("CREATE VIEW v AS FROM predict('m', questions)")


def test_an_error_while_rows_are_computed_is_placed(session: Session) -> None:
    session.sql(f"CREATE MODEL m {TYPE} AS {QUERY}")
    with pytest.raises(InputError) as caught:
        session.sql("CREATE TABLE x AS FROM evaluate('m', (SELECT 'a' AS head, '' AS relation, '' AS tail LIMIT 0))")
    assert caught.value.place is not None
    assert caught.value.place.column == 24


# Files


def test_nothing_runs_when_a_later_statement_is_wrong(session: Session) -> None:
    before = rows(session, "SHOW TABLES")
    write(f"CREATE TABLE x AS FROM triples; CREATE MODEL m {TYPE} AS {QUERY}; SELECT nope FROM x; FROM y")
    with pytest.raises(SqlError, match="nope") as caught:
        session.run_file("job.sql")
    assert [error.message for error in caught.value.others] == ["Table with name y does not exist!"]
    assert rows(session, "SHOW TABLES") == before
    assert rows(session, "FROM runs") == []


def test_a_file_runs_and_shows_its_results(session: Session) -> None:
    write(
        f"CREATE OR REPLACE TABLE mine AS {QUERY};\n"
        f"CREATE OR REPLACE MODEL m {TYPE} AS FROM mine;\n"
        "CREATE OR REPLACE TABLE answers AS FROM predict('m', questions, k := 2);\n"
        "INSERT INTO answers FROM predict('m', questions, k := 1);\n"
        "SELECT count(*) FROM answers;\n"
        f"EXPLAIN CREATE MODEL n {TYPE} AS FROM mine;\n"
        "DROP MODEL IF EXISTS nobody;\n"
    )
    shown: list[Any] = []
    made = session.run_file("job.sql", show=lambda _, result: shown.append(result))
    assert [(each.model, each.status) for each in made] == [("m", "done")]
    assert len(shown) == 7
    assert shown[4].fetchall() == [(3,)]
    assert [each.status for each in session.run_file("job.sql")] == ["unchanged"]
    assert [each.version for each in session.run_file("job.sql", force=True)] == [2]


def test_what_only_the_run_can_know_is_not_checked(session: Session) -> None:
    write(
        "COPY triples TO 'later.parquet';\n"
        "ATTACH 'other.duckdb' AS other;\n"
        "CREATE TABLE other.t AS FROM 'later.parquet';\n"
        "CREATE TEMP TABLE mine AS FROM other.t;\n"
        f"CREATE MODEL m {TYPE} AS FROM mine;\n"
        "CREATE TABLE answers AS FROM predict('m', questions);\n"
    )
    assert len(session.run_file("job.sql")) == 1
    assert rows(session, "SELECT count(*) FROM answers") == [(10,)]


def test_settings_variables_and_transactions_of_a_file(session: Session) -> None:
    session.sql("COPY triples TO 'triples.parquet'; SET VARIABLE path = 'nowhere.parquet'")
    text = (
        "SET VARIABLE path = 'triples.parquet'; SET threads = 1; CREATE SCHEMA s; USE s;\n"
        "BEGIN; CREATE TABLE t AS FROM read_parquet(getvariable('path')); COMMIT;\n"
        f"CREATE MODEL m {TYPE} AS SELECT * FROM t;\n"
    )
    threads = rows(session, "SELECT current_setting('threads')")
    write(text + "SELECT nope;")
    with pytest.raises(SqlError, match="nope"):
        session.run_file("job.sql")
    assert rows(session, "SELECT getvariable('path'), current_schema()") == [("nowhere.parquet", "main")]
    assert rows(session, "SELECT current_setting('threads')") == threads
    write(text)
    session.run_file("job.sql")
    assert rows(session, "SELECT getvariable('path'), current_schema()") == [("triples.parquet", "s")]


def test_a_file_that_fails_in_its_transaction_leaves_none_open(session: Session) -> None:
    write("BEGIN; INSERT INTO questions VALUES ('a', 'b'); SELECT error('late'); COMMIT;")
    with pytest.raises(SqlError, match="late"):
        session.run_file("job.sql")
    assert rows(session, "SELECT count(*) FROM questions") == [(1,)]


def test_select(session: Session) -> None:
    write(f"CREATE MODEL a {TYPE} AS {QUERY}; CREATE MODEL b {TYPE} AS {QUERY};")
    assert [each.model for each in session.run_file("job.sql", select=["B"])] == ["b"]
    with pytest.raises(UserError, match="no statement creates a model c"):
        session.run_file("job.sql", select=["c"])


def test_resume_goes_to_the_run_of_the_model(session: Session) -> None:
    write(f"CREATE MODEL a {TYPE} AS {QUERY}; CREATE OR REPLACE MODEL b {TYPE} AS {QUERY};")
    runs = {each.model: each.run for each in session.run_file("job.sql")}
    with pytest.raises(UserError, match="is done") as caught:
        session.run_file("job.sql", resume=runs["b"])
    assert caught.value.place is not None
    assert caught.value.place.text[caught.value.place.start :].startswith("CREATE OR REPLACE MODEL b")
    write(f"CREATE MODEL a {TYPE} AS {QUERY};", "other.sql")
    with pytest.raises(UserError, match="trained b, which the file does not create"):
        session.run_file("other.sql", resume=runs["b"])
    with pytest.raises(UserError):
        session.run_file("job.sql", resume="nobody")


def test_plan_counts_rows_of_tables_the_file_will_make(session: Session) -> None:
    write(
        "CREATE OR REPLACE TABLE triples AS\n"
        "  SELECT 'x' || i AS head, 'r' AS relation, 'y' || i AS tail FROM range(77) t(i);\n"
        f"CREATE OR REPLACE MODEL m {TYPE} AS FROM triples;"
        "CREATE OR REPLACE TABLE answers AS FROM predict('m', questions);"
    )
    (planned,) = session.plan_file("job.sql")
    assert (planned.name, planned.family, planned.unchanged) == ("m", "distmult", False)
    assert planned.plan is not None
    assert "77 rows" in planned.plan.text(Machine(1e9))
    assert rows(session, "SELECT count(*) FROM triples") == [(12,)]
    assert rows(session, "FROM models") == []
    session.run_file("job.sql")
    assert [each.unchanged for each in session.plan_file("job.sql")] == [True]


def test_a_missing_gpu_is_refused_before_anything_starts(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    create = f"CREATE MODEL m TYPE distmult OPTIONS (dim = 4, device = 'cuda') AS {QUERY}"
    write(f"CREATE TABLE before AS SELECT 1; {create}")
    for refused in (
        lambda: session.plan_file("job.sql"),
        lambda: session.run_file("job.sql"),
        lambda: session.sql(f"EXPLAIN {create}"),
    ):
        with pytest.raises(OptionError, match="torch finds no GPU") as caught:
            refused()
        assert caught.value.exit_code == 2
        assert caught.value.place is not None
    assert rows(session, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'before'") == [(0,)]
    assert rows(session, "FROM runs") == []


@pytest.mark.parametrize(("name", "value"), [("dim", "63"), ("path", "x")])
def test_a_wrong_override_is_one_error(session: Session, name: str, value: str) -> None:
    write("".join(f"CREATE MODEL m{i} TYPE complex AS {QUERY};" for i in range(3)))
    with pytest.raises(OptionError) as caught:
        session.plan_file("job.sql", overrides={name: value})
    assert caught.value.others == ()


def test_plan_refuses_a_horizon_beyond_the_test_split(session: Session) -> None:
    create = "CREATE MODEL m TYPE net3 OPTIONS (time = 't', horizon = 30) AS FROM series"
    made = "CREATE TABLE series AS SELECT t, sin(t) AS value FROM range(100) a(t);"
    write(made + create)
    with pytest.raises(OptionError, match="horizon = 30 is longer than the test split") as caught:
        session.plan_file("job.sql")
    assert caught.value.place is not None
    session.sql(made)
    with pytest.raises(OptionError, match="horizon = 30 is longer than the test split"):
        session.sql(f"EXPLAIN {create}")
    write("INSERT INTO series SELECT t, sin(t) FROM range(100, 500) a(t);" + create)
    (planned,) = session.plan_file("job.sql")  # a plan does not know the new rows
    assert planned.plan is None


DHAN = (
    "OPTIONS (target = 'word', metapaths = {'x': ['likes', '-liks']})"
    " AS (person AS (FROM persons), likes AS (FROM likes))"
)
UNUSABLE = {
    "an option that names no table": (
        "CREATE TABLE persons AS SELECT i AS id, ['a'] AS words, 'w' || i % 2 AS word FROM range(40) t(i);"
        f"CREATE TABLE likes AS SELECT i AS source, i + 1 AS target FROM range(30) t(i);"
        f"CREATE MODEL m TYPE dhan {DHAN};",
        "the metapath x names liks",
    ),
    "an option that leaves no data": (
        "CREATE TABLE s AS SELECT DATE '2020-01-01' + t::INT AS t, sin(t) AS value FROM range(99) a(t);"
        "CREATE MODEL m TYPE net3 OPTIONS (start = '2030-01-01') AS FROM s;",
        "there is no reading at or after start",
    ),
    "a query without rows": (
        f"CREATE TABLE few AS FROM triples LIMIT 0; CREATE MODEL m {TYPE} AS FROM few;",
        "the query has no rows",
    ),
    "a query that fails": (
        f"CREATE MODEL m {TYPE} AS SELECT head, relation, error('late') AS tail FROM triples;",
        "late",
    ),
    "a query that fails, after other tables were filled": (
        f"CREATE TABLE other (a INT); INSERT INTO other VALUES (1); CREATE TABLE third AS SELECT 1 AS x;"
        f"CREATE MODEL m {TYPE} AS SELECT head, relation, error('late') AS tail FROM triples;",
        "late",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_plan_reports_what_a_run_would(session: Session, case: str) -> None:
    job, message = UNUSABLE[case]
    write(job)
    with pytest.raises(UserError, match=message) as planned:
        session.plan_file("job.sql")
    with pytest.raises(UserError, match=message) as ran:
        session.run_file("job.sql")
    assert planned.value.render() == ran.value.render()
    assert planned.value.place is not None


FILLED = "CREATE TABLE a AS FROM triples LIMIT 0; INSERT INTO a FROM triples;"
LEFT_TO_THE_RUN = {
    "a table that is filled": "CREATE TABLE t AS FROM triples LIMIT 0; INSERT INTO t FROM triples;",
    "a table from a filled one": f"{FILLED} CREATE TABLE t AS FROM a;",
    "a view of a filled table": f"{FILLED} CREATE VIEW t AS FROM a;",
    "a prepared statement": "CREATE TABLE t AS FROM triples LIMIT 0;"
    "PREPARE p AS INSERT INTO t FROM triples; EXECUTE p;",
    "a file": "COPY triples TO 't.parquet'; CREATE VIEW t AS FROM 't.parquet';",
    "answers": f"CREATE MODEL a {TYPE} AS {QUERY};"
    "CREATE TABLE t AS SELECT head, relation, tail FROM predict('a', questions, k := 5);",
    "a variable": "CREATE TABLE a AS SELECT 0 AS n; UPDATE a SET n = 9; SET VARIABLE n = (SELECT max(n) FROM a);"
    "CREATE TABLE t AS FROM triples LIMIT getvariable('n');",
}


@pytest.mark.parametrize("case", LEFT_TO_THE_RUN)
def test_plan_leaves_what_the_file_creates_to_the_run(session: Session, case: str) -> None:
    write(f"{LEFT_TO_THE_RUN[case]} CREATE MODEL m {TYPE} AS FROM t; CREATE MODEL same {TYPE} AS {QUERY};")
    *_, planned, same = session.plan_file("job.sql")
    assert (planned.name, planned.unchanged) == ("m", False)
    assert planned.plan is None or "no rows" not in planned.plan.text(Machine(1e9))
    assert same.plan is not None
    assert session.run_file("job.sql")[-1].status == "done"


def test_files_that_cannot_be_read(session: Session) -> None:
    with pytest.raises(UserError, match=r"cannot read nowhere\.sql: No such file"):
        session.run_file("nowhere.sql")
    with pytest.raises(UserError, match="cannot read"):
        session.run_file(".")
    Path("latin.sql").write_bytes("SELECT 1;\nSELECT 'ü'".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.sql:2 is not UTF-8"):
        session.run_file("latin.sql")


def test_an_empty_file_does_nothing(session: Session) -> None:
    write("-- nothing yet\n")
    assert session.run_file("job.sql") == []
    assert session.plan_file("job.sql") == []


UNTESTED = {
    "distmult": f"{TYPE[:-1]}, test_fraction = 0, valid_fraction = 0.3) AS {QUERY}",
    "net3": "TYPE net3 OPTIONS (time = 't', epochs = 1, split = [0.8, 0.2, 0]) AS SELECT t, sin(t) AS value "
    "FROM range(200) a(t)",
}


@pytest.mark.parametrize("name", UNTESTED)
def test_the_split_that_was_measured_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    create, lines = f"CREATE MODEL m {UNTESTED[name]}", io.StringIO()
    with connect("kg.duckdb", emit=plain_sink(lines)) as session:
        session.sql(TRIPLES)
        made, again = session.sql(create), session.sql(create)
        folder = session.workspace.folder
    assert isinstance(made, ModelResult)
    assert isinstance(again, ModelResult)
    assert (made.status, made.split, again.status, again.split) == ("done", "valid", "unchanged", "valid")
    assert re.search(r"; (filtered )?valid (MRR|RMSE) ", repr(made))
    assert "<th>measured on</th>" in made._repr_html_()
    assert re.search(r"m is up to date \(version 1\) · valid (MRR|RMSE) ", lines.getvalue())
    print_models(folder, as_json=False)
    print_model(folder, "m", None, as_json=False)
    shown = capsys.readouterr().out
    assert re.search(r" valid (MRR|RMSE) ", shown)
    assert not re.search(r"test (MRR|RMSE|cells)", shown)
    history = read_history(folder / "runs" / str(made.run))
    assert " valid " in title(history, family(name).metrics)


# The session itself


def test_close_twice_and_repr() -> None:
    session = graphlearn.connect("kg.duckdb")
    assert "kg.duckdb" in repr(session)
    session.close()
    session.close()


def test_nothing_is_leaked_or_printed_at_exit() -> None:
    code = (
        "import graphlearn\n"
        "s = graphlearn.connect()\n"
        "print(s.sql('SELECT 1 AS a'))\n"
        "r = s.sql('FROM models')\n"
        "try: s.sql('SELECT nope')\n"
        "except graphlearn.errors.SqlError as e: print(e)\n"
        "s.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import graphlearn.errors\n" + code], capture_output=True, text=True, check=True
    )
    assert "did you mean" not in done.stderr
    assert done.stderr == ""


def test_all_errors_are_ours(trained: Session) -> None:
    for text in ("SELECT 1 +", "FROM predict('nobody', questions)", "FROM range(1, 2, 3, 4, 5)", "PRAGMA nothing"):
        with pytest.raises(GraphLearnError) as caught:
            trained.sql(text)
        assert caught.value.place is not None


@pytest.mark.parametrize("ending", ["del session", "1 / 0"])
def test_a_script_that_closes_nothing_prints_no_errors(ending: str) -> None:
    """DuckDB's Python client prints errors about relations over Python objects that still exist at exit."""
    program = f"""
import graphlearn
session = graphlearn.connect("kg.duckdb")
session.sql("CREATE OR REPLACE TABLE questions AS SELECT 'e1' AS head, 'r0' AS relation")
session.sql("CREATE MODEL m {TYPE} AS SELECT 'e' || i AS head, 'r0' AS relation, 'e1' AS tail FROM range(9) t(i)")
try:
    session.sql("FROM predict('m', nothing)")
except Exception as error:
    kept = error
answers = session.sql("FROM predict('m', questions)")
print(answers.fetchall())
again = session.sql("FROM predict('m', questions)")
{ending}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "('e1', 'r0'," in done.stdout
    assert "nanobind" not in done.stderr


def test_a_model_created_under_a_dropped_name_is_the_new_one(session: Session) -> None:
    session.sql(f"CREATE MODEL m {TYPE} AS {QUERY}")
    before = rows(session, "FROM predict('m', questions)")
    session.sql(f"DROP MODEL m; CREATE MODEL m {TYPE} AS SELECT head || '!' AS head, relation, tail FROM triples")
    answers = rows(session, "SELECT DISTINCT key FROM embeddings('m') WHERE key LIKE '%!'")
    assert len(answers) == 12
    assert before


UNKNOWN = "(SELECT unnest(['e1', 'x', 'x']) AS head, 'r0' AS relation, 'e8' AS tail)"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            f"FROM predict('KG.m', (SELECT head, relation FROM {UNKNOWN}))",
            "predict: kg.m has never seen a key of 2 of 3 questions ('x'); their rank and score are NULL",
        ),
        (
            "FROM predict('kg.m', (SELECT 'e1' AS tail, repeat('w', 99) AS relation))",
            f"predict: kg.m has never seen a key of 1 of 1 questions ('{'w' * 38}…); their rank and score are NULL",
        ),
        (
            "FROM similar('kg.m', ['e1', NULL])",
            "similar: kg.m has never seen 1 of 2 keys (NULL); their neighbour is NULL",
        ),
        (
            f"FROM evaluate('kg.m', (FROM {UNKNOWN} LIMIT 2))",
            "evaluate: kg.m has never seen a key of 1 of 2 triples ('x'); the metrics leave them out",
        ),
        ("FROM predict('kg.m', (SELECT 'e1' AS head, 'r0' AS relation, NULL AS tail))", None),
    ],
)
def test_unknown_keys_are_reported_once(trained: Session, sql: str, said: str | None) -> None:
    events: list[Event] = []
    for emit in (events.append, None):
        workspace = trained.workspace
        asking = Session(workspace, emit=emit)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows(asking, f"SELECT 1;\n{sql}")
        found = [(str(w.message), w.filename, w.lineno) for w in caught]
        assert found == ([] if emit or not said else [(said, "<sql>", 2)])
    assert [(e.level, e.message) for e in events if isinstance(e, Note)] == ([("warning", said)] if said else [])


@pytest.mark.parametrize(
    "key",
    [
        "md5(i::VARCHAR)::UUID",
        "(i + 170141183460469231731687303715884105000)::HUGEINT",
        "i::BIGNUM",
        "i::INTEGER::BIT",
        "{'a': i::HUGEINT}",
        "[i, NULL]",
        "('\\x80\\xFF' || i)::BLOB",
        "TIMETZ '10:00:00+02' + INTERVAL (i) MINUTE",
        "epoch_ms(i)::TIMESTAMP_MS",
        "repeat('long', 20000) || i",
    ],
)
def test_keys_of_unusual_types_are_returned_unchanged(trained: Session, key: str) -> None:
    keys = f"(SELECT {key} AS h FROM range(20) t(i))"
    graph = f"(SELECT h AS head, 'r' AS relation, lead(h, 1, h) OVER () AS tail FROM {keys})"
    trained.sql(f"CREATE OR REPLACE TEMP TABLE odd AS FROM {graph}; CREATE OR REPLACE MODEL strange {TYPE} AS FROM odd")
    asked = "(SELECT head, relation FROM odd)"
    same = "bool_and(a.head IN (SELECT head FROM odd))"
    found = rows(trained, f"SELECT count(*), count(tail), {same} FROM predict('strange', {asked}, k := 1) AS a")
    assert found == [(20, 20, True)]
    near = "SELECT count(*), bool_and(key::VARCHAR IN (SELECT head::VARCHAR FROM odd)), count(neighbour)"
    assert rows(trained, f"{near} FROM similar('strange', (SELECT head FROM odd), k := 1)") == [(20, True, 20)]
    assert rows(trained, "SELECT count FROM evaluate('strange', odd) WHERE relation IS NULL AND side = 'both'") == [
        (40,)
    ]
    trained.sql("DROP MODEL strange")


def test_a_database_that_the_file_attaches_can_be_used() -> None:
    job = """
        ATTACH 'other.duckdb' AS other;
        USE other;
        CREATE TABLE facts AS SELECT i AS head, 'r' AS relation, i * 7 % 20 AS tail FROM range(40) t(i);
        SELECT count(*) FROM facts;
        USE kg;
    """
    with connect("kg.duckdb", emit=silent) as session:
        session.run_file(write(job))
        assert rows(session, "SELECT count(*) FROM other.facts") == [(40,)]


def test_an_arrow_reader_is_refused_as_the_input_of_a_model(session: Session) -> None:
    table = pa.table({"head": [1, 2, 3], "relation": [1, 1, 1], "tail": [2, 3, 1]})
    reader = table.to_reader()
    reader.read_next_batch()
    with pytest.raises(InputError, match="reader is an Arrow reader, which can be read only once") as caught:
        session.sql(f"CREATE MODEL m {TYPE} AS FROM reader")
    assert caught.value.help == "read it into a table before: reader = reader.read_all()"
