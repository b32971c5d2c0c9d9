"""The system tables: live, with stable types, and not broken by any content of the folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from graphlearn.catalog import catalog_tables, parse_time, schemas
from graphlearn.errors import SqlError
from graphlearn.events import Evaluated, Event, JobStarted, Note, Step, silent
from graphlearn.jobs.registry import families
from graphlearn.session import connect
from graphlearn.show import moment, print_models, print_runs
from graphlearn.storage.artifacts import ArtifactStore
from graphlearn.storage.runs import RunFolder

TYPES = {
    "models": {"model": "VARCHAR", "version": "BIGINT", "created_at": "TIMESTAMP WITH TIME ZONE", "mrr": "DOUBLE"},
    "model_versions": {"is_current": "BOOLEAN", "options": "JSON", "bytes": "BIGINT"},
    "training_info": {"epoch": "BIGINT", "loss": "DOUBLE", "metrics": "JSON"},
    "runs": {"run": "VARCHAR", "started_at": "TIMESTAMP WITH TIME ZONE", "resumable": "BOOLEAN"},
}


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[Any]:
    connection = duckdb.connect()
    for name, table in catalog_tables(tmp_path).items():
        connection.register(name, table)
    yield lambda query: connection.execute(query).fetchall()
    connection.close()


def put(folder: Path, model: str, manifest: dict[str, Any]) -> None:
    with ArtifactStore(folder).stage(model) as staged:
        (staged.path / "weights.bin").write_bytes(b"12345")
        staged.commit(manifest)


def started(at: float, resumed_at: int | None = None) -> Event:
    return JobStarted(run="r", model="m", family="f", folder="", options={}, resumed_at=resumed_at, time=at)


def step(at: float, number: int, epoch: int, loss: float = 0.0, *, done: bool = True) -> Event:
    return Step(
        time=at, step=number, steps=10, epoch=epoch, epochs=9, loss=loss, examples_per_second=5.0, eta_seconds=1.0,
        unit="triples", epoch_done=done,
    )  # fmt: skip


def evaluated(at: float, epoch: int, mrr: float, split: str = "valid") -> Event:
    return Evaluated(time=at, epoch=epoch, split=split, metrics={"mrr": mrr, "hits_at_10": 0.5}, best=True)


def test_empty_tables_have_their_types(sql: Any) -> None:
    columns = schemas(families())
    assert set(columns) == set(TYPES)
    for name, types in TYPES.items():
        assert sql(f"SELECT count(*) FROM {name}") == [(0,)]
        described = {row[0]: row[1] for row in sql(f"DESCRIBE {name}")}
        assert list(described) == columns[name].names
        assert types.items() <= described.items()


def test_models_and_versions_are_live(sql: Any, tmp_path: Path) -> None:
    counts = {"entities": 7, "relations": 2, "train": 10, "valid": 1, "test": 2}
    put(
        tmp_path, "kg.Medical", {"family": "complex", "options": {"dim": 3}, "metrics": {"mrr": 0.25}, "counts": counts}
    )
    assert sql("SELECT model, family, version, versions, mrr, entities, test_triples, bytes FROM models") == [
        ("kg.Medical", "complex", 1, 1, 0.25, 7, 2, 5)
    ]
    metrics = {"valid": {"mrr": 0.1}, "test": {"mrr": 0.5, "hits_at_1": 0.25}}
    put(tmp_path, "kg.Medical", {"family": "rotate", "metrics": metrics, "run": "r1", "seconds": 2})
    put(tmp_path, "b", {})
    assert sql("SELECT model, family, version, versions, mrr, hits_at_1, run, seconds FROM models ORDER BY model") == [
        ("b", None, 1, 1, None, None, None, None),
        ("kg.Medical", "rotate", 2, 2, 0.5, 0.25, "r1", 2.0),
    ]
    assert sql("SELECT version, is_current, options->>'dim' FROM model_versions WHERE model ILIKE 'kg.medical'") == [
        (1, False, "3"),
        (2, True, None),
    ]
    assert sql("SELECT count(*) FROM models WHERE created_at > now() - INTERVAL 1 HOUR") == [(2,)]
    ArtifactStore(tmp_path).drop("kg.medical")
    assert sql("SELECT model FROM model_versions") == [("b",)]


def test_damage_is_a_column(sql: Any, tmp_path: Path) -> None:
    put(tmp_path, "good", {"family": "f"})
    put(tmp_path, "bad", {"family": "f"})
    (tmp_path / "models" / "bad" / "1" / "manifest.json").write_text("{")
    found = dict(sql("SELECT model, damage FROM models"))
    assert found["good"] is None
    assert "manifest.json is unreadable" in found["bad"]


def test_values_of_unexpected_types_show_as_null(sql: Any, tmp_path: Path) -> None:
    put(
        tmp_path,
        "m",
        {
            "family": 3,
            "metrics": {"mrr": "x"},
            "counts": [1],
            "run": {},
            "seconds": True,
            "statement": 1,
            "options": [1],
        },
    )
    assert sql("SELECT family, mrr, entities, run, seconds, statement, options::VARCHAR FROM models") == [
        (None, None, None, None, None, None, "[1]")
    ]
    run = RunFolder.create(tmp_path, "m", "", {})
    run.update(epoch="x", loss=[1], pid=1 << 70, started_at="yesterday", finished_at=1e99, metrics=3)
    assert sql("SELECT epoch, loss, pid, started_at IS NULL, finished_at IS NULL, metrics FROM runs") == [
        (None, None, None, True, True, None)
    ]


def test_runs(sql: Any, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "m", "", {})
    run.update(family="complex", epoch=2, epochs=9, eta_seconds=5.0, loss=float("nan"))
    assert sql("SELECT run, model, family, status, epoch, eta_seconds, loss, resumable, seconds < 60 FROM runs") == [
        (run.id, "m", "complex", "running", 2, 5.0, None, False, True)
    ]
    run.update(status="done", metrics={"mrr": 0.5}, version=1)
    assert sql("SELECT status, version, mrr, eta_seconds, finished_at >= started_at FROM runs") == [
        ("done", 1, 0.5, None, True)
    ]


def test_very_large_metrics_of_runs_are_printed(sql: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder.create(tmp_path, "m", "", {}).update(family="net3", status="done", metrics={"rmse": 7.4e27})
    assert sql("SELECT rmse FROM runs") == [(7.4e27,)]
    print_runs(tmp_path, None, as_json=False)
    assert re.search(r"RMSE .*\n.*\n.* 7\.4e\+27 ", capsys.readouterr().out)


def test_training_info_is_live(sql: Any, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "m", "", {})
    for event in (started(100), step(101, 5, 1, done=False), step(102, 10, 1, 0.5), evaluated(103, 1, 0.25)):
        run.append(event)
    columns = "kind, epoch, step, loss, split, mrr, hits_at_10, best, seconds"
    assert sql(f"SELECT {columns} FROM training_info") == [
        ("epoch", 1, 10, 0.5, None, None, None, None, 2.0),
        ("evaluation", 1, 10, None, "valid", 0.25, 0.5, True, 3.0),
    ]
    run.append(step(104, 10, 2))
    run.append(Note(message="x"))
    assert sql("SELECT count(*), min(model), min(run) FROM training_info") == [(3, "m", run.id)]


@pytest.mark.parametrize("resumed_at", [10, None])
def test_steps_lost_in_a_crash_are_left_out(sql: Any, tmp_path: Path, resumed_at: int | None) -> None:
    run = RunFolder.create(tmp_path, "m", "", {})
    for event in (
        started(100),
        step(110, 10, 1),
        evaluated(111, 1, 0.1),
        step(120, 10, 2, 9.0),
        evaluated(121, 2, 0.9),
        step(130, 10, 3, 9.0),
        started(200, resumed_at),  # from the checkpoint at step 10
        step(205, 5, 2, done=False),
        step(210, 10, 2, 2.0),
        evaluated(211, 2, 0.2),
    ):
        run.append(event)
    rows = sql("SELECT kind, epoch, step, loss, mrr FROM training_info ORDER BY time")
    assert rows == [
        ("epoch", 1, 10, 0.0, None),
        ("evaluation", 1, 10, None, 0.1),
        ("epoch", 2, 10, 2.0, None),
        ("evaluation", 2, 10, None, 0.2),
    ]
    if resumed_at is not None:
        assert sql("SELECT max(seconds) FROM training_info") == [(22.0,)]  # 11 before, 11 after


def test_damaged_event_lines_are_ignored(sql: Any, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "m", "", {})
    run.append(step(1, 1, 1))
    run.close()
    with open(run.path / "events.jsonl", "a") as file:
        file.write('[1]\nnull\n{"event": "step"}\n' + "[" * 100_000 + "\n")
        file.write('{"event": "step", "time": 1, "epoch": "x", "steps": [], "step": {}}\n')
        file.write('{"event": "evaluated", "time": 2, "metrics": 3}\n{"event": "st')
    assert sql("SELECT kind FROM training_info") == [("epoch",), ("evaluation",)]


def test_columns_are_those_of_the_kinds_of_models_in_the_workspace(tmp_path: Path) -> None:
    assert {"mrr", "z_rmse", "entities", "freq"} <= set(catalog_tables(tmp_path)["models"].schema.names)
    put(tmp_path, "m", {"family": "complex"})
    for name, table in catalog_tables(tmp_path).items():
        assert "mrr" in table.schema.names
        assert "z_rmse" not in table.schema.names
        assert ("entities" in table.schema.names) == (name in ("models", "model_versions"))
    assert {"mrr_low", "mrr_high"} <= set(catalog_tables(tmp_path)["runs"].schema.names)
    RunFolder.create(tmp_path, "n", "", {}).update(family="net3")
    assert {"mrr", "z_rmse"} <= set(catalog_tables(tmp_path)["runs"].schema.names)
    put(tmp_path, "unknown", {"family": "not installed"})
    assert "macro_f1" not in catalog_tables(tmp_path)["models"].schema.names
    assert "macro_f1" in catalog_tables(tmp_path, ["dhan"])["models"].schema.names


def test_a_session_follows_the_kinds_of_models_in_its_workspace(tmp_path: Path) -> None:
    triples = "SELECT i AS head, 'r' AS relation, i * 7 % 20 AS tail FROM range(40) t(i)"
    series = "SELECT DATE '2024-01-01' + t::INTEGER AS ts, sin(t) AS value FROM range(60) a(t)"
    (tmp_path / "job.sql").write_text(
        f"CREATE MODEL n TYPE net3 OPTIONS (epochs = 1, window = 3) AS {series};"
        "CREATE TABLE seen AS SELECT mrr, z_rmse FROM models;"
    )
    with connect(tmp_path / "kg.duckdb", emit=silent) as session:
        session.sql(f"CREATE MODEL m TYPE distmult OPTIONS (dim = 4, epochs = 1) AS {triples}")
        with pytest.raises(SqlError, match='"z_rmse" not found') as caught:
            session.sql("SELECT z_rmse FROM models")
        assert caught.value.help == "z_rmse is a column of models of TYPE net3, and this workspace has none"
        with pytest.raises(SqlError, match='column named "freq"') as caught:
            session.sql("SELECT m.freq FROM models m")
        assert caught.value.help == "freq is a column of models of TYPE net3, and this workspace has none"
        with pytest.raises(SqlError, match='"freq" not found') as caught:
            session.sql("SELECT freq FROM runs")
        assert "TYPE net3" not in str(caught.value.help)
        session.run_file(tmp_path / "job.sql")
        rows = session.sql("SELECT count(mrr), count(z_rmse) FROM models")
        assert rows is not None
        assert (
            rows.fetchall()
            == session.connection.sql("SELECT count(mrr), count(z_rmse) FROM seen").fetchall()
            == [(1, 1)]
        )  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00", "0001-01-01", 10**400, 1e11]
)
def test_a_time_that_no_zone_can_show_is_unknown(sql: Any, tmp_path: Path, time: object) -> None:
    assert (moment(parse_time(time)) == "") == isinstance(time, str | int)
    put(tmp_path, "m", {"family": "complex"})
    path = tmp_path / "models" / "m" / "1" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created_at": time}))
    run = RunFolder.create(tmp_path, "m", "", {})
    run.update(started_at=time, status="failed")
    print_models(tmp_path, as_json=False)
    print_runs(tmp_path, None, as_json=False)
    known = isinstance(time, float)
    assert sql("SELECT created_at IS NOT NULL FROM models") == [(known,)]
    assert sql("SELECT started_at IS NOT NULL FROM runs") == [(known,)]


def test_events_of_absurd_values_hide_no_run(sql: Any, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "m", "", {})
    run.append(step(1, 1, 1))
    run.close()
    with open(run.path / "events.jsonl", "a") as file:
        file.write('{"event": "evaluated", "time": 1, "epoch": []}\n')
        file.write('{"event": "evaluated", "time": 1' + "0" * 400 + ', "epoch": 2}\n')
        file.write('{"event": "evaluated", "time": 2, "epoch": 3, "split": "\\ud800"}\n')
        file.write('{"event": "evaluated", "time": 2, "epoch": 4, "metrics": ' + '{"a":' * 900 + "1" + "}" * 901 + "\n")
    rows = sql("SELECT kind, epoch, split FROM training_info WHERE epoch IS NOT NULL ORDER BY epoch")
    assert rows == [("epoch", 1, None), ("evaluation", 3, r"\ud800"), ("evaluation", 4, None)]
